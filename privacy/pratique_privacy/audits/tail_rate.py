"""How many members an attacker finds who wrongly accuses 1 % of those who were never members.

As TPR at 1 % FPR (Carlini et al. 2022, "Membership inference attacks from first principles"):
averages over all patients hide a few who are betrayed.
"""

import numpy as np

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, Bound
from pratique_privacy.intervals import control_rate_bounds, excess_bounds

_FPR = 0.01


def tail_bound(counts: AuditCounts, policy: ReleasePolicy, *, confidence: float) -> Bound:
    """Return the bound of the attack "a lower cell means member", at the cells' resolution.

    Between two edges of cells a coin decides, so that TPR - FPR grows there in proportion. Which
    edges lie around 1 % of controls is known up to chance and noise: the largest bound of all that
    may do so counts, and beyond them the next one in the proportion that it can have.
    """
    largest, before, fewest_before = 0.0, 0.0, 0.0  # nobody is accused: no excess
    for width in range(1, len(counts.members) + 1):
        tail = counts.positives(slice(0, width))
        fewest, most = control_rate_bounds(tail, confidence=confidence)
        upper = excess_bounds(tail, confidence=confidence)[1]
        if fewest >= _FPR:
            part = (_FPR - fewest_before) / (fewest - fewest_before)
            largest = float(np.maximum(largest, before + part * (upper - before)))
            break
        largest = upper if most <= _FPR else float(np.maximum(largest, upper))  # NaN stays one
        before, fewest_before = upper, fewest
    return Bound(rule="tail_tpr", value=_FPR + largest, limit=policy.tail_tpr)
