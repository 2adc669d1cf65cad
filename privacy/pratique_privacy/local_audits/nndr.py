"""NNDR: is the nearest synthetic row much nearer than the second? Boards know it."""

from typing import ClassVar

import numpy as np
from scipy import stats

from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import of_medians


class NearestNeighbourRatio:
    """Ratio of nearest to second nearest distance; Mann-Whitney, members smaller."""

    id: ClassVar[str] = "NNDR"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        ratio, is_member = patients.scores.ratio, patients.is_member
        members, controls = ratio[is_member], ratio[~is_member]
        return LocalResult(
            id=NearestNeighbourRatio.id,
            title="Nearest-neighbour distance ratio (median)",
            scale="number",
            members=float(np.median(members)),
            controls=float(np.median(controls)),
            interval=of_medians(members, controls),
            p_value=float(stats.mannwhitneyu(members, controls, alternative="less").pvalue),
        )
