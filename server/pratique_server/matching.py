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

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Measured on Adult: the sampled table's two-way distance to the training rows falls from .0111 to
# .0057, that of the pool being .0051; more passes or smaller batches change the fourth digit.
_PASSES = 100
_BATCH_ROWS = 4_096
_MOST_CELLS = 2_000_000  # of a batch: bounds its memory for tables of many columns
_SWAPPED_SHARE = 0.01


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
    present_T = tables.count(pool_MD[chosen_N])
    batch = min(num_rows, max(1, min(_BATCH_ROWS, _MOST_CELLS // len(tables.pairs))))
    cumulative_M = np.cumsum(weights_M)
    rounds = -(-_PASSES * num_rows // batch)
    for number in range(rounds):
        excess_T = ((present_T - wanted_T) * importance_T).astype(np.float32)
        fresh = np.searchsorted(cumulative_M, rng.random(batch) * cumulative_M[-1])
        places = rng.choice(num_rows, batch, replace=False)
        swaps = max(1, int(_SWAPPED_SHARE * (1 - number / rounds) * batch))
        cost_fresh = excess_T[tables.cells(pool_MD[fresh])].sum(1)
        cost_present = excess_T[tables.cells(pool_MD[chosen_N[places]])].sum(1)
        best = fresh[np.argpartition(cost_fresh, swaps - 1)[:swaps]]
        worst = places[np.argpartition(-cost_present, swaps - 1)[:swaps]]
        present_T += tables.count(pool_MD[best]) - tables.count(pool_MD[chosen_N[worst]])
        chosen_N[worst] = best
    return rng.permutation(chosen_N)


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
    """All two-way tables of rows, one after the other."""

    def __init__(self, num_levels: Sequence[int]) -> None:
        self.pairs = list(combinations(range(len(num_levels)), 2))
        self._first = np.array([a for a, _ in self.pairs])
        self._second = np.array([b for _, b in self.pairs])
        levels = np.asarray(num_levels)
        self._stride = levels[self._second]
        sizes = levels[self._first] * self._stride
        self._offset = np.cumsum(sizes) - sizes
        self._size = int(sizes.sum())

    def cells(self, codes_ND: IntArray) -> IntArray:
        """Return the cell of each row in each table, (N, Q)."""
        first, second = codes_ND[:, self._first], codes_ND[:, self._second]
        return np.asarray(first * self._stride + second + self._offset, np.int64)

    def count(self, codes_ND: IntArray, weights_N: Float64Array | None = None) -> Float64Array:
        """Return all tables' counts, (T,)."""
        block = max(1, _MOST_CELLS // len(self.pairs))
        total_T = np.zeros(self._size)
        for start in range(0, len(codes_ND), block):
            cells_NQ = self.cells(codes_ND[start : start + block])
            weights = None
            if weights_N is not None:
                weights = np.repeat(weights_N[start : start + block], len(self.pairs))
            total_T += np.bincount(cells_NQ.ravel(), weights, self._size)
        return total_T
