"""How much likelier a row is if a candidate row was made from it: copied, some cells redrawn.

Fellegi & Sunter's (1969) weights of agreement, taken further to a likelihood ratio. Say candidate
row s is a copy of x in which each cell was drawn anew from its column, with probability j. Then

    P(s | x copied) / P(s) = Π_d [(1 - j) 1(x_d = s_d) + j p_d(s_d)] / f(s)

with p_d the candidate's own shares and f(s) its density at s, without s itself. Agreement on rare
values counts for much, on common ones for little, and a row that many rows resemble for nothing.
The score of x is the largest over s, in nats. On Diabetes-130, 4,000 members and 1,000 controls,
the top 1 % of patients betrays 5 % of rows copied with half of all cells redrawn in 9 of 10
candidates at the 5 % level; agreement against a smooth reference, as often proposed, in 3 or 4.

Shapes: N rows, R candidate rows, D columns.
"""

from collections.abc import Mapping
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import sub_bin_of, sub_edges
from pratique_privacy.kernels import best_agreement, log_mean_agreement
from pratique_privacy.neighbours import level_codes

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

_REDRAWN = 0.3
"""j: from .3 to .5 nothing changes at 30 or 50 % of cells redrawn; at 10 % .3 finds more."""

_BANDWIDTH = 0.2
"""Of the product kernel (Aitchison & Aitken 1976) that estimates f; .4 finds as much or less."""

_CUT_QUANTILES = (0.5, 0.9)
_CUT_STEPS = (*np.arange(0, 8.1, 0.5), 9, 10, 12, 14)
"""Nats above the highest score of the candidate's own rows. A value that one row alone has cannot
agree with another row, but with a patient's: 30 to 40 % of honest patients lie above. Twins do not
move it: each is in the density at the other."""

_MOST_KERNELS = 4_000  # as many as the candidates had on which all this was measured
_BLOCK_QUERIES = 512  # of one call: it can be interrupted in between
_NO_OWN = -_BLOCK_QUERIES


class CopyLikelihood:
    """Scores rows against a candidate; fitted on the candidate alone."""

    def __init__(self, schema: TableSchema, candidate: Columns) -> None:
        """Fit on candidate rows; those in front serve as kernels, so their order must be random."""
        self._columns = schema.columns
        self._starts = {
            column.name: np.concatenate([edges[:-1] for edges in sub_edges(column)])
            for column in schema.columns
            if not isinstance(column, CategoricalColumn)
        }
        codes_RD = self.codes(candidate)
        num_rows, num_columns = codes_RD.shape
        self._shares = [
            (np.bincount(codes, minlength=num) + 1) / (num_rows + num)
            for codes, num in zip(codes_RD.T, map(self._num_levels, schema.columns), strict=True)
        ]
        self._rows_DR = np.ascontiguousarray(codes_RD.T)
        by_chance_R = np.sum(
            [np.log(p[codes]) for p, codes in zip(self._shares, codes_RD.T, strict=True)], axis=0
        )
        # Π [(1 - h) 1 + h p] = Π h p · exp(Σ weights of agreement), here and below.
        density_R = self._log_means(codes_RD) + num_columns * log(_BANDWIDTH) + by_chance_R
        bias_R = num_columns * log(_REDRAWN) + by_chance_R - density_R
        self._bias_R = bias_R.astype(np.float32)

    def scores(self, columns: Columns, *, own: int | None = None) -> Float64Array:
        """Return scores of rows, (N,), in nats.

        Args:
            columns: rows of the schema.
            own: these are the candidate's own rows from this place on: none counts for itself.
        """
        codes_ND = self.codes(columns)
        weight_ND = self._weights(codes_ND, _REDRAWN)
        best = np.empty(len(codes_ND), np.float32)
        for start in range(0, len(codes_ND), _BLOCK_QUERIES):
            rows = slice(start, start + _BLOCK_QUERIES)
            place = _NO_OWN if own is None else own + start
            best_agreement(
                codes_ND[rows], weight_ND[rows], self._rows_DR, self._bias_R, place, best[rows]
            )
        return best.astype(np.float64)

    @staticmethod
    def cuts(own: Float64Array) -> Float64Array:
        """Return the public cuts of scores, ascending.

        Args:
            own: scores of some of the candidate's rows, each without itself.
        """
        steps = own.max() + np.array(_CUT_STEPS)
        return np.concatenate([np.quantile(own, _CUT_QUANTILES), steps])

    def _log_means(self, codes_RD: Int32Array) -> Float64Array:
        """Return log mean over kernels of exp(agreement), each row without itself, (R,)."""
        kernels_DK = np.ascontiguousarray(self._rows_DR[:, :_MOST_KERNELS])
        weight_RD = self._weights(codes_RD, _BANDWIDTH)
        result = np.empty(len(codes_RD), np.float32)
        for start in range(0, len(codes_RD), _BLOCK_QUERIES):
            rows = slice(start, start + _BLOCK_QUERIES)
            log_mean_agreement(codes_RD[rows], weight_RD[rows], kernels_DK, start, result[rows])
        return result.astype(np.float64)

    def _weights(self, codes_ND: Int32Array, redrawn: float) -> Float32Array:
        """Return log(1 + (1 - j) / (j p)) of each cell's level, (N, D)."""
        weights = [np.log1p((1 - redrawn) / (redrawn * p)) for p in self._shares]
        parts = [weight[codes] for weight, codes in zip(weights, codes_ND.T, strict=True)]
        return np.stack(parts, axis=1).astype(np.float32)

    def codes(self, columns: Columns) -> Int32Array:
        """Return levels, and sub-bins of numbers; missing is a level: (N, D)."""
        codes = []
        for column in self._columns:
            values = columns[column.name]
            if isinstance(column, CategoricalColumn):
                codes.append(level_codes(column, values))
                continue
            starts = self._starts[column.name]
            place = sub_bin_of(column, starts, values)
            codes.append(np.where(np.isnan(values), len(starts), place))
        return np.stack(codes, axis=1).astype(np.int32)

    def _num_levels(self, column: AnyColumn) -> int:
        if isinstance(column, CategoricalColumn):
            return len(column.levels) + 1
        return len(self._starts[column.name]) + 1
