"""DCR share and NNDR, which boards know: for a hospital's own eyes and for audits of files.

They never pass a release: 5 % verbatim copies move the DCR share from .50 to .51, and its usual
binomial test over synthetic rows rejects honest data a third of the time. The tests here exchange
the labels of patients. Neither has a bounded sensitivity, so neither may leave a site.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pratique_privacy.audits.context import AuditContext, Columns
from pratique_privacy.audits.scores import PatientScores


@dataclass(frozen=True, kw_only=True)
class Descriptive:
    """One descriptive result, with the p-value of its correct test."""

    id: str
    title: str
    members: float
    controls: float
    p_value: float


def dcr_share(
    context: AuditContext,
    columns: Columns,
    patients: NDArray[np.object_],
    is_member: NDArray[np.bool_],
) -> Descriptive:
    """Share of synthetic rows whose nearest real patient is a member, against the members' share.

    Args:
        context: of the candidate.
        columns: real rows.
        patients: whose each row is.
        is_member: for each patient, in the order of ``np.unique(patients)``.

    The null exchanges labels over patients, not over synthetic rows: with W_p synthetic rows
    nearest to patient p, the members' sum has a known mean and variance (permutation moments).
    """
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    # Of real rows that tie for nearest the first is taken: order must not betray the group.
    order = np.random.default_rng(0).permutation(len(owner))
    owner, columns = owner[order], {name: values[order] for name, values in columns.items()}
    found = context.encoder.nearest(context.candidate, context.encoder.encode(columns))
    weight_P = np.bincount(owner[found.nearest], minlength=len(is_member)).astype(float)
    n, n_members = len(is_member), int(is_member.sum())
    total = weight_P.sum()
    share = n_members / n
    variance = share * (1 - share) * n / (n - 1) * ((weight_P - weight_P.mean()) ** 2).sum()
    excess = weight_P[is_member].sum() - share * total
    p_value = float(stats.norm.sf(excess / np.sqrt(variance))) if variance > 0 else 1.0
    return Descriptive(
        id="DCR",
        title="Share of synthetic rows closest to a member",
        members=float(weight_P[is_member].sum() / total),
        controls=share,
        p_value=p_value,
    )


def nndr(scores: PatientScores, is_member: NDArray[np.bool_]) -> Descriptive:
    """Median ratio of nearest to second nearest distance; Mann-Whitney, members smaller."""
    members, controls = scores.ratio[is_member], scores.ratio[~is_member]
    test = stats.mannwhitneyu(members, controls, alternative="less")
    return Descriptive(
        id="NNDR",
        title="Nearest-neighbour distance ratio (median)",
        members=float(np.median(members)),
        controls=float(np.median(controls)),
        p_value=float(test.pvalue),
    )
