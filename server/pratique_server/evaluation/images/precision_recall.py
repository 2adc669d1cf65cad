"""Precision, recall, density and coverage of images in an encoder's features.

Precision: the share of synthetic images within reach of a real one. Recall: the share of real
images within reach of a synthetic one. Reach is the distance to a set's own k-th neighbour
(Kynkäänniemi et al., "Improved precision and recall metric ...", NeurIPS 2019). Density and
coverage use real reaches only, which single odd synthetic images cannot stretch (Naeem et al.,
"Reliable fidelity and diversity metrics ...", ICML 2020).

Shapes: N real images, M synthetic ones, D features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEIGHBOURS = 5
"""k of both papers' recommendations."""

_BLOCK = 1_000  # rows of a matrix of distances at a time: 80 MB with 10,000 columns


@dataclass(frozen=True)
class Reaches:
    """What each image has within reach; a measure is a mean over images."""

    precise: BoolArray
    """Synthetic images within a real one's reach, (M,)."""
    density: Float64Array
    """Real images whose reach a synthetic one is in, by k, (M,): 1 on average if both are alike."""
    recalled: BoolArray
    """Real images within a synthetic one's reach, (N,)."""
    covered: BoolArray
    """Real images with a synthetic one within their own reach, (N,)."""


def reaches(real_ND: Float64Array, synthetic_MD: Float64Array, *, k: int = NEIGHBOURS) -> Reaches:
    """Look for neighbours. Sets should be of one size: figures depend on both.

    Raises:
        ValueError: a set has k images or fewer.
    """
    if min(len(real_ND), len(synthetic_MD)) <= k:
        raise ValueError(f"neighbours need more than {k} images in each set")
    real_reach_N, synthetic_reach_M = _reach(real_ND, k), _reach(synthetic_MD, k)
    inside_M = np.zeros(len(synthetic_MD), np.int64)
    recalled_N, covered_N = np.zeros((2, len(real_ND)), bool)
    for start in range(0, len(real_ND), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distance = cdist(real_ND[rows], synthetic_MD)
        near = distance <= real_reach_N[rows, None]
        inside_M += near.sum(0)
        covered_N[rows] = near.any(1)
        recalled_N[rows] = (distance <= synthetic_reach_M).any(1)
    return Reaches(inside_M > 0, inside_M / k, recalled_N, covered_N)


def _reach(points_ND: Float64Array, k: int) -> Float64Array:
    """Return each point's distance to its k-th neighbour, itself not counted, (N,)."""
    parts = []
    for start in range(0, len(points_ND), _BLOCK):
        distance = cdist(points_ND[start : start + _BLOCK], points_ND)
        parts.append(np.partition(distance, k, axis=1)[:, k])
    return np.concatenate(parts)
