"""The statistics that leave a site: what the audits of the family share.

A patient is in one cell of each.
"""

from typing import ClassVar

import numpy as np

from pratique_privacy.audits.base import AuditContext, IntArray, PatientScores

EXACT_CELL = 0
NEAR_CELL = 1


class Closeness:
    """Distance to the nearest candidate row in 16 cells with public cuts.

    Cell 0 is an exact match, cell 1 ends at the near radius, the others at quantiles of the
    candidate's own leave-one-out distances.
    """

    name: ClassVar[str] = "closeness"
    num_cells: ClassVar[int] = 16

    @staticmethod
    def cells(context: AuditContext, scores: PatientScores) -> IntArray:
        """Return each patient's cell."""
        later = 2 + np.searchsorted(context.cuts, scores.distance, side="left")
        inner = np.where(scores.distance <= context.near_radius, NEAR_CELL, later)
        return np.where(scores.distance == 0, EXACT_CELL, inner).astype(np.int64)


class Linkability:
    """Cell 1 if one candidate row is nearest on both halves of the columns, else cell 0."""

    name: ClassVar[str] = "linkability"
    num_cells: ClassVar[int] = 2

    @staticmethod
    def cells(context: AuditContext, scores: PatientScores) -> IntArray:  # noqa: ARG004
        """Return each patient's cell."""
        return scores.linkable.astype(np.int64)


class Agreement:
    """Likelihood ratio of having been copied, in 24 cells with public cuts, the highest first."""

    name: ClassVar[str] = "agreement"
    num_cells: ClassVar[int] = 24

    @staticmethod
    def cells(context: AuditContext, scores: PatientScores) -> IntArray:
        """Return each patient's cell."""
        above = np.searchsorted(context.copy_cuts, scores.copied, side="right")
        return (len(context.copy_cuts) - above).astype(np.int64)
