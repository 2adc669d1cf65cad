"""Numbers in cells, as tables write them, and limits around them.

Shapes: N cells that are not missing.
"""

import re
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SHARE_OF_A_TYPE = 0.95  # of cells that must be numbers or dates: a few typing errors do not count
_MOST = 1e15  # limits of a column are within it
_MOST_DECIMALS = 9
_LEAST_STEPS = 100  # of 10^-9 between the limits
_HEAVY_TAIL = 20.0  # 99.9th percentile over median
ID_DIGITS = 5
_SHARE_OF_ZEROS = 0.01  # in front of digits, in cells of codes: no program writes numbers so

_LEADING_ZERO = re.compile(r"0\d+")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_EITHER = re.compile(r"[-+]?\d{1,3},\d{3}")
_COMMA = re.compile(r"[-+]?\d*,\d+")
_BEYOND = re.compile(r"[<>≤≥]\s*=?\s*[-+−]?\d+([.,]\d*)?")
_WITH_MORE = re.compile(
    r"[-+−]?\d{1,3}([ .,'’]?\d{3})*([.,]\d+)?"
    r"(\s*[%°µa-z][%°µA-Za-z0-9/^]*|\s+[A-Za-z][A-Za-z0-9/^]*)?"
)
_NUMBER = re.compile(r"[-+]?\d*\.?(\d*)(?:[eE]([-+]?\d{1,4}))?")


def numbers_in(known_N: "pd.Series[str]", least_rows: int) -> "tuple[pd.Series[str], list[str]]":
    """Return cells with numbers as sites read them, and what has to be exported otherwise.

    Args:
        known_N: cells.
        least_rows: on how many a cell that is shown must rest.

    Returns:
        The cells, without those beyond a limit of a measurement if nearly all others are numbers;
        and notes.
    """
    told, notes = known_N, list[str]()
    comma = known_N.str.fullmatch(_COMMA) | known_N.str.fullmatch(_THOUSANDS)
    if comma.any():
        thousands = known_N[comma].str.fullmatch(_THOUSANDS).all()
        told = known_N.where(~comma, known_N.str.replace(",", "" if thousands else "."))
        either = known_N[comma].str.fullmatch(_EITHER).all()
        notes.append(
            "commas in numbers may be decimal ones or stand between thousands, which changes every "
            "limit; they are taken for the latter: export numbers without, and with a point"
            if thousands and either else
            "numbers are written with commas between thousands in this table, and sites read none: "
            "export them without" if thousands else
            "numbers are written with a decimal comma in this table, and sites read a point: "
            "export them so"
        )  # fmt: skip
    beyond = told.str.fullmatch(_BEYOND)
    if beyond.any():
        often = told[beyond].value_counts()
        shown = f" ('{often.index[0]}')" if often.iloc[0] >= least_rows else ""
        told = told[~beyond]
        notes.append(f"some cells are beyond a limit of the measurement{shown}, and sites read "
                     "numbers: export the limit, or what else stands for such a value")  # fmt: skip
    numbers = as_numbers(told)
    if len(told) < len(known_N) / 2 or not numbers.notna().mean() >= SHARE_OF_A_TYPE:
        return known_N, []
    if numbers.isna().any():
        notes.append("a few cells are no numbers: sites leave out rows with such a cell")
    return told, notes


def look_like_numbers(known_N: "pd.Series[str]") -> bool:
    """Whether cells are numbers with a unit, a sign or spaces that sites do not read."""
    return bool(known_N.str.fullmatch(_WITH_MORE).mean() >= SHARE_OF_A_TYPE)


def as_numbers(known_N: "pd.Series[str]") -> "pd.Series[float]":
    """Return what numbers cells tell; NaN where none, or where zeros in front say it is a code."""
    numbers = pd.to_numeric(known_N, errors="coerce").astype(float)
    if starts_with_zeros(known_N):
        numbers[:] = np.nan
    return numbers.where(np.isfinite(numbers) & (numbers.abs() <= _MOST))


def starts_with_zeros(known_N: "pd.Series[str]") -> bool:
    """Whether zeros in front of digits say that cells are codes."""
    return bool(known_N.str.fullmatch(_LEADING_ZERO).mean() >= _SHARE_OF_ZEROS)


def are_id_numbers(known_N: "pd.Series[str]") -> bool:
    """Whether cells are whole numbers of five digits or more, as ids of records are."""
    return bool(known_N.str.fullmatch(rf"\d{{{ID_DIGITS},}}").mean() >= SHARE_OF_A_TYPE)


def numeric(values: NDArray[np.float64], known: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """Return limits around all values, rounded outwards; nothing for too small a range.

    To two digits of the limits, or to the first digit of their range if that is finer: years are
    not seen from 1900 to 2100.
    """
    lower, upper = float(values.min()), float(values.max())
    if 0 < upper - lower < _LEAST_STEPS * 10.0**-_MOST_DECIMALS:
        return {}
    step = 10.0 ** floor(log10(max(abs(lower), abs(upper), 1e-9)) - 1)
    step = min(step, 10.0 ** floor(log10(upper - lower or step)))
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
