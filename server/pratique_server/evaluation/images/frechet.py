"""Fréchet distance between two sets of images in an encoder's features.

Heusel et al., "GANs trained by a two time-scale update rule ..." (NeurIPS 2017): the distance of
two normal distributions with the sets' means and covariances, of which only sums over images are
needed. Its estimate is too large by a term in 1 / N, so it is compared with that of two real sets,
and extrapolated to endless sets (Chong & Forsyth, "Effectively unbiased FID ...", CVPR 2020).

Shapes: N images, D features.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from pratique_server.evaluation.rows import Rows

Float64Array = NDArray[np.float64]

FeatureKind = Literal["phantom", "site", "file"]
"""Where an encoder is from: trained on phantoms, on private images, or a file of the user's."""

_KIND_WORDS: dict[FeatureKind, str] = {
    "phantom": "features of the public encoder of phantoms",
    "site": "features of a network trained on the real training images",
    "file": "features of the given weights",
}

_PARTS = (1.0, 1.5, 2.0, 3.0, 4.0)
"""One over the shares of patients that an extrapolation looks at."""

_REPEATS = 16
"""Random subsets of each share: their means are what the line goes through."""

_LEAST_PATIENTS_PER_FEATURE = 2
"""In the smallest subset; below, covariances lose rank and the distance is no line in 1 / N."""


@dataclass(frozen=True)
class Moments:
    """Sums over images, which add up over sites: n, Σf and Σffᵀ.

    Sums may have noise: what noise makes of a covariance is brought back to one.
    """

    weight: float
    """Of all images; each patient counts once."""
    total: Float64Array
    """(D,)."""
    products: Float64Array
    """(D, D)."""

    @classmethod
    def of(cls, features_ND: Float64Array, weight_N: Float64Array | None = None) -> Self:
        """Return the sums, by default with one for every image."""
        weight = np.ones(len(features_ND)) if weight_N is None else weight_N
        weighted = features_ND * weight[:, None]
        return cls(float(weight.sum()), weighted.sum(0), weighted.T @ features_ND)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.weight + other.weight,
            self.total + other.total,
            self.products + other.products,
        )

    @property
    def mean(self) -> Float64Array:
        """Mean of the features, (D,)."""
        return self.total / self.weight

    @property
    def covariance(self) -> Float64Array:
        """Unbiased covariance of the features, (D, D), symmetric."""
        centred = self.products - np.outer(self.total, self.mean)
        return np.asarray((centred + centred.T) / (2 * (self.weight - 1)))


def distance_name(kind: FeatureKind, *, inception: bool = False) -> tuple[str, str]:
    """Return id and title of a distance: they carry the features that were used.

    Args:
        kind: where the encoder is from.
        inception: the file was found to be the Inception weights of FID's papers.
    """
    if inception:
        if kind != "file":
            raise ValueError("Inception weights come from a file")
        return "fid", "Fréchet Inception distance (FID)"
    return f"fd_{kind}", f"Fréchet distance in {_KIND_WORDS[kind]}"


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |µ₁ - µ₂|² + tr(S₁ + S₂ - 2 (S₁S₂)^½), 0 or more; NaN for a set of one image."""
    if min(one.weight, other.weight) <= 1:
        return float("nan")
    values, vectors = np.linalg.eigh(one.covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    others, directions = np.linalg.eigh(other.covariance)
    second = directions * others.clip(min=0) @ directions.T
    # S₁S₂ has the eigenvalues of S₁^½ S₂ S₁^½, which is symmetric: no complex roots.
    cross = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    gap = one.mean - other.mean
    spread = values.clip(min=0).sum() + others.clip(min=0).sum() - 2 * np.sqrt(cross).sum()
    return float(max(0.0, gap @ gap + spread))


@dataclass(frozen=True)
class Seen:
    """Images as an encoder sees them."""

    rows: Rows
    features: Float64Array
    """(N, D)."""

    def moments(self, weight_N: Float64Array | None = None) -> Moments:
        """Return the sums under the rows' own weights or others."""
        return Moments.of(self.features, self.rows.weight if weight_N is None else weight_N)

    def part(self, share: float, rng: np.random.Generator) -> Moments:
        """Return the sums of a random share of the patients."""
        num = round(share * self.rows.num_patients)
        chosen = np.zeros(self.rows.num_patients)
        chosen[rng.permutation(self.rows.num_patients)[:num]] = 1
        return self.moments(self.rows.weight * chosen[self.rows.owner])


def extrapolated_distance(one: Seen, other: Seen, rng: np.random.Generator) -> float:
    """Return the distance of endless sets (FD∞): where a line through FD over 1 / N meets 0.

    It has no bias in 1 / N and may be negative; NaN where there are too few patients for a line.
    """
    fewest = min(one.rows.num_patients, other.rows.num_patients) / _PARTS[-1]
    if fewest < _LEAST_PATIENTS_PER_FEATURE * one.features.shape[1]:
        return float("nan")
    means = [
        np.mean(
            [
                frechet_distance(one.part(1 / part, rng), other.part(1 / part, rng))
                for _ in range(1 if part == 1 else _REPEATS)
            ]
        )
        for part in _PARTS
    ]
    _, at_zero = np.polyfit(_PARTS, means, 1)
    return float(at_zero)
