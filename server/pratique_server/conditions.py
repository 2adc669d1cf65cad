"""Conditions on rows as they are written: ``COLUMN=LEVEL,LEVEL`` or ``COLUMN=LOWEST..HIGHEST``.

A range may lack an end, and may be one value.
"""

from collections.abc import Mapping, Sequence
from csv import Error as CsvError
from csv import reader
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.cells import value_of
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.errors import NotEnoughDataError, UsageError
from pratique_common.schema import TableSchema

_NEARLY = 1e-6  # of a step of the grid: 0.1 + 0.2 is 0.3


@dataclass(frozen=True)
class Restriction:
    """Allowed levels of a column, and the ends of what is allowed of a numeric one."""

    text: str
    column: int
    levels: NDArray[np.bool_]
    ends: tuple[float, float] | None = None


def levels_of(schema: TableSchema, name: str, common: Sequence[Restriction]) -> list[Restriction]:
    """Return one restriction for each level of a column that is not excluded already."""
    column = _column(schema, name, option="--balance")
    if not isinstance(column, CategoricalColumn):
        raise UsageError(f"--balance: '{name}' is numeric; name a categorical column")
    place = schema.names.index(name)
    one_each = np.eye(column.num_levels, dtype=bool)
    every = [
        Restriction(text=f"{name}={level}", column=place, levels=one_each[code])
        for code, level in enumerate(column.levels)
    ]
    kept = [
        each
        for each in every
        if all((each.levels & r.levels).any() for r in common if r.column == place)
    ]
    if not kept:
        raise UsageError(f"--balance: --where leaves no level of '{name}'; change one of them")
    return kept


def allowed_levels(restrictions: Sequence[Restriction]) -> dict[int, NDArray[np.bool_]]:
    """Return the levels that all restrictions allow, by the position of their column.

    Raises:
        UsageError: two of them leave none.
    """
    allowed: dict[int, NDArray[np.bool_]] = {}
    for restriction in restrictions:
        together = allowed.get(restriction.column, np.ones_like(restriction.levels))
        allowed[restriction.column] = together & restriction.levels
    ranges = [(each.column, *each.ends) for each in restrictions if each.ends is not None]
    apart = any(
        column == other and max(low, low_too) > min(high, high_too)
        for (column, low, high), (other, low_too, high_too) in combinations(ranges, 2)
    )
    if apart or not all(mask.any() for mask in allowed.values()):
        raise UsageError("--where: no row can obey all restrictions; leave one out")
    return allowed


def met(
    schema: TableSchema,
    restrictions: Sequence[Restriction],
    codes_ND: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
) -> NDArray[np.bool_]:
    """Return which rows are as all restrictions ask, (N,).

    Args:
        schema: of the table.
        restrictions: on its columns.
        codes_ND: of the rows, that of missing where the study does not ask for a cell.
        columns: the rows' values.
    """
    as_asked = np.ones(len(codes_ND), bool)
    for restriction in restrictions:
        as_asked &= restriction.levels[codes_ND[:, restriction.column]]
        if restriction.ends is not None:
            values = columns[schema.names[restriction.column]]
            as_asked &= (values >= restriction.ends[0]) & (values <= restriction.ends[1])
    return as_asked


def require_asked(
    schema: TableSchema,
    restrictions: Sequence[Restriction],
    codes_ND: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
) -> None:
    """Refuse a condition on a cell that the study asks for in none of many rows; see ``met``.

    Raises:
        UsageError: with the column and where it is asked for.
    """
    always = [r for r in restrictions if schema.columns[r.column].asked_if is None]
    asked = met(schema, always, codes_ND, columns)
    if not asked.any():
        return  # a matter of how rare the others are
    for restriction in restrictions:
        column = schema.columns[restriction.column]
        if column.asked_if is None:
            continue
        asked &= codes_ND[:, restriction.column] != column.num_levels - 1
        if not asked.any():
            raise UsageError(
                f"'{column.name}' is asked for only where {column.asked_if}: no row with "
                f"{in_words(restrictions)} has one; leave out one of these conditions"
            )


def in_words(restrictions: Sequence[Restriction]) -> str:
    """Return restrictions as a person wrote them, one after the other."""
    return " and ".join(restriction.text for restriction in restrictions)


def too_rare() -> NotEnoughDataError:
    """Return the error of a condition that a generator hardly ever meets."""
    return NotEnoughDataError(
        "the generator hardly knows rows like these; ask for fewer, or for a wider condition",
        code="condition_too_rare",
    )


def _column(schema: TableSchema, name: str, *, option: str) -> AnyColumn:
    if name in {schema.patient_id, *(each.name for each in schema.ids)}:
        raise UsageError(f"{option}: '{name}' names rows or patients: all its values are fresh")
    if name not in schema.names:
        raise UsageError(f"{option}: there is no column '{name}'; see dictionary.csv in the bundle")
    return schema.column(name)


def restriction_of(schema: TableSchema, text: str) -> Restriction:
    """Read one restriction.

    Raises:
        UsageError: it is none, or does not fit the column.
    """
    name, wanted = _sides(schema, text)
    if not name or not wanted:
        raise UsageError(f"--where: '{text}' is not COLUMN=LEVEL,LEVEL or COLUMN=LOWEST..HIGHEST")
    column = _column(schema, name, option="--where")
    place = schema.names.index(name)
    if not isinstance(column, CategoricalColumn):
        return _range(column, place, text, wanted)
    levels = np.zeros(column.num_levels, bool)
    for level in [wanted] if wanted in column.levels else _parts(text, wanted):
        if level not in column.levels:
            raise UsageError(f"--where: '{level}' is no level of '{name}'; see dictionary.csv")
        levels[column.levels.index(level)] = True
    return Restriction(text=text, column=place, levels=levels)


def _sides(schema: TableSchema, text: str) -> tuple[str, str]:
    """Return the column and what is wanted of it; a column's name may have a sign of equality."""
    ends = [place for place, sign in enumerate(text) if sign == "="]
    sides = [(text[:end].strip(), text[end + 1 :].strip()) for end in ends]
    known = [each for each in sides if each[0] in schema.names]
    return (known or sides or [(text, "")])[0]


def _parts(text: str, wanted: str) -> list[str]:
    """Return levels between commas; one that has a comma is in double quotes, as in a CSV."""
    try:
        (parts,) = reader([wanted], skipinitialspace=True)
    except (CsvError, ValueError):
        raise UsageError(f"--where: '{text}' is no line of levels between commas") from None
    return [part.strip() for part in parts]


def _range(column: BinnedColumn, place: int, text: str, wanted: str) -> Restriction:
    edges = column.bin_edges()
    first, dots, last = (part.strip() for part in wanted.partition(".."))
    try:
        lowest = value_of(first, column) if first else float(edges[0])
        highest = value_of(last, column) if last else float(edges[-1]) if dots else lowest
        if not first and not last:
            raise ValueError("neither end")
    except ValueError:
        raise UsageError(
            f"--where: '{column.name}' holds {column.kind}s; write "
            f"{column.name}={column.spell(edges[0])}..{column.spell(edges[-1])}"
        ) from None
    if lowest > highest and first and last:
        raise UsageError(f"--where: {column.name}={wanted}: the lowest comes first")
    # The upper edge of a bin belongs to the next one, that of the last bin to itself.
    inside = (edges[:-1] <= highest) & (edges[1:] > lowest)
    inside[-1] |= lowest <= edges[-1] <= highest
    scale = 10.0**column.decimals_shown
    shown = np.floor(np.clip(highest, edges[0], edges[-1]) * scale + _NEARLY) / scale
    if edges[0] <= highest and lowest <= edges[-1] and lowest > shown + _NEARLY / scale:
        digits = f"{column.decimals_shown} decimals"
        raise UsageError(f"--where: no value of {column.name} with {digits} lies in {wanted}")
    if not inside.any() or lowest > highest:
        raise UsageError(f"--where: {column.name}={wanted} lies outside {column.domain_in_words()}")
    levels = np.append(inside, False) if column.can_be_missing else inside
    return Restriction(text=text, column=place, levels=levels, ends=(lowest, highest))
