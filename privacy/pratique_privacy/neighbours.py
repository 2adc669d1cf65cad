"""Exact nearest neighbours of mixed rows under Gower's distance, in blocks of constant memory.

Shapes: Q query rows, R reference rows. A column contributes at most 1 and the distance is their
sum: numbers are mapped by the ECDF of a *public* table (the candidate), never by real ranges;
levels that differ count 1; missing is a level, and missing against missing is a match.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]

_BLOCK_CELLS = 1 << 24
_MISSING = 2.0  # |2 - u| ≥ 1 for every u in [0, 1]; clamped to 1


@dataclass(frozen=True)
class _Half:
    """Encoded columns of one half of the table."""

    complete: Tensor  # (rows, numbers without missing values)
    gappy: Tensor  # (rows, numbers that may be missing)
    onehot: Tensor  # (rows, levels)
    num_categorical: int

    def rows(self, block: slice) -> "_Half":
        return _Half(
            self.complete[block], self.gappy[block], self.onehot[block], self.num_categorical
        )


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready for distances: the two halves of the columns are kept apart for linkability."""

    halves: tuple[_Half, _Half]
    num_rows: int


@dataclass(frozen=True)
class Neighbours:
    """For each query row: distances to its nearest and second nearest reference row, the nearest
    row's position, and whether one row is nearest on both halves of the columns at once."""

    first: Float64Array
    second: Float64Array
    nearest: NDArray[np.int64]
    linkable: NDArray[np.bool_]


class MixedEncoder:
    """Maps rows to the space of the distance; fitted on a public table alone."""

    def __init__(self, schema: TableSchema, public: Columns) -> None:
        self._schema = schema
        self._sorted = {
            column.name: np.sort(public[column.name][~np.isnan(public[column.name])])
            for column in schema.columns
            if not isinstance(column, CategoricalColumn)
        }
        # Alternating columns, so that both halves hold numbers and levels.
        numeric = [c for c in schema.columns if not isinstance(c, CategoricalColumn)]
        levels = [c for c in schema.columns if isinstance(c, CategoricalColumn)]
        self._halves = [[*numeric[half::2], *levels[1 - half :: 2]] for half in (0, 1)]

    def encode(self, columns: Columns) -> EncodedRows:
        """Encode rows of the schema."""
        num_rows = len(next(iter(columns.values())))
        first, second = (self._encode_half(half, columns, num_rows) for half in self._halves)
        return EncodedRows((first, second), num_rows)

    def _encode_half(self, half: list[Any], columns: Columns, num_rows: int) -> _Half:
        complete: list[Float64Array] = []
        gappy: list[Float64Array] = []
        onehots: list[NDArray[np.bool_]] = []
        for column in half:
            values = columns[column.name]
            if not isinstance(column, CategoricalColumn):
                (gappy if column.can_be_missing else complete).append(
                    self._ecdf(column.name, values)
                )
            else:
                levels = [*column.levels, None]
                onehots.append(np.stack([values == level for level in levels], axis=1))
        return _Half(
            _tensor(complete, num_rows),
            _tensor(gappy, num_rows),
            torch.from_numpy(
                np.concatenate(onehots, axis=1).astype(np.float32)
                if onehots
                else np.zeros((num_rows, 0), np.float32)
            ),
            len(onehots),
        )

    def _ecdf(self, name: str, values: NDArray[Any]) -> Float64Array:
        public = self._sorted[name]
        below = np.searchsorted(public, values, side="left")
        up_to = np.searchsorted(public, values, side="right")
        ranks = (below + up_to) / (2 * max(1, len(public)))
        return np.asarray(np.where(np.isnan(values), _MISSING, ranks), np.float64)


def _tensor(columns: list[Float64Array], num_rows: int) -> Tensor:
    stacked = np.stack(columns, axis=1) if columns else np.zeros((num_rows, 0))
    return torch.from_numpy(stacked.astype(np.float32))


def _distances(query: _Half, reference: _Half) -> Tensor:
    """Return (Q, R) distances on one half of the columns; identical rows are exactly 0."""
    matches_QR = query.onehot @ reference.onehot.T
    distance_QR = query.num_categorical - matches_QR
    if query.complete.shape[1]:
        distance_QR += torch.cdist(query.complete, reference.complete, p=1)
    for column in range(query.gappy.shape[1]):
        gap_QR = query.gappy[:, column, None] - reference.gappy[None, :, column]
        distance_QR += gap_QR.abs_().clamp_(max=1.0)
    return distance_QR


def nearest(
    query: EncodedRows, reference: EncodedRows, *, leave_out_self: bool = False
) -> Neighbours:
    """Return the exact nearest neighbours of every query row.

    Args:
        query: Q rows.
        reference: R ≥ 3 rows.
        leave_out_self: query row i is reference row i and does not count.
    """
    blocks = []
    step = max(1, _BLOCK_CELLS // max(1, reference.num_rows))
    for start in range(0, query.num_rows, step):
        rows = slice(start, min(start + step, query.num_rows))
        half_a, half_b = (
            _distances(half.rows(rows), other)
            for half, other in zip(query.halves, reference.halves, strict=True)
        )
        if leave_out_self:
            own = torch.arange(rows.start, rows.stop)
            half_a[torch.arange(len(own)), own] = torch.inf
            half_b[torch.arange(len(own)), own] = torch.inf
        nearest_a = half_a == half_a.amin(1, keepdim=True)
        nearest_b = half_b == half_b.amin(1, keepdim=True)
        linkable = nearest_a.logical_and_(nearest_b).any(1)
        whole = half_a.add_(half_b)
        values, positions = whole.topk(2, dim=1, largest=False)
        blocks.append((values.double().numpy(), positions[:, 0].numpy(), linkable.numpy()))
    distances = np.concatenate([block[0] for block in blocks])
    return Neighbours(
        first=distances[:, 0],
        second=distances[:, 1],
        nearest=np.concatenate([block[1] for block in blocks]),
        linkable=np.concatenate([block[2] for block in blocks]),
    )
