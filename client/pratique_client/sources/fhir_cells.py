"""One column of a table made of FHIR resources: what several resources of one row come to.

Results do not depend on the order of resources: an export may write them in another one next time.
"""

import datetime
import math
import sys
from array import array
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from typing import Literal, Protocol

Take = Literal["first", "last", "least", "most", "mean", "count", "exists"]

_EXACT = Context(prec=60)  # sums of decimals do not depend on their order


class Cells(Protocol):
    """The cells of one column: K keys, patients or rows, numbered from 0."""

    def add(self, key: int, text: str, moment: float) -> None:
        """Take a value of a key, at a moment in seconds; NaN is no moment."""

    def text(self, key: int) -> str | None:
        """Return what a key's values come to, None if it has none."""


class Chosen:
    """One of a key's values: the one with the greatest rank; of equals, the lesser text."""

    def __init__(self, num_keys: int, rank: Callable[[str, float], float]) -> None:
        self._rank, self._best = rank, array("d", [-math.inf]) * num_keys
        self._texts: list[str | None] = [None] * num_keys

    def add(self, key: int, text: str, moment: float) -> None:
        """See ``Cells``."""
        rank, known = self._rank(text, moment), self._texts[key]
        if math.isnan(rank):
            return
        best = self._best[key]
        if known is None or rank > best or (rank == best and text < known):
            self._best[key], self._texts[key] = rank, sys.intern(text)

    def text(self, key: int) -> str | None:
        """See ``Cells``."""
        return self._texts[key]


class Mean:
    """The mean of a key's numbers."""

    def __init__(self, num_keys: int) -> None:
        self._counts = array("q", [0]) * num_keys
        self._sums: list[Decimal | None] = [None] * num_keys

    def add(self, key: int, text: str, moment: float) -> None:
        """See ``Cells``; what is no number does not count."""
        del moment
        try:
            number = Decimal(text)
        except InvalidOperation:
            return
        if number.is_finite():
            self._sums[key] = _EXACT.add(self._sums[key] or Decimal(0), number)
            self._counts[key] += 1

    def text(self, key: int) -> str | None:
        """See ``Cells``."""
        total = self._sums[key]
        return None if total is None else repr(float(_EXACT.divide(total, self._counts[key])))


class Count:
    """How many values a key has, or whether it has any."""

    def __init__(self, num_keys: int, *, exists: bool) -> None:
        self._counts, self._exists = array("q", [0]) * num_keys, exists

    def add(self, key: int, text: str, moment: float) -> None:
        """See ``Cells``."""
        del text, moment
        self._counts[key] += 1

    def text(self, key: int) -> str | None:
        """Return a number, or yes or no."""
        if self._exists:
            return "yes" if self._counts[key] else "no"
        return str(self._counts[key])


def cells_for(take: Take, num_keys: int) -> Cells:
    """Return the empty cells of a column."""
    match take:
        case "mean":
            return Mean(num_keys)
        case "count" | "exists":
            return Count(num_keys, exists=take == "exists")
        case "last":  # what has no moment comes behind all that has one
            return Chosen(num_keys, lambda _, at: -sys.float_info.max if math.isnan(at) else at)
        case "first":
            return Chosen(num_keys, lambda _, at: -sys.float_info.max if math.isnan(at) else -at)
        case "least":
            return Chosen(num_keys, lambda text, _: -number_of(text))
        case "most":
            return Chosen(num_keys, lambda text, _: number_of(text))


def number_of(text: str) -> float:
    """Return a text's number, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def seconds_of(text: str | None) -> float:
    """Return the moment of a FHIR date or time, of which all after the year may be left out.

    In seconds since 1970 (UTC, and UTC is taken where no zone stands); NaN if it is none.
    """
    moment = _moment(text)
    if moment is None:
        return math.nan
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()


def whole_years(since: str | None, until: str | None) -> str | None:
    """Return the completed years from one date to another, None if one is missing."""
    first, last = _moment(since), _moment(until)
    if first is None or last is None:
        return None
    before = (last.month, last.day) < (first.month, first.day)
    return str(last.year - first.year - int(before))


def _moment(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    whole = {4: f"{text}-01-01", 7: f"{text}-01"}.get(len(text), text)
    try:
        return datetime.datetime.fromisoformat(whole)
    except ValueError:
        return None
