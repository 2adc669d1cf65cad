"""What a study may look like, from a table: a draft that a person completes and corrects.

Domains drafted from a table are *its* domains: limits and levels of records.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import tomli_w

from pratique_common.cells import read_texts
from pratique_common.drafted_domains import FEW_VALUES, MOST_LEVELS, domain_of, tells_days
from pratique_common.drafted_numbers import (
    are_id_numbers,
    as_numbers,
    look_like_numbers,
    numbers_in,
    starts_with_zeros,
)
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.schema import MISSING_TEXTS
from pratique_common.study import STUDY_NAME, TO_BE_WRITTEN, parse_study

_ID_SHARE = 0.99
_PATIENT_ID = re.compile(r"(patient|subject|person)[ _-]?(id|nbr|number|no)?", re.IGNORECASE)


def drafted_table(
    table: pa.Table, source: Path | str, *, least_rows: int = 1
) -> tuple[dict[str, Any], list[str]]:
    """Return columns, ids and the patient's id as ``[data]`` of a study names them, and notes.

    Args:
        table: of any columns.
        source: named in errors.
        least_rows: on how many rows a level or a limit must rest at least.

    Raises:
        InvalidFileError: a column has no name, or fewer than two can be used.
    """
    columns, ids, patient_id, most_rows = [], [], None, 1
    notes: list[str] = []
    for place, name in enumerate(table.column_names, start=1):
        if not name.strip():
            raise InvalidFileError(
                source,
                field=f"column number {place}",
                problem="it has no name",
                remedy="name it in the header, or leave it out",
            )
        # Spelled as sites will read them.
        cells = pd.Series([cell or "" for cell in read_texts(table.column(name), source, name)])
        known = cells[~cells.isin(MISSING_TEXTS)]
        if len(known) < least_rows:
            notes.append(f"{name}: left out, as nearly all of its cells are missing")
        elif patient_id is None and _PATIENT_ID.fullmatch(name):
            patient_id = name
            most_rows = int(known.value_counts().nlargest(least_rows).iloc[-1])
        elif _is_text_of_numbers(known):
            notes.append(f"{name}: left out, as its numbers have a unit, a sign or spaces that "
                         "sites do not read: export numbers alone")  # fmt: skip
        elif _is_id(known):
            ids.append({"name": name})
            notes.append(f"{name}: taken for an id, as nearly all cells differ; never synthesised")
        elif (domain := domain_of(known, least_rows)).fields:
            missing = {"missing": True} if len(known) < len(cells) else {}
            columns.append({"name": name, **domain.fields, **missing})
            notes += [f"{name}: {note}" for note in domain.notes]
        elif domain.notes:
            notes += [f"{name}: {note}" for note in domain.notes]
        else:
            notes.append(f"{name}: left out, as too few of its cells are alike")
    if len(columns) < 2:
        raise InvalidFileError(
            source, problem="fewer than two usable columns", remedy="separate columns by commas"
        )
    found: dict[str, Any] = {"columns": columns}
    if ids:
        found["ids"] = ids
    if patient_id is not None:
        found |= {"patient_id": patient_id, "max_rows_per_patient": min(most_rows, 100)}
    return found, notes


def study_skeleton(
    data: Mapping[str, Any],
    *,
    name: str,
    expected_patients: int,
    target: str | None,
    source: Path | str,
    notes: Sequence[str] = (),
) -> str:
    """Return a study file's text that cannot be used until a person wrote its disclosure.

    Args:
        data: ``[data]`` without its kind.
        name: of the study.
        expected_patients: a public planning number.
        target: the outcome's column.
        source: named in errors.
        notes: what stands above it as comments.

    Raises:
        InvalidFileError: this could be no study.
        UsageError: there is no such target, or no study can have such a name.
    """
    if not STUDY_NAME.fullmatch(name):
        raise UsageError(f"--name: '{name}' must be small letters, digits and dashes, up to 63")
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
    comments = ["# This draft cannot know; look at each:"] if notes else []
    comments += [f"#   * {in_a_line(note)}" for note in notes]
    return "\n".join([*comments, tomli_w.dumps(study, multiline_strings=False)])


def _is_id(known: "pd.Series[str]") -> bool:
    """Whether nearly every cell is another text, or another number as long as those of records."""
    if known.nunique() < _ID_SHARE * len(known) or len(known) < MOST_LEVELS or tells_days(known):
        return False
    told, _ = numbers_in(known, len(known))
    return are_id_numbers(known) or bool(as_numbers(told).isna().mean() > 0.5)


def _is_text_of_numbers(known: "pd.Series[str]") -> bool:
    """Whether cells are many different numbers that are written as sites do not read them."""
    if known.nunique() <= FEW_VALUES or tells_days(known) or not look_like_numbers(known):
        return False
    told, _ = numbers_in(known, len(known))
    return bool(as_numbers(told).isna().mean() > 0.5) and not starts_with_zeros(known)


def in_a_line(text: str) -> str:
    """Return a text that a comment can hold, whatever a column is called."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
