"""Drafts of a study: from a data dictionary, or from a table that everybody may see.

Domains drafted from a table are *its* domains: limits and levels of records. So the table must be
public, or made up; never patients' records of the study. A person completes and corrects the draft.
"""

import csv
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pratique_common.columns import AnyColumn, Column
from pratique_common.drafted_columns import drafted_table, study_skeleton
from pratique_common.errors import InvalidFileError
from pratique_common.table_files import header, read_columns

_COLUMN = TypeAdapter[AnyColumn](Column)

_YES_OR_NO = {"integer", "ordered", "other", "missing", "may_lack"}
_LISTS = {"categories", "edges", "missing_values"}  # separated by |
_FIELDS = {"name", "type", "lower", "upper", "first", "last", "bins", "spacing", "decimals", "unit",
           "codes", "asked_if", *_YES_OR_NO, *_LISTS}  # fmt: skip
_NUMBERS = {"lower": float, "upper": float, "bins": int, "decimals": int}
_KINDS: dict[Callable[[str], Any], str] = {
    float: "no number",
    int: "no whole number",
    date.fromisoformat: "no date: write it as 2020-12-31",
}
_TYPES = ("numeric", "integer", "categorical", "date", "time")
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
        UsageError: there is no such target, or a study cannot have such a name.
    """
    if dictionary:
        data: dict[str, Any] = {"columns": _from_dictionary(source)}
        notes: list[str] = []
    else:
        data, notes = drafted_table(read_columns(source, header(source)), source)
    text = study_skeleton(
        data,
        name=name,
        expected_patients=expected_patients,
        target=target,
        source=source,
        notes=notes,
    )
    return _HEADER.format(source=source.name) + text


def _from_dictionary(source: Path) -> list[dict[str, Any]]:
    """Return columns of a dictionary: one line each, fields as in a study file."""
    if not source.is_file() or source.suffix.lower() != ".csv":
        raise InvalidFileError(source, problem="no CSV file", remedy="give a dictionary in CSV")
    found = header(source)
    if twice := next((field for field in found if found.count(field) > 1), None):
        raise InvalidFileError(
            source, field=f"column '{twice}'", problem="stands twice", remedy="leave one out"
        )
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
            reader = csv.DictReader(file)
            lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error):
        raise InvalidFileError(
            source, problem="not UTF-8 text in CSV", remedy="export the dictionary again"
        ) from None
    columns: dict[str, dict[str, Any]] = {}
    for number, line in lines:
        column = _column_of(line, source, number)
        if column["name"] in columns:
            raise _bad_line(source, number, f"'{column['name']}' stands in a line before, too")
        columns[column["name"]] = column
    return list(columns.values())


def _column_of(line: Mapping[str, str], source: Path, number: int) -> dict[str, Any]:
    if None in line:
        raise _bad_line(source, number, "more cells than columns: separate levels by |")
    cells = {k: v.strip() for k, v in line.items() if k in _FIELDS and v and v.strip()}
    column: dict[str, Any] = {}
    try:
        for field, text in cells.items():
            if field in _LISTS:
                parts = [part.strip() for part in text.split("|")]
                column[field] = (
                    [_read(field, p, float) for p in parts] if field == "edges" else parts
                )
            elif field in _YES_OR_NO:
                if text.lower() not in _YES | _NO:
                    raise ValueError(f"{field}: write yes or no")
                column[field] = text.lower() in _YES
            elif field in _NUMBERS:
                column[field] = _read(field, text, _NUMBERS[field])
            elif field in ("first", "last"):
                column[field] = _read(field, text, date.fromisoformat)
            else:
                column[field] = text
        if column.get("type") not in _TYPES:
            raise ValueError(f"type: write {', '.join(_TYPES)}")
        if "name" not in column:
            raise ValueError("name: it has none")
        if column["type"] == "integer":
            column |= {"type": "numeric", "integer": True}
        _COLUMN.validate_python(column)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][-1]) if first["loc"] else "type"
        message = first["msg"].removeprefix("Value error, ")
        problem = message if first["type"] == "value_error" else f"{field}: {message.lower()}"
        if first["type"] == "extra_forbidden":
            problem = f"{field}: a {cells['type']} column has none"
        raise _bad_line(source, number, problem) from None
    except ValueError as error:
        raise _bad_line(source, number, str(error)) from None
    return column


def _read(field: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{field}: '{text}' is {_KINDS[kind]}") from None


def _bad_line(source: Path, number: int, problem: str) -> InvalidFileError:
    return InvalidFileError(
        source, field=f"line {number}", problem=problem, remedy="mend that line"
    )
