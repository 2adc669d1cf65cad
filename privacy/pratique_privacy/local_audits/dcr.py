"""DCR: the share of synthetic rows whose nearest real patient is a member. Boards know it.

It never passes a release: 5 % verbatim copies move it from .50 to .51, and its usual binomial test
over synthetic rows rejects honest data a third of the time.
"""

from typing import ClassVar

import numpy as np
from scipy import stats

from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import Z

WHY_NOT_DECISIVE = (
    "Descriptive only, no rule uses them: where 5 % of a table were copied from real patients, the "
    "DCR share moved by about one percentage point, so a good figure does not show that nobody was "
    "copied."
)
"""Stands wherever DCR and NNDR are shown. The figure is of Diabetes-130: 0.50 to 0.51."""


class ClosestRecordShare:
    """The null exchanges labels over patients, not over synthetic rows.

    With W_p synthetic rows nearest to patient p, the members' sum has a known mean and variance
    (permutation moments).
    """

    id: ClassVar[str] = "DCR"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        context, is_member = patients.context, patients.is_member
        # Of real rows that tie for nearest the first is taken: order must not betray the group.
        order = np.random.default_rng(0).permutation(len(patients.owner))
        columns = {name: values[order] for name, values in patients.columns.items()}
        found = context.encoder.nearest(context.candidate, context.encoder.encode(columns))
        nearest_P = patients.owner[order][found.nearest]
        weight_P = np.bincount(nearest_P, minlength=len(is_member)).astype(float)
        n, n_members = len(is_member), int(is_member.sum())
        total = weight_P.sum()
        share = n_members / n
        spread = ((weight_P - weight_P.mean()) ** 2).sum()
        variance = share * (1 - share) * n / (n - 1) * spread
        excess = float(weight_P[is_member].sum() - share * total)
        reach = Z * float(np.sqrt(variance))
        return LocalResult(
            id=ClosestRecordShare.id,
            title="Synthetic rows closest to a member",
            scale="share",
            members=float(weight_P[is_member].sum() / total),
            controls=share,
            interval=((excess - reach) / total, (excess + reach) / total),
            p_value=float(stats.norm.sf(excess / np.sqrt(variance))) if variance > 0 else 1.0,
        )
