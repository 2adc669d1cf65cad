"""What a column's cells look like: a type, and limits or levels, with what a draft cannot know.

Shapes: N cells that are not missing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.cells import value_of
from pratique_common.codes import CHAPTERS, CodeSystem, roll_up
from pratique_common.columns import OTHER
from pratique_common.drafted_numbers import (
    ID_DIGITS,
    SHARE_OF_A_TYPE,
    as_numbers,
    numbers_in,
    numeric,
)
from pratique_common.schema import MISSING_TEXTS
from pratique_common.time_columns import DateColumn, TimeColumn

_ANY_DAY = DateColumn(name="day", type="date", first=date.min, last=date.max)
_ANY_TIME = TimeColumn(name="time", type="time")

MOST_LEVELS = 50
FEW_VALUES = 12  # integers with so few values are levels

_COMPACT_DAY = re.compile(r"(19|20)\d{6}")
_OTHER_DAY = re.compile(r"(\d{1,2}[./]\d{1,2}[./]\d{4})([ T].*)?")
_OTHER_FORMATS = {"%d.%m.%Y": "DD.MM.YYYY", "%d/%m/%Y": "DD/MM/YYYY", "%m/%d/%Y": "MM/DD/YYYY"}
_OTHER_TIME = re.compile(r"\d{1,2}(:\d\d){1,2}( ?[ap]\.?m\.?)?", re.IGNORECASE)
_CLEARLY_NOTHING = {"null", "nan", "n/a", "#n/a", "na", "n.a.", "<na>", "nat"}
_NOTHING = _CLEARLY_NOTHING | {"none", "nil", "missing", "unknown", "not available", "not done",
                               "-", "--", ".", "..", "nd"}  # fmt: skip
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
    on_a_line, of_levels = (
        _spelling_missing(known_N, texts, least_rows) for texts in (_NOTHING, _CLEARLY_NOTHING)
    )
    told_N = known_N[~known_N.isin(on_a_line)]
    if len(told_N) and ((found := _on_a_line(told_N, least_rows)).fields or found.notes):
        return _with_missing(found, on_a_line)
    return _with_missing(_levels(known_N[~known_N.isin(of_levels)], least_rows), of_levels)


def _spelling_missing(known_N: "pd.Series[str]", texts: set[str], least_rows: int) -> list[str]:
    often = known_N.value_counts()
    return sorted(text for text in often.index[often >= least_rows] if text.casefold() in texts)


def _on_a_line(known_N: "pd.Series[str]", least_rows: int) -> Domain:
    """Return the domain of dates, numbers, times or codes; nothing if cells are none of these."""
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
    if (counted := _counted(known_N, least_rows)).fields or counted.notes:
        return counted
    times = _times(known_N).notna()
    if times.mean() >= SHARE_OF_A_TYPE:
        return Domain({"type": "time"})
    if (times | known_N.str.fullmatch(_OTHER_TIME)).mean() >= SHARE_OF_A_TYPE:
        return Domain({"type": "time"}, ["times are written with fewer digits, or with AM and PM, "
                      "in this table, and sites read HH:MM: export them so"])  # fmt: skip
    return Domain({})


def _counted(known_N: "pd.Series[str]", least_rows: int) -> Domain:
    """Return the domain of numbers; nothing if most cells are none, or a few whole ones."""
    told_N, notes = numbers_in(known_N, least_rows)
    numbers = as_numbers(told_N)
    if not numbers.notna().mean() >= SHARE_OF_A_TYPE:
        return Domain({})
    values, taken = _without_sentinels(numbers, least_rows, _is_no_number)
    whole = bool((values == np.round(values)).all())
    if not len(values) or (whole and len(np.unique(values)) <= FEW_VALUES):
        return Domain({})
    fields = numeric(values, told_N.tolist(), whole=whole)
    if not fields:
        return Domain({}, ["left out: its values differ by less than nine decimals show; export it "
                           "in another unit"])  # fmt: skip
    if whole and values.min() >= 10 ** (ID_DIGITS - 1) and 2 * len(set(values)) >= len(values):
        notes.append("many different whole numbers: if it is an id, write it under data.ids")
    return _with_missing(Domain(fields, notes), [f"{value:.15g}" for value in taken])


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
    if texts and domain.fields:
        before = domain.fields.get("missing_values", MISSING_TEXTS)
        domain.fields |= {"missing": True, "missing_values": [*before, *texts]}
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
