"""Fits of the simple counted generators: a tree of columns, and a Gaussian copula.

Both take two-way tables from noised, clipped statistics. What clipping takes from a typical row is
found on rows with independent columns and given back.

Shapes: D columns, C = all levels of all columns.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from pratique_common.generators.base import CountedGenerator
from pratique_common.generators.copula import CopulaGenerator
from pratique_common.generators.tree import TreeGenerator
from pratique_common.study import StudySpec
from pratique_privacy.pair_sums import kept_share
from pratique_privacy.post_processing.pair_totals import PairTotals

Float64Array = NDArray[np.float64]

_LEAST_PROBABILITY = 1e-6
_LEAST_EIGENVALUE = 1e-3
_RAKING_PASSES = 25
_PRIOR_VARIANCE = 0.1  # correlations of about a third; it matters where noise is as large
_MOST = 0.99
_LEAST_SLOPE = 0.1


class _TwoWayFit:
    """Collects sums and turns them into two-way tables."""

    def __init__(self, study: StudySpec, generator: CountedGenerator, *, patients: float) -> None:
        self._generator, self._patients = generator, max(1.0, patients)
        self._totals = PairTotals(study, generator)

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take one noised sum of statistics; see ``PairTotals.add``."""
        self._totals.add(total, noise, site_share=site_share)

    def _excess(self) -> tuple[Float64Array, Float64Array]:
        """Return joint minus independent probability of two levels, and its noise, (C, C)."""
        layout, centre = self._generator.layout, self._generator.centre
        scale = layout.bound(centre) / (kept_share(layout, centre) * self._patients)
        _, pairs_CC = self._totals.split()
        _, noise_CC = self._totals.split_noise()
        return scale * pairs_CC, scale * noise_CC

    def _cells(self, column: int) -> slice:
        offsets = self._generator.layout.offsets
        return slice(int(offsets[column]), int(offsets[column + 1]))


class TreeFit(_TwoWayFit):
    """The spanning tree of the pairs that differ most from independence beyond their noise."""

    def __init__(self, study: StudySpec, generator: TreeGenerator, *, patients: float) -> None:
        super().__init__(study, generator, patients=patients)
        self._tree = generator

    def finish(self) -> None:
        """Choose the tree and set conditional probabilities as weights."""
        centre, num_columns = self._tree.centre, len(self._tree.layout.num_levels)
        excess_CC, noise_CC = self._excess()
        weight_CC = np.zeros_like(excess_CC)
        bias_C = np.log(centre.clip(min=_LEAST_PROBABILITY))
        # As in MST's and AIM's scores: the L1 norm that noise alone would have is taken off.
        score_DD = np.full((num_columns, num_columns), -np.inf)
        for a in range(num_columns):
            for b in range(num_columns):
                if a != b:
                    block = excess_CC[self._cells(a), self._cells(b)]
                    by_noise = math.sqrt(2 / math.pi) * noise_CC[self._cells(a), self._cells(b)]
                    score_DD[a, b] = np.abs(block).sum() - by_noise.sum()
        inside = [self._tree.order[0]]  # the target
        while len(inside) < num_columns:
            outside = [d for d in range(num_columns) if d not in inside]
            scores = score_DD[np.ix_(inside, outside)]
            parent_at, child_at = np.unravel_index(scores.argmax(), scores.shape)
            parent, child = inside[int(parent_at)], outside[int(child_at)]
            inside.append(child)
            if score_DD[parent, child] <= 0:
                continue  # nothing but noise: the column stands alone
            rows, columns = self._cells(child), self._cells(parent)
            independent = np.outer(centre[rows], centre[columns])
            joint = _raked(independent + excess_CC[rows, columns], independent)
            weight_CC[rows, columns] = np.log(joint / joint.sum(0))
            bias_C[rows] = 0.0
        with torch.no_grad():
            self._tree.module.weight.copy_(torch.from_numpy(weight_CC))
            self._tree.module.bias.copy_(torch.from_numpy(bias_C))


def _raked(joint: Float64Array, independent: Float64Array) -> Float64Array:
    """Return a table without negative cells and with the marginals of another (raking)."""
    joint = joint.clip(min=_LEAST_PROBABILITY * independent)
    for _ in range(_RAKING_PASSES):
        for axis in (0, 1):
            wanted = independent.sum(axis, keepdims=True)
            joint = joint * (wanted / joint.sum(axis, keepdims=True))
    return joint


class CopulaFit(_TwoWayFit):
    """Correlations of normal scores, shrunk by their noise."""

    def __init__(self, study: StudySpec, generator: CopulaGenerator, *, patients: float) -> None:
        super().__init__(study, generator, patients=patients)
        self._copula = generator

    def finish(self) -> None:
        """Set correlations: the nearest positive definite ones (Higham's projection, one step)."""
        centre, num_columns = self._copula.centre, len(self._copula.layout.num_levels)
        excess_CC, noise_CC = self._excess()
        columns = [_normal_scores(p) for p in self._copula.layout.by_column(centre)]
        scores_C, slopes = (
            np.concatenate([scores for scores, _ in columns]),
            [s for _, s in columns],
        )
        matrix_DD = np.eye(num_columns)
        for a in range(num_columns):
            for b in range(a + 1, num_columns):
                first, second = scores_C[self._cells(a)], scores_C[self._cells(b)]
                found = float(first @ excess_CC[self._cells(a), self._cells(b)] @ second)
                variances = noise_CC[self._cells(a), self._cells(b)] ** 2
                variance = float(first**2 @ variances @ second**2)
                shrunk = found * _PRIOR_VARIANCE / (_PRIOR_VARIANCE + variance)
                latent = shrunk / (slopes[a] * slopes[b])
                matrix_DD[a, b] = matrix_DD[b, a] = np.clip(latent, -_MOST, _MOST)
        values, vectors = np.linalg.eigh(matrix_DD)
        positive = (vectors * values.clip(min=_LEAST_EIGENVALUE)) @ vectors.T
        scale = np.sqrt(np.diag(positive))
        self._copula.set_correlations(positive / np.outer(scale, scale))


def _normal_scores(marginal: Float64Array) -> tuple[Float64Array, float]:
    """Return scores of levels with mean 0 and variance 1, and their slope.

    Scores are normal quantiles of mid-ranks. The slope is E s(Z) Z, with Z the normal variable that
    is cut into levels: to first order the correlation of two columns' scores is that of their
    normal variables times both slopes.
    """
    marginal = marginal / marginal.sum()
    ends = np.concatenate([[0.0], np.cumsum(marginal)]).clip(max=1)
    middle = (ends[:-1] + ends[1:]) / 2
    scores = ndtri(middle.clip(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))
    scores = scores - marginal @ scores
    spread = math.sqrt(float(marginal @ scores**2))
    if spread == 0:
        return scores, 1.0
    scores = scores / spread
    density = np.exp(-(ndtri(ends) ** 2) / 2) / math.sqrt(2 * math.pi)
    return scores, max(_LEAST_SLOPE, float(scores @ -np.diff(density)))
