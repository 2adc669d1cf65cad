"""The statistics that leave a site: what the audits of the family share.

A patient is in one cell of each.
"""

from typing import ClassVar

import numpy as np

from pratique_privacy.audits.base import IntArray
from pratique_privacy.audits.context import Cuts
from pratique_privacy.audits.scores import PatientScores

EXACT_CELL = 0
NEAR_CELL = 1
LINKABLE = slice(2, 4)
INFERRED = slice(1, 4, 2)
ISOLATED, OTHERS = slice(0, 16), slice(16, 32)


class Closeness:
    """Distance to the nearest candidate row in 16 cells with public cuts.

    Cell 0 is an exact match, cell 1 ends at the near radius, the others at quantiles of the
    candidate's own leave-one-out distances.
    """

    name: ClassVar[str] = "closeness"
    num_cells: ClassVar[int] = 16

    @staticmethod
    def cells(cuts: Cuts, scores: PatientScores) -> IntArray:
        """Return each patient's cell."""
        later = 2 + np.searchsorted(cuts.distances, scores.distance, side="left")
        inner = np.where(scores.distance <= cuts.near_radius, NEAR_CELL, later)
        return np.where(scores.distance == 0, EXACT_CELL, inner).astype(np.int64)


class Joins:
    """What joining two tables on some columns tells: 2 if linkable, plus 1 if a secret is inferred.

    Both questions share one statistic: more noise in each, less in all others.
    """

    name: ClassVar[str] = "joins"
    num_cells: ClassVar[int] = 4

    @staticmethod
    def cells(cuts: Cuts, scores: PatientScores) -> IntArray:  # noqa: ARG004
        """Return each patient's cell."""
        return 2 * scores.linkable.astype(np.int64) + scores.inferred


class Density:
    """Density ratio, candidate over smooth table, in 16 cells with public cuts, the highest first.

    Isolated patients have 16 cells of their own, before those of all others.
    """

    name: ClassVar[str] = "density"
    num_cells: ClassVar[int] = 32

    @staticmethod
    def cells(cuts: Cuts, scores: PatientScores) -> IntArray:
        """Return each patient's cell."""
        above = np.searchsorted(cuts.ratios, scores.density_ratio, side="right")
        half = Density.num_cells // 2
        return np.where(scores.isolated, 0, half) + len(cuts.ratios) - above


class Agreement:
    """Likelihood ratio of having been copied, in 24 cells with public cuts, the highest first."""

    name: ClassVar[str] = "agreement"
    num_cells: ClassVar[int] = 24

    @staticmethod
    def cells(cuts: Cuts, scores: PatientScores) -> IntArray:
        """Return each patient's cell."""
        above = np.searchsorted(cuts.copies, scores.copied, side="right")
        return (len(cuts.copies) - above).astype(np.int64)
