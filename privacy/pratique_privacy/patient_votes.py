"""The sum of patients' votes for public candidates: as many a patient, shared by its rows.

Shapes: B patients, K rows a patient (padded), N rows, D codes of a row, M candidates, V votes.
"""

from math import sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_BLOCK_ROWS = 512
"""What is looked at together: memory stays flat in the number of patients."""


class Ballot(Protocol):
    """Who may be voted for."""

    @property
    def sum_size(self) -> int:
        """M."""

    def votes(self, codes_ND: Tensor) -> NDArray[np.int64]:
        """Return V different candidates of each row, (N, V), V the same for all rows.

        They must depend on that row alone, in every bit. If they hung on who else is there,
        candidates could be chosen such that one patient turns the votes of many.
        """


def vote_sum(ballot: Ballot, codes_BKD: Tensor, weight_BK: Tensor) -> NDArray[np.float64]:
    """Return the sum of all patients' votes, (M,): each adds at most 1 in L2.

    A vote is 1/√V, so that those of a row have length 1; a patient's are its rows' mean.

    Args:
        ballot: who may be voted for.
        codes_BKD: rows; those that pad have weight 0 and no vote.
        weight_BK: of rows; only whether they are above 0 counts.
    """
    counted_BK = weight_BK.numpy() > 0
    # As 64-bit floats: three 32-bit thirds are more than one.
    share_BK = counted_BK / np.maximum(counted_BK.sum(1, keepdims=True), 1)
    patient, row = np.nonzero(counted_BK)
    total_M = np.zeros(ballot.sum_size)
    for start in range(0, len(patient), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        chosen = ballot.votes(codes_BKD[patient[part], row[part]])
        votes_NV = np.repeat(share_BK[patient[part], row[part], None], chosen.shape[1], axis=1)
        total_M += np.bincount(
            chosen.ravel(), votes_NV.ravel() / sqrt(chosen.shape[1]), minlength=ballot.sum_size
        )
    return total_M
