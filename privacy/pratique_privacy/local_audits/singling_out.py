"""SINGLE: do conditions that one synthetic row alone meets point at members?

After the singling-out attack of Giomi et al. (2023, "A unified framework for quantifying privacy
risk in synthetic data"): a condition on a few columns that holds for one synthetic row is a guess
that it singles somebody out. Counted by patient, so that labels can be exchanged.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pratique_privacy.audits.context import seed_of_content
from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import of_means

IntArray = NDArray[np.int64]

_CONDITIONS = 64
"""Sets of columns: the error of a patient's mean is then at most 1/16."""

_LEAST_COLUMNS, _MOST_COLUMNS = 3, 8
"""Giomi et al. take 3 to 7: fewer are met by many, more by nobody but a copy."""


class SinglingOut:
    """How often a patient meets a condition that one synthetic row alone meets; Mann-Whitney."""

    id: ClassVar[str] = "SINGLE"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        context, is_member = patients.context, patients.is_member
        rng = np.random.default_rng(seed_of_content(context.table)[0])
        rows_ND = context.levels.codes(patients.columns)
        table_RD = context.levels.codes(context.table)
        num_columns = rows_ND.shape[1]
        hits_P = np.zeros(len(is_member))
        for _ in range(_CONDITIONS):
            low, high = min(_LEAST_COLUMNS, num_columns), min(_MOST_COLUMNS, num_columns)
            chosen = rng.choice(num_columns, rng.integers(low, high + 1), replace=False)
            factors = rng.integers(1, 2**62, len(chosen), dtype=np.int64)
            keys, counts = np.unique(_keys(table_RD[:, chosen], factors), return_counts=True)
            hit_N = np.isin(_keys(rows_ND[:, chosen], factors), keys[counts == 1])
            hits_P += np.bincount(patients.owner, hit_N, minlength=len(is_member)) > 0
        members, controls = hits_P[is_member], hits_P[~is_member]
        return LocalResult(
            id=SinglingOut.id,
            title="Conditions of one synthetic row that a patient meets",
            scale="share",
            members=float(members.mean() / _CONDITIONS),
            controls=float(controls.mean() / _CONDITIONS),
            interval=of_means(members / _CONDITIONS, controls / _CONDITIONS),
            p_value=float(stats.mannwhitneyu(members, controls, alternative="greater").pvalue),
        )


def _keys(codes_ND: NDArray[np.int32], factors_D: IntArray) -> IntArray:
    """Return a 64-bit hash of each row; sums wrap around, which a hash may."""
    with np.errstate(over="ignore"):
        return np.asarray((codes_ND.astype(np.int64) + 1) @ factors_D)
