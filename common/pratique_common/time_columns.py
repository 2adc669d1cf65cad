"""Columns of dates and of times of day.

Dates are days since 1970-01-01, times of day minutes since midnight; both are whole numbers.
"""

import datetime
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from pratique_common.binned_columns import BinnedColumn, Float64Array
from pratique_common.column_base import Kind

_EPOCH = datetime.date(1970, 1, 1)
_MINUTES_A_DAY = 24 * 60


class DateColumn(BinnedColumn):
    """Calendar days. A file may hold ISO dates, ISO times of which the day is taken, or dates."""

    type: Literal["date"]
    first: datetime.date
    last: datetime.date

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.first < self.last:
            raise ValueError("first must be before last")
        self._check_bins()
        return self

    @property
    def kind(self) -> Kind:
        """Dates."""
        return "date"

    @property
    def whole(self) -> bool:
        """Days are."""
        return True

    def written_edges(self) -> Float64Array:
        """Return edges in days since 1970-01-01: as many equal parts as the days allow."""
        first, last = ((day - _EPOCH).days for day in (self.first, self.last))
        bins = min(self._bins, last - first) if self.bins is None else self._bins
        return np.linspace(first, last, bins + 1)

    def round_values(self, low: float, high: float, *, most: int) -> Float64Array:
        """Return first days of months, or of years: dates of which people know no more."""
        firsts = np.arange(_month_of(low - 1) + 1, _month_of(high - 1) + 1)
        for months in (firsts, firsts[firsts % 12 == 0]):
            if len(months) <= most:
                return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.float64)
        return np.zeros(0)

    def spell(self, value: float) -> str:
        """Return an ISO date."""
        return (_EPOCH + datetime.timedelta(days=int(value))).isoformat()


class TimeColumn(BinnedColumn):
    """Times of day, to the minute; of a date with a time, the time is taken."""

    type: Literal["time"]

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        self._check_bins()
        return self

    @property
    def kind(self) -> Kind:
        """Times of day."""
        return "time"

    @property
    def whole(self) -> bool:
        """Minutes are."""
        return True

    def written_edges(self) -> Float64Array:
        """Return edges in minutes since midnight."""
        bins = 24 if self.bins is None else self.bins  # hours
        edges = np.linspace(0, _MINUTES_A_DAY, bins + 1)
        edges[-1] -= 1
        return edges

    def _round_steps(self) -> Iterator[int]:
        """Yield parts of an hour, and hours."""
        yield from (5, 15, 30, 60, 180, 360, 720)

    def spell(self, value: float) -> str:
        """Return hours and minutes."""
        return f"{int(value) // 60:02d}:{int(value) % 60:02d}"


def _month_of(day: float) -> int:
    """Return the month since January 1970 of a day since 1970-01-01."""
    return int(np.datetime64(int(day), "D").astype("datetime64[M]").astype(np.int64))
