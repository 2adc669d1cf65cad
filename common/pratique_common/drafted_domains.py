"""What a column's cells look like: a type, and limits or levels, with what a draft cannot know.

Shapes: N cells that are not missing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.cells import value_of
from pratique_common.codes import CHAPTERS, CodeSystem, roll_up
from pratique_common.columns import OTHER
from pratique_common.schema import MISSING_TEXTS
from pratique_common.time_columns import DateColumn, TimeColumn

_ANY_DAY = DateColumn(name="day", type="date", first=date.min, last=date.max)
_ANY_TIME = TimeColumn(name="time", type="time")
_MOST = 1e15  # limits of a column are within it

SHARE_OF_A_TYPE = 0.95  # of cells that must be numbers or dates: a few typing errors do not count
MOST_LEVELS = 50
_FEW_VALUES = 12  # integers with so few values are levels
_HEAVY_TAIL = 20.0  # 99.9th percentile over median
_ID_DIGITS = 5
_SHARE_OF_ZEROS = 0.01  # in front of digits, in cells of codes: no program writes numbers so

_LEADING_ZERO = re.compile(r"0\d+")
_COMPACT_DAY = re.compile(r"(19|20)\d{6}")
_OTHER_DAY = re.compile(r"(\d{1,2}[./]\d{1,2}[./]\d{4})([ T].*)?")
_OTHER_FORMATS = {"%d.%m.%Y": "DD.MM.YYYY", "%d/%m/%Y": "DD/MM/YYYY", "%m/%d/%Y": "MM/DD/YYYY"}
_NINES = re.compile(r"-?9{2,}|-9")
_NO_DAYS = {"1899-12-30", "1899-12-31", "1900-01-01", "1901-01-01", "1970-01-01", "2099-12-31",
            "2999-12-31", "9999-12-31"}  # fmt: skip


@dataclass
class Domain:
    """A column's fields as a study names them; none if too few cells have any.

    Attributes:
        fields: without the name.
        notes: what a person has to look at. No value in them rests on fewer rows than a level does.
    """

    fields: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def domain_of(known_N: "pd.Series[str]", least_rows: int) -> Domain:
    """Return what a column may hold.

    Args:
        known_N: its cells that are not missing.
        least_rows: on how many a level or a limit must rest at least.
    """
    if (dated := _dated(_days(known_N), least_rows)).fields:
        return dated
    other_days, spelled = _other_days(known_N)
    if (dated := _dated(other_days, least_rows)).fields:
        dated.notes.append(f"dates are written {spelled} in this table, and sites read YYYY-MM-DD: "
                           "export them so")  # fmt: skip
        return dated
    if system := _code_system(known_N, least_rows):
        found = [roll_up(text, CHAPTERS[system], system) for text in known_N.unique()]
        note = f"rolled up to the chapters of {system.upper()}: list finer nodes if they matter"
        return Domain(
            {"type": "categorical", "codes": system} | ({"other": True} if None in found else {}),
            [note],
        )
    numbers = as_numbers(known_N)
    if numbers.notna().mean() >= SHARE_OF_A_TYPE:
        values, taken = _without_sentinels(numbers, least_rows, _is_no_number)
        if not len(values):
            return Domain({})
        whole = bool((values == np.round(values)).all())
        if not whole or len(np.unique(values)) > _FEW_VALUES:
            fields = _numeric(values, known_N.tolist(), whole=whole)
            notes = []
            if (
                whole
                and values.min() >= 10 ** (_ID_DIGITS - 1)
                and 2 * len(set(values)) >= len(values)
            ):
                notes = ["many different whole numbers: if it is an id, write it under data.ids"]
            return _with_missing(Domain(fields, notes), [f"{value:.15g}" for value in taken])
    if _times(known_N).notna().mean() >= SHARE_OF_A_TYPE:
        return Domain({"type": "time"})
    return _levels(known_N, least_rows)


def as_numbers(known_N: "pd.Series[str]") -> "pd.Series[float]":
    """Return what numbers cells tell; NaN where none, or where zeros in front say it is a code."""
    numbers = pd.to_numeric(known_N, errors="coerce").astype(float)
    if known_N.str.fullmatch(_LEADING_ZERO).mean() >= _SHARE_OF_ZEROS:
        numbers[:] = np.nan
    return numbers.where(np.isfinite(numbers) & (numbers.abs() <= _MOST))


def are_id_numbers(known_N: "pd.Series[str]") -> bool:
    """Whether cells are whole numbers of five digits or more, as ids of records are."""
    return bool(known_N.str.fullmatch(rf"\d{{{_ID_DIGITS},}}").mean() >= SHARE_OF_A_TYPE)


def tells_days(known_N: "pd.Series[str]") -> bool:
    """Whether most cells tell a day, in any of the ways that are known."""
    return bool(max(_days(known_N).notna().mean(), _other_days(known_N)[0].notna().mean()) > 0.5)


def _days(known_N: "pd.Series[str]") -> "pd.Series[float]":
    told = {
        text: _told(text, _ANY_DAY) if "-" in text or _COMPACT_DAY.fullmatch(text) else np.nan
        for text in known_N.unique()
    }
    return known_N.map(told).astype(float)


def _other_days(known_N: "pd.Series[str]") -> tuple["pd.Series[float]", str]:
    """Return days of dates that are written otherwise, and how they are."""
    texts = known_N.str.extract(_OTHER_DAY)[0]
    tried = {}
    for form, spelled in _OTHER_FORMATS.items():
        days = {text: _day_of(text, form) for text in texts.dropna().unique()}
        tried[spelled] = texts.map(days).astype(float)
    best = max(tried, key=lambda spelled: tried[spelled].notna().sum())
    both = (tried["DD/MM/YYYY"].notna() == tried["MM/DD/YYYY"].notna()).all()
    alike = both and best != "DD.MM.YYYY"
    return tried[best], "DD/MM/YYYY or MM/DD/YYYY (no day tells which)" if alike else best


def _day_of(text: str, form: str) -> float:
    try:
        return float((datetime.strptime(text, form).date() - date(1970, 1, 1)).days)
    except ValueError:
        return np.nan


def _times(known_N: "pd.Series[str]") -> "pd.Series[float]":
    told = {
        text: _told(text, _ANY_TIME) if ":" in text and "-" not in text else np.nan
        for text in known_N.unique()
    }
    return known_N.map(told).astype(float)


def _told(text: str, column: BinnedColumn) -> float:
    try:
        return value_of(text, column)
    except ValueError:
        return np.nan


def _code_system(known_N: "pd.Series[str]", least_rows: int) -> CodeSystem | None:
    """Return which codes nearly all cells are, if they are too many to list.

    ICD-9 looks like numbers: some cells must begin with its letters V or E.
    """
    if known_N.nunique() <= MOST_LEVELS:
        return None
    if known_N.str.fullmatch(r"[EV]\d+(\.\d+)?").sum() >= max(least_rows, 2) and _are(
        known_N, "icd9"
    ):
        return "icd9"
    return "icd10" if _are(known_N, "icd10") else None


def _are(known_N: "pd.Series[str]", system: CodeSystem) -> bool:
    told = {t: roll_up(t, CHAPTERS[system], system) is not None for t in known_N.unique()}
    return bool(known_N.map(told).mean() >= SHARE_OF_A_TYPE)


def _dated(days: "pd.Series[float]", least_rows: int) -> Domain:
    """Return first and last day; nothing if cells are no days, or one day alone."""
    if days.notna().mean() < SHARE_OF_A_TYPE:
        return Domain({})
    values, taken = _without_sentinels(days, least_rows, _is_no_day)
    if not len(values) or values[0] == values[-1]:
        return Domain({})
    first, last = (date.fromisoformat(_ANY_DAY.spell(day)) for day in (values[0], values[-1]))
    fields = {"type": "date", "first": first, "last": last}
    return _with_missing(Domain(fields), [_ANY_DAY.spell(day) for day in taken])


def _levels(known_N: "pd.Series[str]", least_rows: int) -> Domain:
    counts = known_N.value_counts()
    common = counts[counts >= least_rows].iloc[:MOST_LEVELS]
    levels = sorted(common.index)
    if not levels:
        return Domain({})
    notes = []
    if len({level.lower() for level in levels}) < len(levels):
        notes.append("some levels differ in capitals alone")
    if len(counts) == len(levels):
        return Domain({"type": "categorical", "categories": levels}, notes)
    if common.sum() < len(known_N) / 2:
        notes.append("most rows are 'other': list more levels, or nodes with codes = 'prefix'")
    listed = [level for level in levels if level != OTHER]
    return Domain({"type": "categorical", "categories": listed, "other": True}, notes)


def _with_missing(domain: Domain, texts: list[str]) -> Domain:
    if texts:
        domain.fields |= {"missing": True, "missing_values": [*MISSING_TEXTS, *texts]}
        domain.notes.append(f"{' and '.join(texts)} seem to spell missing; if not, list no such "
                            "missing_values and mend the limits")  # fmt: skip
    return domain


def _without_sentinels(
    numbers: "pd.Series[float]",
    least_rows: int,
    is_sentinel: Callable[[NDArray[np.float64], int], bool],
) -> tuple[NDArray[np.float64], list[float]]:
    """Return common values in order, and those at either end that only seem to be values."""
    taken: list[float] = []
    for end in (-1, 0, -1, 0):  # 99 and 999, -9 and -1
        distinct = np.unique(_common(numbers, least_rows))
        if len(distinct) <= 2 or not is_sentinel(distinct, end):
            continue
        if (numbers == distinct[end]).sum() >= max(least_rows, 2):
            taken.append(float(distinct[end]))
            numbers = numbers[numbers != distinct[end]]
    return _common(numbers, least_rows), sorted(taken)


def _is_no_number(distinct: NDArray[np.float64], end: int) -> bool:
    rest = distinct[1:] if end == 0 else distinct[:-1]
    gap = abs(distinct[end] - rest[end])
    if end == 0 and distinct[0] < 0 <= rest[0] and distinct[0] in (-1, -9):
        return True
    return bool(_NINES.fullmatch(f"{distinct[end]:.15g}")) and gap > rest[-1] - rest[0]


def _is_no_day(distinct: NDArray[np.float64], end: int) -> bool:
    rest = distinct[1:] if end == 0 else distinct[:-1]
    gap = abs(distinct[end] - rest[end])
    return _ANY_DAY.spell(distinct[end]) in _NO_DAYS and gap > rest[-1] - rest[0]


def _common(numbers: "pd.Series[float]", least_rows: int) -> NDArray[np.float64]:
    """Return numbers in order, without the outermost: as many of them rest beyond either end."""
    values = np.sort(np.asarray(numbers.dropna(), np.float64))
    return values[least_rows - 1 : len(values) - least_rows + 1]


_NUMBER = re.compile(r"[-+]?\d*\.?(\d*)(?:[eE]([-+]?\d{1,4}))?")


def _numeric(values: NDArray[np.float64], known: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """Return limits around all values, rounded outwards to two digits."""
    lower, upper = float(values.min()), float(values.max())
    step = 10.0 ** floor(log10(max(abs(lower), abs(upper), 1e-9)) - 1)
    if whole:
        step = max(1.0, step)
    column: dict[str, Any] = {
        "type": "numeric",
        "lower": min(0.0, floor(lower / step) * step)
        if 0 <= lower < upper / 2
        else round(floor(lower / step) * step, 9),
        "upper": round(ceil(upper / step) * step, 9),
    }
    if column["lower"] == column["upper"]:
        column["upper"] += step
    if whole:
        column["integer"] = True
    else:
        found = [_NUMBER.fullmatch(text.strip()) for text in known]
        fractions = [max(0, len(each[1]) - int(each[2] or 0)) for each in found if each]
        column["decimals"] = min(9, int(np.quantile(fractions or [2], 0.99)))
    # Of values that are mostly zero the tail is beside the first digits that the limits have.
    tail = float(np.quantile(values, 0.999)) / (float(np.median(values)) or step)
    if column["lower"] >= 0 and tail > _HEAVY_TAIL:
        column["spacing"] = "log"
    return column
