"""Marked values: unlikely texts and numbers, planted in records and searched for elsewhere."""

import struct
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

PATIENT, LEVEL, NOT_A_NUMBER = "ZQXPATIENT4711", "ZQXLEVEL4711", "ZQX-47118153"
# Not 987654321: digits of many a fraction of 81 patients.
NUMBER, OUTSIDE = 23.471181537, 731946285.25
TEXTS = (PATIENT, LEVEL, NOT_A_NUMBER, str(NUMBER), "23.4711", "731946285", "47118153")


def plant(source: Path, target: Path) -> Path:
    """Copy a cohort's table with marks: good rows with unlikely values, and bad ones."""
    table = pd.read_csv(source, dtype=str, keep_default_na=False)
    bmi, smoking = table.columns.get_loc("bmi"), table.columns.get_loc("smoking")
    table["patient"] = table["patient"].str.replace("-0", f"-{PATIENT}-0")
    table.iloc[0:4, bmi] = str(NUMBER)
    table.iloc[4:6, bmi] = str(OUTSIDE)  # clamped
    table.iloc[6:8, bmi] = NOT_A_NUMBER  # these rows are dropped
    table.iloc[8:10, smoking] = LEVEL
    table.to_csv(target, index=False)
    return target


def found_in(content: bytes) -> list[str]:
    """Return the marks that are in some bytes, as text or as floating-point numbers."""
    needles = {text: (text.encode(), text.encode("utf-16-le")) for text in TEXTS}
    for number in (NUMBER, OUTSIDE):
        needles[f"{number} as a float"] = (struct.pack("<d", number), struct.pack(">d", number))
    return [name for name, forms in needles.items() if any(form in content for form in forms)]


def found_below(folder: Path, *, but: Iterable[Path] = ()) -> dict[str, list[str]]:
    """Return the marks in every file below a folder, by its name; ``but`` are not looked at."""
    spared = set(but)
    files = [p for p in folder.rglob("*") if p.is_file() and p not in spared]
    assert files
    marks = {str(p.relative_to(folder)): found_in(p.read_bytes()) for p in files}
    return {name: found for name, found in marks.items() if found}
