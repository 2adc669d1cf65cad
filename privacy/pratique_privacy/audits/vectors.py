"""Images among the audits: vectors of a public encoder and of a copy detector, the same tests.

An image is two vectors: what a public encoder says it shows, for distances and densities, and a
fingerprint that small changes leave nearly as it is, for altered copies. Neither may be fitted on a
patient's image. An attacker may turn or mirror an image: hand over each such view of a patient's
image as one more row of that patient, and scores take the most incriminating one.

Shapes: N rows, R candidate rows, F features, G numbers of a fingerprint.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from pratique_privacy.audits.context import LEAST_DISTANCES, MAX_CONTEXT_ROWS, Cuts
from pratique_privacy.audits.scores import PatientScores, commonest

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MOST_FOUND = 3
"""Nearest rows that are measured again: two, and a row itself where it is left out."""

_SAME_FINGERPRINT = 1e-6
"""Of the fingerprints' mean distance: less is the same fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Images as vectors.

    Attributes:
        features: of a public encoder, (N, F).
        fingerprints: of a copy detector, (N, G).
        labels: what an attacker may want to know, (N,); None if there is nothing.
    """

    features: Float64Array
    fingerprints: Float64Array
    labels: NDArray[Any] | None = None

    def take(self, rows: NDArray[Any]) -> "Vectors":
        """Return some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Vectors(
            features=self.features[rows], fingerprints=self.fingerprints[rows], labels=labels
        )


class VectorContext:
    """What everybody can compute from the candidate's vectors: no patient's image is in it."""

    def __init__(self, candidate: Vectors, *, seed: int) -> None:
        """Fit densities and public cuts on the candidate.

        Args:
            candidate: its vectors.
            seed: must follow from the candidate's content, so that nobody can choose it.

        Raises:
            ValueError: too few rows, or too few that differ.
        """
        num_rows = len(candidate.features)
        if num_rows < LEAST_DISTANCES:
            raise ValueError("a candidate needs more rows")
        rng = np.random.default_rng(seed)
        self._candidate = candidate
        self._smooth = _normal_like(candidate.features, rng)
        # A fingerprint that two images share has distance 0, of which there is no logarithm.
        spread = np.linalg.norm(candidate.fingerprints - candidate.fingerprints.mean(0), axis=1)
        self._same = max(float(spread.mean()) * _SAME_FINGERPRINT, np.finfo(float).tiny)
        chosen = rng.permutation(num_rows)[:MAX_CONTEXT_ROWS]
        some = candidate.take(chosen)
        own, _ = _nearest(some.features, candidate.features, own=chosen)
        to_smooth, _ = _nearest(some.features, self._smooth)
        prints, _ = _nearest(some.fingerprints, candidate.fingerprints, own=chosen)
        self.cuts = Cuts.of(own[:, 0], to_smooth[:, 0], self._copied(prints))

    def scores(self, rows: Vectors, patients: NDArray[Any]) -> PatientScores:
        """Score patients; ``patients`` names whose each row is; order follows ``np.unique``."""
        found, place = _nearest(rows.features, self._candidate.features)
        to_smooth, _ = _nearest(rows.features, self._smooth)
        prints, _ = _nearest(rows.fingerprints, self._candidate.fingerprints)
        halves = [
            _nearest(rows.features[:, half::2], self._candidate.features[:, half::2])[1][:, 0]
            for half in (0, 1)
        ]
        _, owner = np.unique(patients.astype(str), return_inverse=True)
        inferred = np.zeros(int(owner.max()) + 1, np.bool_)
        if rows.labels is not None and self._candidate.labels is not None:
            said = self._candidate.labels[place[:, 0]]
            right = (said == rows.labels) & (said != commonest(self._candidate.labels))
            np.logical_or.at(inferred, owner, right)
        return PatientScores.of_rows(
            owner,
            self.cuts,
            first=found[:, 0],
            second=found[:, 1],
            to_smooth=to_smooth[:, 0],
            linkable=halves[0] == halves[1],
            inferred=inferred,
            copied=self._copied(prints),
        )

    def _copied(self, distances: Float64Array) -> Float64Array:
        return np.asarray(-np.log(np.maximum(distances[:, 0], self._same)))


def _normal_like(features: Float64Array, rng: np.random.Generator) -> Float64Array:
    """Draw as many rows from a normal distribution (covariance: Ledoit & Wolf 2004)."""
    fitted = LedoitWolf().fit(features)
    factor = np.linalg.cholesky(fitted.covariance_ + 1e-12 * np.eye(features.shape[1]))
    return np.asarray(fitted.location_ + rng.standard_normal(features.shape) @ factor.T)


def _nearest(
    query: Float64Array, reference: Float64Array, *, own: IntArray | None = None
) -> tuple[Float64Array, IntArray]:
    """Return Euclidean distances to the two nearest rows, and which they are, (N, 2) each.

    Products of matrices find the nearest few in blocks; their distances are then measured again,
    so that equal vectors have distance 0.

    Args:
        query: N rows.
        reference: R ≥ 3 rows.
        own: for each query, the row that does not count.
    """
    search = NearestNeighbors(n_neighbors=_MOST_FOUND, algorithm="brute").fit(reference)
    place = search.kneighbors(query, return_distance=False)
    distance = np.linalg.norm(query[:, None] - reference[place], axis=2)
    if own is not None:
        distance = np.where(place == own[:, None], np.inf, distance)
    order = np.argsort(distance, axis=1, kind="stable")[:, :2]
    return np.take_along_axis(distance, order, 1), np.take_along_axis(place, order, 1)
