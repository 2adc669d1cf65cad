"""The whole evaluation, as data: ``evaluation.json``, from which its page is made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pratique_common.columns import CategoricalColumn
from pratique_common.errors import UsageError
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import Table, read_table
from pratique_privacy.site_utility import LEAST_OF_EACH_OUTCOME, LEAST_PATIENTS
from pratique_server.evaluation.fidelity import fidelity
from pratique_server.evaluation.rows import Rows
from pratique_server.evaluation.subgroups import subgroups
from pratique_server.evaluation.usefulness import usefulness
from pratique_server.file_digests import file_digests
from pratique_server.other_patients import require_other_patients

_FIGURE_BINS = 20


def evaluate_files(
    study: StudySpec, files: Mapping[str, Path], *, by: Sequence[str] | None, created: str
) -> dict[str, Any]:
    """Measure a synthetic table on files.

    Args:
        study: whose columns the tables have.
        files: ``synthetic``, ``train`` and ``test``.
        by: categorical columns whose categories are looked at one by one; by default the study's.
        created: ISO time for the page.

    Raises:
        InvalidFileError: a file is not acceptable, or a patient stands in both real tables.
        UsageError: ``by`` names no categorical column.
    """
    schema = study.data
    names = schema.subgroups if by is None else tuple(by)
    for name in names:
        if name not in schema.names or not isinstance(schema.column(name), CategoricalColumn):
            raise UsageError(f"--by: '{name}' is not a categorical column of the study")
    tables = {
        role: read_table(
            path,
            schema,
            with_patients=role != "synthetic" or schema.visits is not None,
            in_time=role != "synthetic",
        )
        for role, path in files.items()
    }
    real = {role: tables[role] for role in ("train", "test")}
    require_other_patients(schema, real, source=files["test"])
    rows = {role: Rows.of(table, schema) for role, table in tables.items()}
    found = evaluate(schema, names, **rows)
    return described("evaluation", study, files, tables, rows, created) | found


def described(
    kind: str,
    study: StudySpec,
    files: Mapping[str, Path],
    tables: Mapping[str, Table],
    rows: Mapping[str, Rows],
    created: str,
) -> dict[str, Any]:
    """Return what was evaluated, by role: files, rows and patients."""
    return {
        "kind": kind,
        "study": study.name,
        "simulated": study.simulated,
        "created": created,
        "files": {role: file_digests(path, study.data) for role, path in files.items()},
        "rows": {role: len(each.owner) for role, each in rows.items()},
        "patients": {role: each.num_patients for role, each in rows.items()},
        "rows_outside_domain": {role: table.num_dropped for role, table in tables.items()},
    }


def evaluate(
    schema: TableSchema, by: Sequence[str], *, synthetic: Rows, train: Rows, test: Rows
) -> dict[str, Any]:
    """Return every measure as JSON-able data; what is not defined is None."""
    rng = np.random.default_rng(0)
    likeness = fidelity(schema, synthetic, train, test, rng)
    utility = None
    if schema.target is not None:
        utility = usefulness(schema, synthetic, train, test, rng)
    predictions = None if utility is None else utility.predictions
    groups = subgroups(schema, by, synthetic, train, test, predictions, rng)
    measures = [*likeness.measures, *(utility.measures if utility else [])]
    found = {
        "measures": {measure.id: asdict(measure) for measure in measures},
        "subgroups": [asdict(group) for group in groups],
        "same_size_patients": likeness.num_patients,
        "least_patients": LEAST_PATIENTS,
        "least_of_each_outcome": LEAST_OF_EACH_OUTCOME,
        "worst_pairs": [asdict(pair) for pair in likeness.worst_pairs()],
        "pairs": [asdict(pair) for pair in likeness.pairs],
        "calibration": utility.curves if utility else {},
        "marginals": _marginals(schema, {"real": train, "synthetic": synthetic}),
    }
    return defined(found)


def _marginals(schema: TableSchema, tables: Mapping[str, Rows]) -> dict[str, Any]:
    """Return the shares of levels, or of 20 equal parts of a numeric column's range."""
    marginals: dict[str, Any] = {}
    for column in schema.columns:
        if not isinstance(column, CategoricalColumn):
            first, *_, last = column.bin_edges()
            edges = np.linspace(first, last, _FIGURE_BINS + 1)
            labels = [column.spell(edge) for edge in edges[:-1]]
        else:
            labels = list(column.levels)
        shares = {}
        for role, rows in tables.items():
            values = rows.columns[column.name]
            if not isinstance(column, CategoricalColumn):
                missing = np.isnan(values)
                place = np.searchsorted(edges, np.where(missing, edges[0], values), "right") - 1
                place = np.where(missing, len(labels), place.clip(0, len(labels) - 1))
            else:
                position = {level: number for number, level in enumerate([*labels, None])}
                place = np.array([position[value] for value in values])
            counts = np.bincount(place, rows.weight, len(labels) + 1)
            shares[role] = (counts / counts.sum())[
                : len(labels) + int(column.can_be_missing)
            ].tolist()
        marginals[column.name] = {
            "labels": [*labels, "missing"] if column.can_be_missing else labels,
            **shares,
        }
    return marginals


def defined(found: dict[str, Any]) -> dict[str, Any]:
    """Return data with None in the place of NaN, which JSON does not have."""
    return {name: _defined(value) for name, value in found.items()}


def _defined(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _defined(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_defined(value) for value in data]
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data
