"""What is measured: tables in which every patient counts once, and figures with intervals."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pratique_common.schema import TableSchema
from pratique_common.tables import Table, cap_rows, row_weights

Float64Array = NDArray[np.float64]

RESAMPLES = 60
"""Of a bootstrap. Its deviation then has a relative error of 9 %, 1 / √(2 · 59)."""

_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Rows:
    """A table as the generator sees it: rows a patient are capped, every patient weighs one."""

    columns: dict[str, NDArray[Any]]
    owner: NDArray[np.int64]
    """Number of each row's patient, (N,)."""
    weight: Float64Array
    """(N,)."""

    @classmethod
    def of(cls, table: Table, schema: TableSchema) -> Self:
        """Return a table's rows."""
        capped = cap_rows(table, schema)
        _, owner = np.unique(capped.patients.astype(str), return_inverse=True)
        return cls(capped.columns, owner.astype(np.int64), row_weights(capped))

    @property
    def num_patients(self) -> int:
        """Number of patients."""
        return int(self.owner.max(initial=-1)) + 1

    def take(self, keep: NDArray[np.bool_]) -> "Rows":
        """Return some of the rows, or none, with their weights."""
        _, owner = np.unique(self.owner[keep], return_inverse=True)
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Rows(columns, owner.astype(np.int64), self.weight[keep])

    def thinned(self, num_patients: int, rng: np.random.Generator) -> Float64Array:
        """Return weights of so many patients at random, (N,), 0 in rows of all others."""
        chosen = np.zeros(self.num_patients, bool)
        chosen[rng.permutation(self.num_patients)[:num_patients]] = True
        return self.weight * chosen[self.owner]

    def resampled(self, rng: np.random.Generator) -> Float64Array:
        """Return weights of one Poisson bootstrap of patients, (N,)."""
        return self.weight * rng.poisson(1, self.num_patients)[self.owner]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure with its 95 % interval, and what the same figure is without synthesis.

    What is not defined is NaN; so is what rests on too few patients, and then ``few`` says so.
    """

    id: str
    title: str
    value: float
    lower: float
    upper: float
    baseline: float | None
    baseline_title: str
    baseline_lower: float | None = None
    baseline_upper: float | None = None
    few: bool = False

    def blank(self) -> "Measure":
        """Return the measure without figures, as of too few patients."""
        nan = float("nan")
        floor = replace(self, baseline=nan, baseline_lower=nan, baseline_upper=nan)
        return replace(floor, value=nan, lower=nan, upper=nan, few=True)


def with_interval(
    value: float,
    resamples: list[float] | Float64Array,
    *,
    least: float = 0.0,
    most: float = 1.0,
) -> tuple[float, float, float]:
    """Return a value and its normal 95 % interval within what is possible.

    What is not defined (NaN) has an interval that is not, either.
    """
    if not np.isfinite(value):
        return value, value, value
    half = _Z_95 * float(np.nanstd(resamples))
    return value, max(least, value - half), min(most, value + half)


def bootstrap(
    statistic: Callable[[Float64Array], float], rows: Rows, rng: np.random.Generator
) -> list[float]:
    """Return a statistic of row weights on resamples of patients."""
    return [statistic(rows.resampled(rng)) for _ in range(RESAMPLES)]
