"""Columns of values on a line, which the generator sees as bins; and those of numbers.

Values that are shown lie on a grid: the whole numbers, or the multiples of 10^-decimals. Edges of
bins lie on it, too, so that every bin holds values that can be shown.
"""

from abc import abstractmethod
from collections.abc import Iterator
from decimal import Decimal
from math import ceil, floor, log10
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pratique_common.column_base import ColumnBase, Kind

Float64Array = NDArray[np.float64]

_DEFAULT_BINS = 16
_MAX_LIMIT = 1e15

_LEAST_DECIMALS, _MOST_DECIMALS = 2, 9
_DIGITS = 15  # that a 64-bit float keeps, whatever number they spell
_NEARLY = 1e-6  # of a step of the grid: 0.1 + 0.2 is 0.3


class BinnedColumn(ColumnBase):
    """Values on a line, seen as bins; the last bin includes its upper edge, and may be no more."""

    bins: int | None = Field(
        default=None, ge=1, le=200, description="16 if unset, or fewer where there are fewer values"
    )

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What the values are."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether values are whole numbers."""

    @abstractmethod
    def written_edges(self) -> Float64Array:
        """Return the edges as the study writes them, on the grid or between its points."""

    @abstractmethod
    def spell(self, value: float) -> str:
        """Return a value as people write it."""

    def stretch(self, values: Float64Array) -> Float64Array:
        """Return values on the scale on which the column's density is smooth."""
        return values

    def unstretch(self, values: Float64Array) -> Float64Array:
        """Undo ``stretch``."""
        return values

    def round_values(self, low: float, high: float, *, most: int) -> Float64Array:
        """Return the values that people write most often, from ``low`` to before ``high``.

        Args:
            low: on the grid.
            high: on the grid.
            most: how many; the roundest, and none if even these are more.
        """
        scale = 10.0**self.decimals_shown
        for step in self._round_steps():
            first, end = ceil(low * scale / step - _NEARLY), ceil(high * scale / step - _NEARLY)
            if end - first <= most:
                return np.arange(first, end) * step / scale
        return np.zeros(0)

    def _round_steps(self) -> Iterator[int]:
        """Yield steps between round values, each a multiple of the one before, in grid steps."""
        for power in range(1, _DIGITS + 1):
            yield 10**power // 2
            yield 10**power

    @property
    def decimals_shown(self) -> int:
        """Digits of synthetic values after the point."""
        return 0

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return len(self.bin_edges()) - 1

    @property
    def num_levels(self) -> int:
        """Number of codes: the bins and, where allowed, missing (the last code)."""
        return self.num_bins + int(self.can_be_missing)

    def bin_edges(self) -> Float64Array:
        """Return the ``num_bins + 1`` edges, on the grid; only the last two may be equal.

        Inner edges are rounded up, which moves no value of the grid into another bin, and limits
        towards the inside.
        """
        scale = 10.0**self.decimals_shown
        written = self.written_edges() * scale
        edges = np.ceil(written - _NEARLY)
        edges[-1] = np.floor(written[-1] + _NEARLY)
        edges[1:-1] = np.minimum(edges[1:-1], edges[-1])
        return np.asarray((edges + 0.0) / scale)  # no -0.0

    def open_edges(self) -> Float64Array:
        """Return edges (num_bins + 1,) such that a value stands for the interval to the next."""
        edges = self.bin_edges()
        scale = 10.0**self.decimals_shown
        return np.append(edges[:-1], (np.rint(edges[-1] * scale) + 1) / scale)

    def domain_in_words(self) -> str:
        """Return lowest and highest value."""
        edges = self.bin_edges()
        return f"{self.spell(edges[0])} to {self.spell(edges[-1])}"

    @property
    def _bins(self) -> int:
        return _DEFAULT_BINS if self.bins is None else self.bins

    def _check_bins(self) -> None:
        ends, edges = self.bin_edges()[[0, -1]], self.open_edges()
        if (np.diff(edges) * 10.0**self.decimals_shown < 0.5).any():
            digits = "" if self.whole else f" with {self.decimals_shown} decimals"
            more = "" if self.whole else " or more decimals"
            raise ValueError(
                f"every bin of a {self.kind} column must hold a value{digits}: use fewer bins{more}"
            )
        if not ends[0] < ends[1]:
            raise ValueError("the limits must hold two values or more: widen them, or use decimals")
        stretched = self.stretch(edges)
        if not (np.diff(stretched) > 1e-12 * np.abs(stretched).max()).all():
            raise ValueError("the range is too narrow for its bins")


class NumericColumn(BinnedColumn):
    """Numbers in a closed range."""

    type: Literal["numeric"]
    lower: float | None = None
    upper: float | None = None
    edges: tuple[float, ...] | None = Field(default=None, description="instead of limits and bins")
    spacing: Literal["equal", "log"] = Field(
        default="equal", description="of bins between the limits; log is for heavy tails"
    )
    integer: bool = False
    decimals: int | None = Field(
        default=None,
        ge=0,
        le=_MOST_DECIMALS,
        description="digits of synthetic non-integers after the point; if unset, as many as limits "
        "and narrow bins need, 2 or more",
    )
    unit: str = ""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.edges is not None:
            if self.lower is not None or self.upper is not None or self.bins is not None:
                raise ValueError("write either edges, or lower, upper and bins")
            if len(self.edges) < 2 or any(np.diff(self.edges) <= 0):
                raise ValueError("edges must be two or more increasing numbers")
        elif self.lower is None or self.upper is None:
            raise ValueError("lower and upper are needed, or edges")
        elif not self.lower < self.upper:
            raise ValueError("lower must be below upper")
        if self.spacing == "log" and (self.lower is None or self.lower < 0):
            raise ValueError("log spacing needs lower and upper, and no negative numbers")
        ends = self.edges if self.edges is not None else (self.lower, self.upper)
        if any(abs(end) > _MAX_LIMIT for end in ends if end is not None):
            raise ValueError(f"limits must be within ±{_MAX_LIMIT:g}")
        self._check_bins()
        return self

    @property
    def kind(self) -> Kind:
        """Numbers."""
        return "number"

    @property
    def whole(self) -> bool:
        """As the study says."""
        return self.integer

    @property
    def decimals_shown(self) -> int:
        """As the study says, or as limits and the narrowest bin need; 15 digits in all at most.

        On a log scale two digits of a bin's width are shown: steps are small beside small values.
        """
        if self.integer:
            return 0
        edges = self.written_edges()
        decimals = self.decimals
        if decimals is None:
            ends = self.edges or (self.lower, self.upper)
            written = (Decimal(repr(end)).normalize().as_tuple().exponent for end in ends)
            narrowest = max(np.diff(edges).min(), 10.0**-_MOST_DECIMALS)
            of_bins = int(self.spacing == "log") - floor(log10(narrowest))
            decimals = max(_LEAST_DECIMALS, of_bins, *(-int(power) for power in written))
        whole = floor(log10(max(np.abs(edges).max(), 1.0))) + 1
        return max(0, min(decimals, _MOST_DECIMALS, _DIGITS - whole))

    def written_edges(self) -> Float64Array:
        """Return edges as listed, or equally far from each other on the scale of ``spacing``."""
        if self.edges is not None:
            return np.asarray(self.edges, np.float64)
        assert self.lower is not None and self.upper is not None
        ends = self.stretch(np.array([self.lower, self.upper]))
        edges = self.unstretch(np.linspace(ends[0], ends[1], self._bins + 1))
        edges[[0, -1]] = self.lower, self.upper
        return np.asarray(edges)

    def bin_edges(self) -> Float64Array:
        """Return the edges on the grid; log-spaced bins are fewer where edges meet on it."""
        edges = super().bin_edges()
        if self.spacing == "equal":
            return edges
        if self.lower:  # zero has no logarithm
            edges = np.maximum(edges, 10.0**-self.decimals_shown)
        return edges[np.diff(edges, prepend=-np.inf) > 0]

    def stretch(self, values: Float64Array) -> Float64Array:
        """Return log(value), or log(1 + value / step) where the range begins at 0."""
        if self.spacing == "equal":
            return values
        return np.log1p(values / self._step) if self.lower == 0 else np.log(values)

    def unstretch(self, values: Float64Array) -> Float64Array:
        """Undo ``stretch``."""
        if self.spacing == "equal":
            return values
        return np.expm1(values) * self._step if self.lower == 0 else np.exp(values)

    def spell(self, value: float) -> str:
        """Return the digits that are shown."""
        return f"{round(value, self.decimals_shown):.{_DIGITS}g}"

    def domain_in_words(self) -> str:
        """Return lowest and highest value with the unit."""
        return super().domain_in_words() + (f" {self.unit}" if self.unit else "")

    @property
    def _bins(self) -> int:
        coarse = self.spacing == "equal" and (self.integer or self.decimals is not None)
        if self.bins is not None or not coarse:
            return super()._bins
        assert self.lower is not None and self.upper is not None
        steps = floor((self.upper - self.lower) / self._step + _NEARLY)
        return max(1, min(_DEFAULT_BINS, steps))

    @property
    def _step(self) -> float:
        """The smallest difference of values."""
        decimals = _LEAST_DECIMALS if self.decimals is None else self.decimals
        return 1.0 if self.integer else 10.0**-decimals
