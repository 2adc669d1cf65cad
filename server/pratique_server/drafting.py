"""Drafts of a study: from a data dictionary, or from a table that everybody may see.

Domains drafted from a table are *its* domains: limits and levels of records. So the table must be
public, or made up; never patients' records of the study. A person completes and corrects the draft.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import date
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from pydantic import TypeAdapter, ValidationError

from pratique_common.binned_columns import DateColumn
from pratique_common.cells import read_texts, value_of
from pratique_common.columns import OTHER, AnyColumn, Column
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.schema import MISSING_TEXTS
from pratique_common.study import TO_BE_WRITTEN, parse_study
from pratique_common.table_files import header, read_columns

_ANY_DAY = DateColumn(name="day", type="date", first=date.min, last=date.max)
_MOST = 1e15  # limits of a column are within it

_COLUMN = TypeAdapter[AnyColumn](Column)

_SHARE_OF_A_TYPE = 0.95  # of cells that must be numbers or dates: a few typing errors do not count
_FEW_VALUES = 12  # integers with so few values are levels
_MOST_LEVELS = 50
_HEAVY_TAIL = 20.0  # 99.9th percentile over median
_ID_SHARE = 0.99
_PATIENT_ID = re.compile(r"(patient|subject|person)[ _-]?(id|nbr|number|no)?", re.IGNORECASE)

_FIELDS = {"name", "type", "lower", "upper", "first", "last", "bins", "spacing", "decimals", "unit",
           "categories", "codes", "ordered", "other", "missing", "asked_if"}  # fmt: skip
_NUMBERS = {"lower": float, "upper": float, "bins": int, "decimals": int}
_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0"}

_HEADER = """\
# Drafted by `pratique study draft` from {source}. Before anybody approves it:
#   * a person who knows the field checks every limit and level below: they must come from
#     knowledge, never from patients' records of this study;
#   * whoever is responsible writes purpose, recipients and licence;
#   * `pratique study check` says what it will cost.
"""


def draft_study(
    source: Path, *, dictionary: bool, name: str, expected_patients: int, target: str | None
) -> str:
    """Return a study file's text.

    Args:
        source: a dictionary (CSV) or a public table (CSV or Parquet).
        dictionary: which of both.
        name: of the study.
        expected_patients: a public planning number.
        target: the outcome's column.

    Raises:
        InvalidFileError: the source cannot be read, or a line of the dictionary is no column.
        UsageError: there is no such target.
    """
    if dictionary:
        data: dict[str, Any] = {"columns": _from_dictionary(source)}
    else:
        data = _from_table(source)
    names = [column["name"] for column in data["columns"]]
    if target is not None:
        if target not in names:
            raise UsageError(f"--target: '{target}' is not a column of {source}")
        data["target"] = target
    columns = data.pop("columns")
    disclosure = {
        "purpose": TO_BE_WRITTEN,
        "recipients": [TO_BE_WRITTEN],
        "licence": TO_BE_WRITTEN,
        "expires": date(date.today().year + 3, 12, 31),
    }
    study: dict[str, Any] = {
        "name": name,
        "data": {"kind": "table", **data, "columns": columns},
        "privacy": {"target_epsilon": 3.0, "expected_patients": expected_patients},
        "disclosure": disclosure,
    }
    written = {"purpose": "x", "recipients": ["x"], "licence": "x"}
    parse_study({**study, "disclosure": {**disclosure, **written}}, source=source)
    return _HEADER.format(source=source.name) + tomli_w.dumps(study, multiline_strings=False)


def _from_dictionary(source: Path) -> list[dict[str, Any]]:
    """Return columns of a dictionary: one line each, fields as in a study file."""
    if not source.is_file() or source.suffix.lower() != ".csv":
        raise InvalidFileError(source, problem="no CSV file", remedy="give a dictionary in CSV")
    found = header(source)
    if unknown := sorted(set(found) - _FIELDS):
        raise InvalidFileError(
            source,
            field=f"column '{unknown[0]}'",
            problem="no field of a dictionary",
            remedy=f"use {', '.join(sorted(_FIELDS))}",
        )
    if not {"name", "type"} <= set(found):
        raise InvalidFileError(
            source, problem="no columns 'name' and 'type'", remedy="write both, one line a column"
        )
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        raise InvalidFileError(
            source, problem="not UTF-8 text in CSV", remedy="export the dictionary again"
        ) from None
    return [_column_of(line, source, number) for number, line in enumerate(lines, start=2)]


def _column_of(line: Mapping[str, str], source: Path, number: int) -> dict[str, Any]:
    if None in line:
        raise _bad_line(source, number, "more cells than columns: separate levels by |")
    cells = {k: v.strip() for k, v in line.items() if k in _FIELDS and v and v.strip()}
    column: dict[str, Any] = {}
    try:
        for field, text in cells.items():
            if field == "categories":
                column[field] = [level.strip() for level in text.split("|")]
            elif field in ("ordered", "other", "missing"):
                if text.lower() not in _YES | _NO:
                    raise ValueError(f"{field}: write yes or no")
                column[field] = text.lower() in _YES
            elif field in _NUMBERS:
                column[field] = _NUMBERS[field](text)
            elif field in ("first", "last"):
                column[field] = date.fromisoformat(text)
            else:
                column[field] = text
        if column.get("type") == "integer":
            column |= {"type": "numeric", "integer": True}
        _COLUMN.validate_python(column)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][-1]) if first["loc"] else "type"
        message = first["msg"].removeprefix("Value error, ")
        problem = message if first["type"] == "value_error" else f"{field}: {message.lower()}"
        raise _bad_line(source, number, problem) from None
    except ValueError as error:
        raise _bad_line(source, number, str(error)) from None
    return column


def _bad_line(source: Path, number: int, problem: str) -> InvalidFileError:
    return InvalidFileError(
        source, field=f"line {number}", problem=problem, remedy="mend that line"
    )


def _from_table(source: Path) -> dict[str, Any]:
    """Return columns, ids and the patient's id of a public table."""
    if not source.is_file():
        raise InvalidFileError(source, problem="no such file", remedy="check the path")
    names = header(source)
    table = read_columns(source, names)
    columns, ids, patient_id, most_rows = [], [], None, 1
    for name in names:
        # Spelled as sites will read them.
        cells = pd.Series([cell or "" for cell in read_texts(table.column(name), source, name)])
        known = cells[~cells.isin(MISSING_TEXTS)]
        if not len(known):
            continue  # a column without a value tells nothing
        if patient_id is None and _PATIENT_ID.fullmatch(name):
            patient_id, most_rows = name, int(known.value_counts().max())
        elif _is_id(known):
            ids.append({"name": name})
        else:
            missing = {"missing": True} if len(known) < len(cells) else {}
            columns.append({"name": name, **_domain(known), **missing})
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


def _is_id(known: "pd.Series[str]") -> bool:
    """Whether nearly every cell is another text, or another whole number without a measure."""
    if known.nunique() < _ID_SHARE * len(known) or len(known) < _MOST_LEVELS:
        return False
    return bool(_as_numbers(known).isna().mean() > 0.5 and _days(known).isna().mean() > 0.5)


def _as_numbers(known: "pd.Series[str]") -> "pd.Series[float]":
    numbers = pd.to_numeric(known, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers) & (numbers.abs() <= _MOST))


def _days(known: "pd.Series[str]") -> "pd.Series[float]":
    day_of = {}
    for text in known.unique():
        try:
            day_of[text] = value_of(text, _ANY_DAY) if "-" in text else np.nan
        except ValueError:
            day_of[text] = np.nan
    return known.map(day_of).astype(float)


def _domain(known: "pd.Series[str]") -> dict[str, Any]:
    numbers = _as_numbers(known)
    if numbers.notna().mean() >= _SHARE_OF_A_TYPE:
        values = np.asarray(numbers.dropna(), np.float64)
        whole = bool((values == np.round(values)).all())
        if not whole or len(np.unique(values)) > _FEW_VALUES:
            return _numeric(values, known.tolist(), whole=whole)
    days = _days(known)
    if days.notna().mean() >= _SHARE_OF_A_TYPE and days.min() < days.max():
        first, last = (date.fromisoformat(_ANY_DAY.spell(day)) for day in (days.min(), days.max()))
        return {"type": "date", "first": first, "last": last}
    counts = known.value_counts()
    levels = sorted(counts.index[:_MOST_LEVELS])
    if len(counts) <= _MOST_LEVELS:
        return {"type": "categorical", "categories": levels}
    return {"type": "categorical", "categories": [v for v in levels if v != OTHER], "other": True}


def _numeric(
    values: np.ndarray[Any, np.dtype[np.float64]], known: Sequence[str], *, whole: bool
) -> dict[str, Any]:
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
