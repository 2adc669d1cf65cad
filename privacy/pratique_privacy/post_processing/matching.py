"""Choosing rows so that a table's two-way marginals are those of the model it was sampled from.

A table of n independent draws has two-way marginals with sampling error of their own, as large as
the model's on Adult. Post-processing removes most of it: rows of a large pool are swapped into the
table as long as its two-way counts come nearer to the pool's.

Shapes: M pool rows, N chosen rows, D columns, Q pairs of columns, T cells of all two-way tables.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.kernels import compiled

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Measured on Adult: the sampled table's two-way distance to the training rows falls from .0111 to
# .0057, that of the pool being .0051; more passes or smaller batches change the fourth digit.
_PASSES = 100
_BATCH_ROWS = 4_096
_SWAPPED_SHARE = 0.01
_UNITS = 2.0**12
"""Of an excess, as a whole number: sums of floats may differ between processors, and a site has to
choose the rows that the coordinator chose."""


def matching_rows(
    pool_MD: IntArray,
    weights_M: Float64Array,
    num_rows: int,
    num_levels: Sequence[int],
    rng: np.random.Generator,
) -> IntArray:
    """Return positions of pool rows, (N,), in random order.

    Args:
        pool_MD: codes of the pool.
        weights_M: the pool stands for a distribution in which its rows have these weights.
        num_rows: N.
        num_levels: of each column.
        rng: need not be secret.
    """
    tables = _TwoWayTables(num_levels)
    wanted_T = tables.count(pool_MD, weights_M) * (num_rows / weights_M.sum())
    importance_T = 1 / np.sqrt(wanted_T + 1)
    chosen_N = systematic(pool_MD, weights_M, num_rows, rng)
    present_T = tables.count(pool_MD[chosen_N], np.ones(num_rows))
    batch = min(num_rows, _BATCH_ROWS)
    cumulative_M = np.cumsum(weights_M)
    rounds = -(-_PASSES * num_rows // batch)
    for number in range(rounds):
        excess_T = np.rint((present_T - wanted_T) * importance_T * _UNITS).astype(np.int64)
        fresh = np.searchsorted(cumulative_M, rng.random(batch) * cumulative_M[-1])
        places = rng.choice(num_rows, batch, replace=False)
        swaps = max(1, int(_SWAPPED_SHARE * (1 - number / rounds) * batch))
        best = fresh[_smallest(tables.costs(excess_T, pool_MD[fresh]), swaps)]
        cost_present = tables.costs(excess_T, pool_MD[chosen_N[places]])
        worst = places[_smallest(-cost_present, swaps)]
        changed = pool_MD[np.concatenate([best, chosen_N[worst]])]
        present_T += tables.count(changed, np.repeat([1.0, -1.0], swaps))
        chosen_N[worst] = best
    return rng.permutation(chosen_N)


def _smallest(costs: IntArray, count: int) -> IntArray:
    """Return the positions of the smallest costs, ascending; the first of equal ones."""
    unique = costs * len(costs) + np.arange(len(costs))
    return np.sort(np.argpartition(unique, count - 1)[:count])


def systematic(
    pool_MD: IntArray, weights_M: Float64Array, num_rows: int, rng: np.random.Generator
) -> IntArray:
    """Return positions of rows, each about as often as its weight asks for (Madow 1949)."""
    order = np.lexsort(pool_MD.T[::-1])
    cumulative = np.cumsum(weights_M[order])
    points = (np.arange(num_rows) + rng.random()) / num_rows * cumulative[-1]
    positions = np.searchsorted(cumulative, points)
    return np.asarray(order[np.minimum(positions, len(order) - 1)], np.int64)


class _TwoWayTables:
    """All two-way tables of rows, one after the other, pairs in the order of ``combinations``."""

    def __init__(self, num_levels: Sequence[int]) -> None:
        self._levels = np.asarray(num_levels, np.int64)
        sizes = np.array([a * b for a, b in combinations(num_levels, 2)], np.int64)
        self._offset = np.cumsum(sizes) - sizes
        self._size = int(sizes.sum())

    def count(self, codes_ND: IntArray, weights_N: Float64Array) -> Float64Array:
        """Return all tables' weighted counts, (T,)."""
        total_T = np.zeros(self._size)
        _count(codes_ND, weights_N, self._levels, self._offset, total_T)
        return total_T

    def costs(self, excess_T: IntArray, codes_ND: IntArray) -> IntArray:
        """Return the sum of a row's cells of ``excess_T``, (N,)."""
        costs_N = np.empty(len(codes_ND), np.int64)
        _add_up(excess_T, codes_ND, self._levels, self._offset, costs_N)
        return costs_N


@compiled
def _count(
    codes: IntArray, weights: Float64Array, levels: IntArray, offset: IntArray, total: Float64Array
) -> None:
    for i in range(len(codes)):
        pair = 0
        for a in range(len(levels)):
            for b in range(a + 1, len(levels)):
                total[offset[pair] + codes[i, a] * levels[b] + codes[i, b]] += weights[i]
                pair += 1


@compiled
def _add_up(
    excess: IntArray, codes: IntArray, levels: IntArray, offset: IntArray, costs: IntArray
) -> None:
    for i in range(len(codes)):
        pair = cost = 0
        for a in range(len(levels)):
            for b in range(a + 1, len(levels)):
                cost += excess[offset[pair] + codes[i, a] * levels[b] + codes[i, b]]
                pair += 1
        costs[i] = cost
