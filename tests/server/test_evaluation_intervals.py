"""Intervals of likeness, against what figures vary by when everything is drawn again."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pratique_server.evaluation.like_sized import LikeSized, figure, shares_of, total_variation
from pratique_server.evaluation.rows import Rows

NUM_CELLS, REPEATS = 60, 120
SHARES = np.arange(1, NUM_CELLS + 1) / np.arange(1, NUM_CELLS + 1).sum()
Z_95 = 1.96


def _rows(num_patients: int) -> Rows:
    return Rows({}, np.arange(num_patients), np.ones(num_patients))


def _figures(sizes: tuple[int, int, int], skew: float) -> NDArray[np.float64]:
    """Return values and half widths of distance and floor, (repeats, 2, 2), each of new tables."""
    away = SHARES * np.linspace(1 - skew, 1 + skew, NUM_CELLS)
    found = []
    for number in range(REPEATS):
        rng = np.random.default_rng(number)
        sized = LikeSized.of(*(_rows(size) for size in sizes), rng)
        weights = sized.train, sized.synthetic, sized.test
        shares = [
            shares_of(rng.choice(NUM_CELLS, size, p=p / p.sum()), weight, NUM_CELLS)
            for size, weight, p in zip(sizes, weights, (SHARES, away, SHARES), strict=True)
        ]
        figures = [figure(total_variation(shares[0], other)) for other in shares[1:]]
        found.append([(value, (upper - lower) / 2) for value, lower, upper in figures])
    return np.array(found)


@pytest.mark.parametrize("skew", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [(1_500, 400, 400), (1_500, 3_000, 400), (1_500, 400, 3_000)])
def test_intervals_are_as_wide_as_figures_vary(sizes: tuple[int, int, int], skew: float) -> None:
    """Never narrower, and less than twice as wide: also of a table that five draws are taken of."""
    found = _figures(sizes, skew)
    for place in (0, 1):
        values, half_widths = found[:, place].T
        ratio = half_widths.mean() / (Z_95 * values.std(ddof=1))
        # The deviation of 120 values is known to within 13 %, at 95 %.
        assert 0.87 < ratio < 2.1, (place, ratio)
        assert np.mean(np.abs(values - values.mean()) <= half_widths) > 0.9


def test_a_figure_without_patients_is_none() -> None:
    weights = LikeSized.of(_rows(20), _rows(0), _rows(20), np.random.default_rng(0))
    nothing = shares_of(np.zeros(0, np.int64), weights.synthetic, NUM_CELLS)
    real = shares_of(np.zeros(20, np.int64), weights.train, NUM_CELLS)
    assert np.isnan(figure(total_variation(real, nothing))).all()
