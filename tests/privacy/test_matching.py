from itertools import combinations

import numpy as np

from pratique_common.encoding import IntArray
from pratique_privacy.post_processing.matching import matching_rows, systematic

LEVELS = (6, 5, 4, 3)


def _pool(rng: np.random.Generator, rows: int) -> IntArray:
    first = rng.integers(0, 6, rows)
    second = (first + rng.integers(0, 3, rows)) % 5
    third = np.where(rng.random(rows) < 0.7, second % 4, rng.integers(0, 4, rows))
    return np.stack([first, second, third, rng.integers(0, 3, rows)], axis=1)


def _mean_tv(pool: IntArray, weights: np.ndarray, rows: IntArray) -> float:  # type: ignore[type-arg]
    distances = []
    for a, b in combinations(range(4), 2):
        size = LEVELS[a] * LEVELS[b]
        p = np.bincount(pool[:, a] * LEVELS[b] + pool[:, b], weights, size) / weights.sum()
        q = np.bincount(rows[:, a] * LEVELS[b] + rows[:, b], minlength=size) / len(rows)
        distances.append(0.5 * np.abs(p - q).sum())
    return float(np.mean(distances))


def test_most_of_the_sampling_error_goes() -> None:
    rng = np.random.default_rng(0)
    pool, weights = _pool(rng, 16_000), np.ones(16_000)
    random = pool[rng.choice(len(pool), 2_000)]
    chosen = pool[matching_rows(pool, weights, 2_000, LEVELS, rng)]
    assert chosen.shape == (2_000, 4)
    assert _mean_tv(pool, weights, chosen) < 0.25 * _mean_tv(pool, weights, random)


def test_weights_of_the_pool_count() -> None:
    rng = np.random.default_rng(1)
    pool = _pool(rng, 16_000)
    weights = np.where(pool[:, 0] == 0, 5.0, 1.0)
    chosen = pool[matching_rows(pool, weights, 2_000, LEVELS, rng)]
    assert _mean_tv(pool, weights, chosen) < 0.02 < _mean_tv(pool, np.ones(16_000), chosen)


def test_few_rows_and_repeats_with_the_seed() -> None:
    pool = _pool(np.random.default_rng(2), 300)
    for rows in (1, 7, 300):
        first, second = (
            matching_rows(pool, np.ones(300), rows, LEVELS, np.random.default_rng(3))
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)
        assert first.shape == (rows,)


def test_systematic_choice_has_at_most_one_row_more_or_less_than_asked() -> None:
    rng = np.random.default_rng(4)
    pool, weights = _pool(rng, 500), rng.random(500)
    times = np.bincount(systematic(pool, weights, 2_000, rng), minlength=500)
    assert (np.abs(times - 2_000 * weights / weights.sum()) < 1 + 1e-9).all()
