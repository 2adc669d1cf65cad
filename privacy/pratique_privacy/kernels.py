"""Inner loops of agreement with rows, compiled by numba: every query against every row.

Rows are taken in blocks that stay in a core's first cache, columns one after the other, so that
loops over rows are vectors. Callers hand over some queries at a time, so that they can be
interrupted; the interpreter's lock is released.

Shapes: N queries, R rows, D columns; queries are (N, D), rows (D, R).
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]

_BLOCK_ROWS = 2_048

# Nothing here is ever NaN; sums of floats are not reordered.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz"}}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile at the first call; keep the code beside this file or in the user's cache folder."""
    try:
        return cast(_Function, njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither folder can be written
        return cast(_Function, njit(**_OPTIONS)(function))


@compiled
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
        own: the row of query 0, of query 1 the next: none counts for itself. Negative: no such.
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


@compiled
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
