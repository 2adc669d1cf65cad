"""What a study may look like, from a table: a draft that a person completes and corrects.

Domains drafted from a table are *its* domains: limits and levels of records.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tomli_w
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn, DateColumn, TimeColumn
from pratique_common.cells import read_texts, value_of
from pratique_common.columns import OTHER
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.schema import MISSING_TEXTS
from pratique_common.study import TO_BE_WRITTEN, parse_study

_ANY_DAY = DateColumn(name="day", type="date", first=date.min, last=date.max)
_ANY_TIME = TimeColumn(name="time", type="time")
_MOST = 1e15  # limits of a column are within it

_SHARE_OF_A_TYPE = 0.95  # of cells that must be numbers or dates: a few typing errors do not count
_FEW_VALUES = 12  # integers with so few values are levels
_MOST_LEVELS = 50
_HEAVY_TAIL = 20.0  # 99.9th percentile over median
_ID_SHARE = 0.99
_PATIENT_ID = re.compile(r"(patient|subject|person)[ _-]?(id|nbr|number|no)?", re.IGNORECASE)


def drafted_table(table: pa.Table, source: Path | str, *, least_rows: int = 1) -> dict[str, Any]:
    """Return columns, ids and the patient's id as ``[data]`` of a study names them.

    Args:
        table: of any columns.
        source: named in errors.
        least_rows: on how many rows a level or a limit must rest at least.

    Raises:
        InvalidFileError: fewer than two columns can be used.
    """
    columns, ids, patient_id, most_rows = [], [], None, 1
    for name in table.column_names:
        # Spelled as sites will read them.
        cells = pd.Series([cell or "" for cell in read_texts(table.column(name), source, name)])
        known = cells[~cells.isin(MISSING_TEXTS)]
        if len(known) < least_rows:
            continue  # too few values tell nothing
        if patient_id is None and _PATIENT_ID.fullmatch(name):
            patient_id = name
            most_rows = int(known.value_counts().nlargest(least_rows).iloc[-1])
        elif _is_id(known):
            ids.append({"name": name})
        elif domain := _domain(known, least_rows):
            missing = {"missing": True} if len(known) < len(cells) else {}
            columns.append({"name": name, **domain, **missing})
    if len(columns) < 2:
        raise InvalidFileError(
            source, problem="fewer than two usable columns", remedy="separate columns by commas"
        )
    found: dict[str, Any] = {"columns": columns}
    if ids:
        found["ids"] = ids
    if patient_id is not None:
        found |= {"patient_id": patient_id, "max_rows_per_patient": min(most_rows, 100)}
    return found


def study_skeleton(
    data: Mapping[str, Any],
    *,
    name: str,
    expected_patients: int,
    target: str | None,
    source: Path | str,
) -> str:
    """Return a study file's text that cannot be used until a person wrote its disclosure.

    Args:
        data: ``[data]`` without its kind.
        name: of the study.
        expected_patients: a public planning number.
        target: the outcome's column.
        source: named in errors.

    Raises:
        InvalidFileError: this could be no study.
        UsageError: there is no such target.
    """
    rest = dict(data)
    columns = rest.pop("columns")
    if target is not None:
        if target not in [column["name"] for column in columns]:
            raise UsageError(f"--target: '{target}' is not a column of {source}")
        rest["target"] = target
    disclosure = {
        "purpose": TO_BE_WRITTEN,
        "recipients": [TO_BE_WRITTEN],
        "licence": TO_BE_WRITTEN,
        "expires": date(date.today().year + 3, 12, 31),
    }
    study: dict[str, Any] = {
        "name": name,
        "data": {"kind": "table", **rest, "columns": columns},
        "privacy": {"target_epsilon": 3.0, "expected_patients": expected_patients},
        "disclosure": disclosure,
    }
    written = {"purpose": "x", "recipients": ["x"], "licence": "x"}
    parse_study({**study, "disclosure": {**disclosure, **written}}, source=source)
    return tomli_w.dumps(study, multiline_strings=False)


def _is_id(known: "pd.Series[str]") -> bool:
    """Whether nearly every cell is another text, or another whole number without a measure."""
    if known.nunique() < _ID_SHARE * len(known) or len(known) < _MOST_LEVELS:
        return False
    return bool(_as_numbers(known).isna().mean() > 0.5 and _days(known).isna().mean() > 0.5)


def _as_numbers(known: "pd.Series[str]") -> "pd.Series[float]":
    numbers = pd.to_numeric(known, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers) & (numbers.abs() <= _MOST))


def _days(known: "pd.Series[str]") -> "pd.Series[float]":
    return known.map({text: _told(text, _ANY_DAY, "-") for text in known.unique()}).astype(float)


def _times(known: "pd.Series[str]") -> "pd.Series[float]":
    texts = {text: np.nan if "-" in text else _told(text, _ANY_TIME, ":")
             for text in known.unique()}  # fmt: skip
    return known.map(texts).astype(float)


def _told(text: str, column: BinnedColumn, sign: str) -> float:
    try:
        return value_of(text, column) if sign in text else np.nan
    except ValueError:
        return np.nan


def _domain(known: "pd.Series[str]", least_rows: int) -> dict[str, Any]:
    """Return type and limits or levels; nothing if too few rows have any."""
    numbers = _as_numbers(known)
    if numbers.notna().mean() >= _SHARE_OF_A_TYPE:
        values = _common(numbers, least_rows)
        if not len(values):
            return {}
        whole = bool((values == np.round(values)).all())
        if not whole or len(np.unique(values)) > _FEW_VALUES:
            return _numeric(values, known.tolist(), whole=whole)
    days = _days(known)
    ends = _common(days, least_rows)
    if days.notna().mean() >= _SHARE_OF_A_TYPE and len(ends) and ends[0] < ends[-1]:
        first, last = (date.fromisoformat(_ANY_DAY.spell(day)) for day in (ends[0], ends[-1]))
        return {"type": "date", "first": first, "last": last}
    if _times(known).notna().mean() >= _SHARE_OF_A_TYPE:
        return {"type": "time"}
    counts = known.value_counts()
    common = counts[counts >= least_rows]
    levels = sorted(common.index[:_MOST_LEVELS])
    if not levels:
        return {}
    if len(counts) == len(levels):
        return {"type": "categorical", "categories": levels}
    return {"type": "categorical", "categories": [v for v in levels if v != OTHER], "other": True}


def _common(numbers: "pd.Series[float]", least_rows: int) -> NDArray[np.float64]:
    """Return numbers in order, without the outermost: as many of them rest beyond either end."""
    values = np.sort(np.asarray(numbers.dropna(), np.float64))
    return values[least_rows - 1 : len(values) - least_rows + 1]


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
        column["bins"] = int(min(16, column["upper"] - column["lower"]))
    else:
        fractions = [len(text.partition(".")[2]) for text in known if "e" not in text.lower()]
        column["decimals"] = min(9, int(np.quantile(fractions or [2], 0.99)))
    tail = float(np.quantile(values, 0.999)) / max(float(np.median(values)), step)
    if column["lower"] >= 0 and tail > _HEAVY_TAIL:
        column["spacing"] = "log"
    return column
