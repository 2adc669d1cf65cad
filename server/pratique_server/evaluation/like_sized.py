"""The synthetic and the real test table at one size, each beside the training table.

The distance between two finite tables is largely sampling, the more the smaller they are: two real
tables of 100 patients are farther apart than a poor synthetic table of 10,000 is from either. So
both are taken at the number of patients of the smaller one.

A figure is the mean of K draws of n of a table's M patients. A draw's shares vary by v / n, those
of two draws go together by v / M, and so the mean varies by c² v / n, c² = n / M + (1 - n / M) / K.
A resample is a draw whose patients weigh 1 + c (p - 1) with p from a Poisson distribution of mean
1: weights of mean 1 and variance c² vary shares by just that (weighted bootstrap: Praestgaard,
Wellner 1993, "Exchangeably weighted bootstraps of the general empirical process", Ann. Probab. 21).

Intervals are 1 to 2 times as wide as need be (``tests/server/test_evaluation_intervals.py``): a
draw's own chance is in its distance already, and a resample adds as much again.

Shapes: N rows, K draws and R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pratique_server.evaluation.rows import RESAMPLES, Rows, with_interval

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

DRAWS = 5
"""Of patients of the larger table, whose mean is the figure: it then varies with the draw by less
than half of what it varies with the patients of the smaller one, √(1 / 5)."""

_RESAMPLES_A_DRAW = RESAMPLES // DRAWS

_BESIDE = np.r_[np.zeros(DRAWS, np.int64), np.arange(1, RESAMPLES + 1)]


@dataclass(frozen=True)
class LikeSized:
    """Weights of three tables' rows: K draws of so many patients, then R resamples, a draw in turn.

    The training table has all patients, in all K alike.
    """

    num_patients: int
    train: list[Float64Array]
    """As it is, then R resamples: (N,) each."""
    synthetic: list[Float64Array]
    """K + R, (N,) each."""
    test: list[Float64Array]
    """K + R, (N,) each."""

    @classmethod
    def of(cls, train: Rows, synthetic: Rows, test: Rows, rng: np.random.Generator) -> Self:
        """Draw and resample."""
        size = min(synthetic.num_patients, test.num_patients)
        resamples = [train.resampled(rng) for _ in range(RESAMPLES)]
        drawn = [_draws(rows, size, rng) for rows in (synthetic, test)]
        return cls(size, [train.weight, *resamples], *drawn)


def _draws(rows: Rows, size: int, rng: np.random.Generator) -> list[Float64Array]:
    draws = [rows.thinned(size, rng) for _ in range(DRAWS)]
    share = size / max(1, rows.num_patients)
    spread = np.sqrt(share + (1 - share) / DRAWS)
    resamples = []
    for number in range(RESAMPLES):
        times = 1 + spread * (rng.poisson(1, rows.num_patients) - 1)
        resamples.append(draws[number % DRAWS] * times[rows.owner])
    return draws + resamples


def beside(train_R: Float64Array) -> Float64Array:
    """Return what was found of the training table in the places of K draws and R resamples."""
    return np.asarray(train_R[_BESIDE])


def figure(found: Float64Array, *, most: float = 1.0) -> tuple[float, float, float]:
    """Return the mean of K draws with the interval that R resamples give, from (K + R,)."""
    value = float(np.mean(found[:DRAWS]))
    if not np.isfinite(value):
        return value, value, value
    of_draw = found[DRAWS:].reshape(_RESAMPLES_A_DRAW, DRAWS)
    # What draws differ by is in the spread of weights: here each draw's own mean is taken away.
    free = _RESAMPLES_A_DRAW / (_RESAMPLES_A_DRAW - 1)
    around = np.sqrt(free) * (of_draw - np.nanmean(of_draw, axis=0))
    return with_interval(value, around.ravel(), most=most)


def shares_of(cell_N: IntArray, weights: Sequence[Float64Array], size: int) -> Float64Array:
    """Return the share of each cell under each of the weights, (len(weights), size)."""
    counts = np.stack([np.bincount(cell_N, weight, minlength=size) for weight in weights])
    total = counts.sum(1, keepdims=True)  # 0 in some resample of very few patients
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return np.asarray(shares)


def total_variation(train_R: Float64Array, other_R: Float64Array) -> Float64Array:
    """Return distances of shares of cells, (R, cells) each, of draws and resamples, (K + R,)."""
    return np.asarray(0.5 * np.abs(beside(train_R) - other_R).sum(1))
