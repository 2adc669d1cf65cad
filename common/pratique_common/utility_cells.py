"""What a site counts to tell how useful a candidate is: hold-out patients, by outcome and by risk.

The risk is what a model says that was trained on the candidate. There is one block of cells for all
patients and one for each category of the study's ``subgroups``. Cuts are quantiles of the
candidate's own risks, so they are public. Where rows have images there is one block more: what a
model says that was trained on the public prior alone, which the candidate has to beat.
"""

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.rules import is_missing
from pratique_common.schema import TableSchema

if TYPE_CHECKING:  # it brings scikit-learn, and ledgers are shown without
    from pratique_common.utility import Columns, OutcomeModel

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SCORE_CELLS = 8
BLOCK_CELLS = 2 * SCORE_CELLS
"""Patients without the outcome, then with it, highest risk first: more cells would add more noise
to an AUC than they add resolution."""


def groups_of(schema: TableSchema) -> list[tuple[str, str | None]]:
    """Return column and category of every group; None is missing."""
    found: list[tuple[str, str | None]] = []
    for name in schema.subgroups:
        column = schema.column(name)
        assert isinstance(column, CategoricalColumn)  # the schema sees to it
        found += [(name, level) for level in column.levels]
        found += [(name, None)] if column.can_be_missing else []
    return found


def num_utility_cells(schema: TableSchema) -> int:
    """Return how many cells a site counts: none without a target."""
    if schema.target is None:
        return 0
    return BLOCK_CELLS * (1 + len(groups_of(schema)) + has_prior(schema))


def utility_sensitivity(schema: TableSchema) -> float:
    """Return the L2 sensitivity: a patient is in one cell of all, in one of every subgroup, and in
    one of the prior's block if there is one."""
    return sqrt(1 + len(schema.subgroups) + has_prior(schema))


def has_prior(schema: TableSchema) -> bool:
    """Return whether there is a public prior to compare with."""
    return schema.image is not None


def risk_cuts(model: "OutcomeModel", candidate: "Columns") -> Float64Array:
    """Return the cuts between cells, (SCORE_CELLS - 1,)."""
    return np.quantile(model.risk(candidate), np.linspace(0, 1, SCORE_CELLS + 1)[1:-1])


def risk_cell(risk: Float64Array, cuts: Float64Array) -> IntArray:
    """Return the cell of each risk, the highest first."""
    return np.asarray(SCORE_CELLS - 1 - np.searchsorted(cuts, risk, side="right"), np.int64)


def utility_counts(
    model: "OutcomeModel",
    candidate: "Columns",
    held_out: "Columns",
    *,
    prior: "tuple[OutcomeModel, Columns] | None" = None,
) -> IntArray:
    """Count held-out patients, (num_utility_cells,). Give one row a patient.

    A patient whose outcome is missing is in no cell.

    Args:
        model: trained on the candidate.
        candidate: its rows.
        held_out: of patients.
        prior: a model that was trained on rows of the prior, and these.
    """
    assert model.schema.target is not None
    known = ~is_missing(held_out[model.schema.target])
    cell = _cells(model, candidate, held_out)
    blocks = [np.bincount(cell, minlength=BLOCK_CELLS)]
    for name, level in groups_of(model.schema):
        inside = held_out[name][known] == level
        blocks.append(np.bincount(cell[inside], minlength=BLOCK_CELLS))
    if prior is not None:
        blocks.append(np.bincount(_cells(*prior, held_out), minlength=BLOCK_CELLS))
    return np.concatenate(blocks)


def _cells(model: "OutcomeModel", trained_on: "Columns", held_out: "Columns") -> IntArray:
    label, risk = model.auc_inputs(held_out)
    return risk_cell(risk, risk_cuts(model, trained_on)) + SCORE_CELLS * label
