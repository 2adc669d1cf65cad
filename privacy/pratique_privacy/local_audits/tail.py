"""TAIL: who is among the 1 % of patients with the highest scores? As TPR at 1 % FPR, exactly.

Averages hide a few copies (Carlini et al. 2022, "Membership inference attacks from first
principles"); the tail does not.
"""

from math import ceil
from typing import ClassVar

import numpy as np
from scipy import stats

from pratique_privacy.audits.family import BOUND_CONFIDENCE
from pratique_privacy.intervals import Positives, excess_bounds
from pratique_privacy.local_audits.base import LocalResult, RealPatients

_SHARE = 0.01


class HighestScores:
    """Hypergeometric on the top 1 % by closeness and by density ratio; the better one, doubled."""

    id: ClassVar[str] = "TAIL"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        is_member = patients.is_member
        size, members = len(is_member), int(is_member.sum())
        found: list[tuple[float, Positives]] = []
        for score in (-patients.scores.distance, patients.scores.density_ratio):
            # With all that tie at the edge: who is chosen does not depend on who is a member.
            top = score >= np.sort(score)[-ceil(_SHARE * size)]
            hits = int(top[is_member].sum())
            p = float(stats.hypergeom.sf(hits - 1, size, int(top.sum()), members))
            positives = Positives(
                members=hits,
                controls=int(top[~is_member].sum()),
                num_members=members,
                num_controls=size - members,
            )
            found.append((p, positives))
        p, tail = min(found, key=lambda each: (each[0], each[1].member_rate))
        return LocalResult(
            id=HighestScores.id,
            title="Patients with the top 1 % of scores",
            scale="share",
            members=tail.member_rate,
            controls=tail.control_rate,
            interval=excess_bounds(tail, confidence=BOUND_CONFIDENCE),
            p_value=min(1.0, 2 * p),
        )
