"""Inner loops of exact neighbour searches, compiled by numba: every query against every row.

Rows are taken in blocks that stay in a core's first cache, columns one after the other, so that
loops over rows are vectors. Distances are whole numbers below 2²⁴ held in 32-bit floats: their sums
are exact in any order, and a tie is a tie on every machine. Callers hand over some queries at a
time, so that they can be interrupted; the interpreter's lock is released.

Shapes: N queries, R rows, D columns; queries are (N, D), rows (D, R).
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]

EXACT_BELOW = 1 << 24
"""Whole numbers below are exact as 32-bit floats."""

_BLOCK_ROWS = 2_048
_FAR = np.float32(1e30)

# Nothing here is ever NaN; sums are not reordered.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz"}}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """Compile at the first call; keep the code beside this file or in the user's cache folder."""
    try:
        return cast(_Function, njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither folder can be written
        return cast(_Function, njit(**_OPTIONS)(function))


@_compiled
def nearest_rows(
    query_numbers: Float32Array,
    query_levels: Int32Array,
    numbers: Float32Array,
    levels: Int32Array,
    numbers_in_a: int,
    levels_in_a: int,
    unit: np.float32,
    own: int,
    first: Float32Array,
    second: Float32Array,
    position: IntArray,
    linkable: NDArray[np.bool_],
) -> None:
    """Find the two nearest rows, and whether one row is nearest on both halves of the columns.

    A number's column adds min(|q - r|, unit) and a level's adds unit where they differ.

    Args:
        query_numbers, query_levels: N queries.
        numbers, levels: R rows.
        numbers_in_a, levels_in_a: how many columns, the first ones, are in half a.
        unit: the most that one column adds.
        own: the row of query 0, of query 1 the next: none counts for itself. Negative: no such.
        first, second: (N,), written: the two least distances.
        position: (N,), written: the nearest row, the first of several.
        linkable: (N,), written.
    """
    num_rows = numbers.shape[1]
    halves = np.empty((2, _BLOCK_ROWS), np.float32)
    a, b = halves[0], halves[1]
    for i in range(len(query_numbers)):
        best = runner_up = best_a = best_b = _FAR
        where, joint = 0, False
        for start in range(0, num_rows, _BLOCK_ROWS):
            size = min(_BLOCK_ROWS, num_rows - start)
            halves[:] = 0
            for d in range(len(numbers)):
                half, value = halves[0 if d < numbers_in_a else 1], query_numbers[i, d]
                column = numbers[d, start : start + size]
                for r in range(size):
                    half[r] += min(abs(value - column[r]), unit)
            for d in range(len(levels)):
                half, level = halves[0 if d < levels_in_a else 1], query_levels[i, d]
                codes = levels[d, start : start + size]
                for r in range(size):
                    half[r] += np.float32(0) if level == codes[r] else unit
            if own >= 0 and start <= own + i < start + size:
                a[own + i - start] = b[own + i - start] = _FAR
            least = least_a = least_b = _FAR
            for r in range(size):
                least_a = min(least_a, a[r])
                least_b = min(least_b, b[r])
                least = min(least, a[r] + b[r])
            if least_a < best_a or least_b < best_b:
                joint = False  # rows before this block are nearest on one half at most
            best_a, best_b = min(best_a, least_a), min(best_b, least_b)
            if not joint and least_a == best_a and least_b == best_b:
                hits = 0
                for r in range(size):
                    hits += (a[r] == best_a) & (b[r] == best_b)
                joint = hits > 0
            if least < runner_up:
                for r in range(size):
                    distance = a[r] + b[r]
                    if distance < best:
                        best, runner_up, where = distance, best, start + r
                    elif distance < runner_up:
                        runner_up = distance
        first[i], second[i], position[i], linkable[i] = best, runner_up, where, joint


@_compiled
def best_agreement(
    query: Int32Array,
    weight: Float32Array,
    rows: Int32Array,
    bias: Float32Array,
    own: int,
    best: Float32Array,
) -> None:
    """Find the largest over rows of bias + Σ weight where query and row agree.

    Args:
        query: levels (N, D).
        weight: of the query's levels (N, D).
        rows: levels (D, R).
        bias: of rows (R,).
        own: as in ``nearest_rows``.
        best: (N,), written.
    """
    num_rows = rows.shape[1]
    total = np.empty(_BLOCK_ROWS, np.float32)
    for i in range(len(query)):
        most = np.float32(-np.inf)
        for start in range(0, num_rows, _BLOCK_ROWS):
            size = min(_BLOCK_ROWS, num_rows - start)
            total[:size] = bias[start : start + size]
            for d in range(len(rows)):
                level, more = query[i, d], weight[i, d]
                column = rows[d, start : start + size]
                for r in range(size):
                    total[r] += more if column[r] == level else np.float32(0)
            if start <= own + i < start + size and own >= 0:
                total[own + i - start] = -np.inf
            for r in range(size):
                most = max(most, total[r])
        best[i] = most


@_compiled
def log_mean_agreement(
    query: Int32Array, weight: Float32Array, rows: Int32Array, own: int, result: Float32Array
) -> None:
    """Find log of the mean over rows of exp(Σ weight where query and row agree).

    Args:
        query, weight, rows, own: as in ``best_agreement``.
        result: (N,), written.
    """
    num_rows = rows.shape[1]
    total = np.empty(num_rows, np.float32)
    for i in range(len(query)):
        total[:] = 0
        for d in range(len(rows)):
            level, more, column = query[i, d], weight[i, d], rows[d]
            for r in range(num_rows):
                total[r] += more if column[r] == level else np.float32(0)
        left_out = 0 <= own + i < num_rows and own >= 0
        if left_out:
            total[own + i] = -np.inf
        most = total.max()
        others = num_rows - 1 if left_out else num_rows
        result[i] = most + np.log(np.exp(total - most).sum() / others)
