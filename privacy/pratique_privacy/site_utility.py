"""What noised counts of hold-out patients tell of a candidate's use.

Where noise or chance would dominate there is no figure: "insufficient n".
"""

from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pratique_common.schema import TableSchema
from pratique_common.utility_cells import BLOCK_CELLS, SCORE_CELLS, groups_of, has_prior
from pratique_privacy.roc import AucEstimate, histogram_auc

Float64Array = NDArray[np.float64]

_CONFIDENCE = 0.975
_Z = float(stats.norm.ppf(_CONFIDENCE))
LEAST_PATIENTS = 50
"""With fewer, the standard error of a share among them is over .07, √(.25 / 50)."""

LEAST_OF_EACH_OUTCOME = 20
"""For an AUC: its standard error is then .09 at most (Hanley & McNeil 1982)."""

_LEAST_NOISE_RATIO = 4.0
"""A count below four deviations of its noise: a share among so few would be off by a quarter."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share with its 95 % interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class GroupUtility:
    """One category of one column among hold-out patients; None means insufficient n."""

    column: str
    level: str
    share: Share | None
    """Of all hold-out patients whose outcome is known."""
    outcome: Share | None
    """Of these, those with the outcome."""
    auc: AucEstimate | None
    """Of the model that was trained on the candidate."""


@dataclass(frozen=True, kw_only=True)
class SiteUtility:
    """All that the sites' sum tells."""

    auc: AucEstimate | None
    calibration: tuple[Share | None, ...]
    """Share with the outcome in each cell of risk, the highest first."""
    groups: tuple[GroupUtility, ...]
    prior_auc: AucEstimate | None = None
    """Of a model that was trained on the study's public prior alone, where there is one."""

    @property
    def beats_prior(self) -> bool | None:
        """Whether the candidate was shown to predict better than the prior; None if neither can be
        told. At 97.5 %, as if both had been measured on other patients."""
        if self.auc is None or self.prior_auc is None:
            return None
        least = hypot(self.auc.auc - self.auc.lower, self.prior_auc.upper - self.prior_auc.auc)
        return self.auc.auc - self.prior_auc.auc > least


def site_utility(schema: TableSchema, counts: Float64Array, sigma: float) -> SiteUtility:
    """Return what noised counts tell.

    Args:
        schema: of the study, with a target.
        counts: (num_utility_cells,), as in ``utility_counts``.
        sigma: deviation of the noise in each.
    """
    everybody, *blocks = counts.reshape(-1, BLOCK_CELLS)
    prior = blocks.pop() if has_prior(schema) else None
    without, with_outcome = everybody[:SCORE_CELLS], everybody[SCORE_CELLS:]
    groups = zip(groups_of(schema), blocks, strict=True)
    return SiteUtility(
        auc=_auc(everybody, sigma),
        calibration=tuple(
            _share(float(b), float(a), cells=1, sigma=sigma)
            for a, b in zip(without, with_outcome, strict=True)
        ),
        groups=tuple(
            GroupUtility(
                column=name,
                level="missing" if level is None else level,
                share=_share_of_all(float(block.sum()), float(everybody.sum()), sigma),
                outcome=_share(
                    float(block[SCORE_CELLS:].sum()),
                    float(block[:SCORE_CELLS].sum()),
                    cells=SCORE_CELLS,
                    sigma=sigma,
                ),
                auc=_auc(block, sigma),
            )
            for (name, level), block in groups
        ),
        prior_auc=None if prior is None else _auc(prior, sigma),
    )


def _enough(count: float, noise: float, least: int) -> bool:
    return count >= max(least, _LEAST_NOISE_RATIO * noise)


def _share(inside: float, outside: float, *, cells: int, sigma: float) -> Share | None:
    """Return inside / (inside + outside), each the sum of so many noised cells."""
    total = inside + outside
    if not _enough(total, sigma * sqrt(2 * cells), LEAST_PATIENTS):
        return None
    share = min(1.0, max(0.0, inside / total))
    noise = cells * (sigma / total) ** 2 * (share**2 + (1 - share) ** 2)
    return _interval(share, share * (1 - share) / total + noise)


def _share_of_all(count: float, total: float, sigma: float) -> Share | None:
    noise = sigma * sqrt(BLOCK_CELLS)
    if not (_enough(count, noise, LEAST_PATIENTS) and _enough(total, noise, LEAST_PATIENTS)):
        return None
    share = min(1.0, count / total)
    return _interval(share, share * (1 - share) / total + (noise / total) ** 2 * (1 + share**2))


def _interval(share: float, variance: float) -> Share:
    half = _Z * sqrt(variance)
    return Share(value=share, lower=max(0.0, share - half), upper=min(1.0, share + half))


def _auc(block: Float64Array, sigma: float) -> AucEstimate | None:
    without, with_outcome = block[:SCORE_CELLS], block[SCORE_CELLS:]
    fewest = min(float(without.sum()), float(with_outcome.sum()))
    if not _enough(fewest, sigma * sqrt(SCORE_CELLS), LEAST_OF_EACH_OUTCOME):
        return None
    estimate = histogram_auc(
        with_outcome, without, sigma_members=sigma, sigma_controls=sigma, confidence=_CONFIDENCE
    )
    # Noise may carry an estimate out of the range that an AUC can have.
    auc, lower, upper = (
        min(1.0, max(0.0, end)) for end in (estimate.auc, estimate.lower, estimate.upper)
    )
    return replace(estimate, auc=auc, lower=lower, upper=upper)
