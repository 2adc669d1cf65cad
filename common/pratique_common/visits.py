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


def breaks_off(
    schema: "TableSchema", columns: Mapping[str, NDArray[Any]], number_N: NDArray[np.int64]
) -> bool:
    """Return whether a fixed column changes within a patient, or time goes back.

    Args:
        schema: of the study.
        columns: values (N,).
        number_N: of each row's patient; rows of a patient stand together.
    """
    if schema.visits is None:
        return False
    same = number_N[1:] == number_N[:-1]
    order_by = schema.visits.order_by
    if order_by in columns and (np.diff(columns[order_by])[same] < 0).any():
        return True
    for name in schema.visits.fixed:
        now, then = columns[name][1:][same], columns[name][:-1][same]
        equal = now == then
        if now.dtype != object:
            equal |= np.isnan(now) & np.isnan(then)
        if not equal.all():
            return True
    return False
