"""Several rows a patient in time: what a generator sees of a visit beside its own cells.

A visit is a row. The generator learns rows with more columns: whether a visit is the patient's
first, whether another follows, and what was noted at the visit before. From these it makes patients
visit by visit. The study declares it all; nothing is found in records.

Shapes: N rows of patients, in time within each patient.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pratique_common.column_base import Spec
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.rule_grammar import previous
from pratique_common.rules import BoolArray

if TYPE_CHECKING:
    from pratique_common.schema import TableSchema

FIRST, MORE = "first visit", "another visit"
NO, YES = "no", "yes"
NO_CODE, YES_CODE = 0, 1
_PREVIOUS = "previous "


class Visits(Spec):
    """``[data.visits]``: a patient's rows are visits in time, and synthetic ones shall be, too."""

    order_by: str = Field(
        min_length=1, description="column of the file with numbers, dates or times that grow"
    )
    fixed: tuple[str, ...] = Field(default=(), description="columns alike in all of a patient's")
    remembered: tuple[str, ...] | None = Field(
        default=None,
        description="columns that depend on what they were a visit before; default: all others",
    )


def trained_schema(schema: "TableSchema") -> "TableSchema":
    """Return the schema of the rows that a generator learns: the study's columns, then more."""
    if schema.visits is None:
        return schema
    flags = [CategoricalColumn(name=name, type="categorical", categories=(NO, YES))
             for name in (FIRST, MORE)]  # fmt: skip
    before: list[AnyColumn] = [
        schema.column(name).model_copy(
            update={"name": _PREVIOUS + name, "missing": True, "asked_if": None}
        )
        for name in schema.remembered
    ]
    return schema.model_copy(
        update={"columns": (*schema.columns, *flags, *before), "visits": None, "rules": ()}
    )


def with_visits(
    schema: "TableSchema", columns: Mapping[str, NDArray[Any]], patients: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return values of the trained schema's columns.

    Args:
        schema: of the study.
        columns: values (N,) of its columns.
        patients: whose each row is, (N,); rows of one patient stand in time.
    """
    result = dict(columns)
    if schema.visits is None:
        return result
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    again = owner[order][1:] == owner[order][:-1]
    before = np.full(len(owner), -1)
    before[order[1:]] = np.where(again, order[:-1], -1)
    last = np.ones(len(owner), bool)
    last[order[:-1]] = ~again
    result[FIRST] = np.where(before < 0, YES, NO).astype(object)
    result[MORE] = np.where(last, NO, YES).astype(object)
    for name in schema.remembered:
        values = columns[name][before].copy()
        values[before < 0] = None if values.dtype == object else np.nan
        result[_PREVIOUS + name] = values
    return result


def may_follow(
    schema: "TableSchema", columns: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]
) -> BoolArray:
    """Return which visits, (N,), do not go back in time and obey rules about the visit before.

    Args:
        schema: of the study; its rows are visits.
        columns: values (N,) of visits.
        before: of the same patients' visits before, (N,).
    """
    assert schema.visits is not None
    obeys = np.ones(len(next(iter(columns.values()))), bool)
    order_by = schema.visits.order_by
    if order_by in columns:
        obeys &= columns[order_by] >= before[order_by]
    named = {**columns, **{previous(name): values for name, values in before.items()}}
    for rule in schema.visit_rules:
        obeys &= rule.obeyed(named)
    return obeys


def visits_that_follow(
    schema: "TableSchema", columns: Mapping[str, NDArray[Any]], patients: NDArray[Any]
) -> NDArray[np.int64]:
    """Return places of the rows that stay if those that may not follow the one before are left out.

    Of a patient the first such row is left out, then the first of those that are left, and so on:
    what comes after a wrong visit is compared with the one before it.

    Args:
        schema: of the study.
        columns: values (N,) of its columns.
        patients: whose each row is, (N,); rows of one patient stand in time.
    """
    stays = np.ones(len(patients), bool)
    if schema.visits is None or not (schema.visit_rules or schema.visits.order_by in schema.names):
        return np.flatnonzero(stays)
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    rows = np.argsort(owner, kind="stable")
    again = owner[rows[1:]] == owner[rows[:-1]]
    now, then = rows[1:][again], rows[:-1][again]
    fine = may_follow(schema, _rows(columns, now), _rows(columns, then))
    # Only patients with such a row are gone through, visit by visit, all at once.
    rows = rows[np.isin(owner[rows], owner[now[~fine]])]
    starts = np.flatnonzero(np.diff(owner[rows], prepend=-1))
    sizes = np.diff(starts, append=len(rows))
    last = rows[starts]
    for visit in range(1, int(sizes.max(initial=0))):
        here = np.flatnonzero(sizes > visit)
        now = rows[starts[here] + visit]
        fine = may_follow(schema, _rows(columns, now), _rows(columns, last[here]))
        stays[now[~fine]] = False
        last[here[fine]] = now[fine]
    return np.flatnonzero(stays)


def fixed_cells_change(
    schema: "TableSchema", columns: Mapping[str, NDArray[Any]], number_N: NDArray[np.int64]
) -> bool:
    """Return whether a fixed column changes within a patient.

    Args:
        schema: of the study.
        columns: values (N,).
        number_N: of each row's patient; rows of a patient stand together.
    """
    same = number_N[1:] == number_N[:-1]
    for name in schema.visits.fixed if schema.visits is not None else ():
        now, then = columns[name][1:][same], columns[name][:-1][same]
        equal = now == then
        if now.dtype != object:
            equal |= np.isnan(now) & np.isnan(then)
        if not equal.all():
            return True
    return False


def _rows(columns: Mapping[str, NDArray[Any]], keep: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: values[keep] for name, values in columns.items()}
