"""COPYING: do synthetic rows lie nearer to training rows than held-out patients' rows do?

Meehan, Chaudhuri, Dasgupta 2020, "A non-parametric test to detect data-copying in generative
models" (AISTATS): in each region of the space, the Mann-Whitney Z of distances to the nearest
training row, synthetic against held-out, averaged over regions with their share of held-out rows.
Far below zero is copying, far above is a poor fit. A table that is smoother than patients are has
shorter distances without any copying, so there is no valid p-value.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.audits.context import seed_of_content
from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import Z

_REGIONS = 10
_LEAST_ROWS = 20
"""Of either kind in a region: below, the paper leaves a region out."""


class DataCopying:
    """The paper's C_T; regions are those nearest to each of ten training rows."""

    id: ClassVar[str] = "COPYING"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        encoder, table = patients.context.encoder, patients.context.candidate
        columns = patients.rows_of(patients.is_member)
        training = encoder.encode(columns)
        held_out = encoder.encode(patients.rows_of(~patients.is_member))
        score = interval = None
        if training.num_rows >= _REGIONS:
            rng = np.random.default_rng(seed_of_content(patients.context.table)[0])
            chosen = rng.choice(training.num_rows, _REGIONS, replace=False)
            centres = encoder.encode({name: v[chosen] for name, v in columns.items()})
            averaged = _averaged(
                encoder.nearest(table, training).first,
                encoder.nearest(held_out, training).first,
                encoder.nearest(table, centres).nearest,
                encoder.nearest(held_out, centres).nearest,
            )
            if averaged is not None:
                score, reach = averaged[0], Z * averaged[1]
                interval = score - reach, score + reach
        return LocalResult(
            id=DataCopying.id,
            title="Data copying (below -3: copies; above 3: a poor fit)",
            scale="number",
            members=score,
            controls=0.0,
            interval=interval,
            p_value=None,
        )


def _averaged(
    synthetic: NDArray[np.float64],
    held_out: NDArray[np.float64],
    region_of_synthetic: NDArray[np.int64],
    region_of_held_out: NDArray[np.int64],
) -> tuple[float, float] | None:
    """Return the mean over regions, and its deviation if nothing was copied: each Z has 1."""
    scores, weights = [], []
    for region in range(_REGIONS):
        here = synthetic[region_of_synthetic == region]
        there = held_out[region_of_held_out == region]
        if min(len(here), len(there)) >= _LEAST_ROWS:
            scores.append(_mann_whitney_z(here, there))
            weights.append(len(there))
    if not scores:
        return None
    share = np.array(weights) / np.sum(weights)
    return float(share @ scores), float(np.sqrt(np.square(share).sum()))


def _mann_whitney_z(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Z of "first is larger", (U - mn/2) / √(mn (m + n + 1) / 12), ties counted half."""
    m, n = len(first), len(second)
    in_order = np.sort(second)
    below = np.searchsorted(in_order, first, side="left")
    up_to = np.searchsorted(in_order, first, side="right")
    u = float((below + up_to).sum()) / 2
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))
