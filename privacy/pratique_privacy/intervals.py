"""Tests and intervals for counts of members and controls, exact or noised.

Under "no memorisation" a patient's score does not depend on whether the patient is a member. For
exact counts the sizes are known and the count of members among K positives is hypergeometric. For
noised counts the sizes are not known, but each patient was made a member by an independent coin
with a public probability (a keyed hash), so the count is binomial given K; K is only known up to
noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float64Array = NDArray[np.float64]

_NUISANCE_ERROR = 1e-3
_NUISANCE_POINTS = 41
_BINOMIAL_REACH = 10.0
"""Deviations beyond which a binomial tail, below 1e-20, is left out."""


@dataclass(frozen=True, kw_only=True)
class Positives:
    """How many members and controls scored positive.

    Attributes:
        members, controls: counts; noised ones may be negative.
        num_members, num_controls: sizes, estimated where noised.
        sigma_members, sigma_controls: deviation of the noise on the counts; 0 is exact.
        member_share: probability of a patient to be a member.
    """

    members: float
    controls: float
    num_members: float
    num_controls: float
    sigma_members: float = 0.0
    sigma_controls: float = 0.0
    member_share: float = 0.5

    @property
    def exact(self) -> bool:
        """Whether there is no noise."""
        return self.sigma_members == 0 and self.sigma_controls == 0

    @property
    def member_rate(self) -> float:
        """Share of members that are positive."""
        return self.members / self.num_members

    @property
    def control_rate(self) -> float:
        """Share of controls that are positive."""
        return self.controls / self.num_controls

    @property
    def excess(self) -> float:
        """Difference of the rates."""
        return self.member_rate - self.control_rate


def excess_p_value(counts: Positives) -> float:
    """Return the one-sided p-value of "members are positive more often than controls"."""
    if counts.exact:
        return _hypergeometric_p_value(counts)
    return _noised_p_value(counts)


def _hypergeometric_p_value(counts: Positives) -> float:
    positives = counts.members + counts.controls
    total = counts.num_members + counts.num_controls
    return float(stats.hypergeom.sf(counts.members - 1, total, positives, counts.num_members))


def _noised_p_value(counts: Positives) -> float:
    """Binomial convolved with the noise, at the least favourable K (Berger & Boos 1994).

    The statistic is D = X_members - r X_controls with r the odds of membership; given K positives
    its mean is 0. K is searched over a 99.9 % confidence set and the set's error is added. Sums
    of discrete Gaussians are taken as normal: at σ ≥ 1 their distribution functions differ by
    less than the continuity correction that is left out, in the conservative direction for
    integer D and within .01 σ otherwise (tested by simulation).
    """
    odds = counts.member_share / (1 - counts.member_share)
    observed = counts.members - odds * counts.controls
    noise = float(np.hypot(counts.sigma_members, odds * counts.sigma_controls))
    noise_of_total = float(np.hypot(counts.sigma_members, counts.sigma_controls))
    reach = float(stats.norm.isf(_NUISANCE_ERROR / 2)) * noise_of_total
    centre = counts.members + counts.controls
    totals = np.unique(
        np.rint(np.linspace(max(0.0, centre - reach), max(0.0, centre + reach), _NUISANCE_POINTS))
    )
    worst = max(_tail_given_total(int(K), observed, noise, odds) for K in totals)
    return min(1.0, worst + _NUISANCE_ERROR)


def _tail_given_total(total: int, observed: float, noise: float, odds: float) -> float:
    share = odds / (1 + odds)
    reach = _BINOMIAL_REACH * np.sqrt(total * share * (1 - share)) + _BINOMIAL_REACH
    k = np.arange(max(0, int(total * share - reach)), min(total, int(total * share + reach)) + 1)
    weights = stats.binom.pmf(k, total, share)
    tails = stats.norm.sf((observed - (k - odds * (total - k))) / noise)
    return float((weights * tails).sum())


def excess_upper_bound(counts: Positives, *, confidence: float) -> float:
    """Return an upper bound of the true difference of rates, members minus controls.

    Exact counts: Newcombe's hybrid score interval (Statistics in Medicine 17:873, 1998, method
    10). Noised counts: normal, with the noise in the variance and each rate taken at the upper end
    of its own interval, since Wilson and Wald fail on negative counts.
    """
    z = float(stats.norm.ppf(confidence))
    if counts.exact:
        upper_members = wilson(counts.members, counts.num_members, z)[1]
        lower_controls = wilson(counts.controls, counts.num_controls, z)[0]
        spread = np.hypot(upper_members - counts.member_rate, counts.control_rate - lower_controls)
        return float(counts.excess + spread)
    variance = sum(
        _variance_of_rate(positives, size, sigma, z)
        for positives, size, sigma in (
            (counts.members, counts.num_members, counts.sigma_members),
            (counts.controls, counts.num_controls, counts.sigma_controls),
        )
    )
    return float(counts.excess + z * np.sqrt(variance))


def rate_upper_bound(counts: Positives, *, confidence: float) -> float:
    """Return an upper bound of the true rate of controls."""
    z = float(stats.norm.ppf(confidence))
    if counts.exact:
        return wilson(counts.controls, counts.num_controls, z)[1]
    sizes = counts.controls, counts.num_controls, counts.sigma_controls
    return float(counts.control_rate + z * np.sqrt(_variance_of_rate(*sizes, z)))


def _variance_of_rate(positives: float, size: float, sigma: float, z: float) -> float:
    """Return the variance of a noised rate, its share taken at that end of its interval which is
    nearer to one half."""
    rarer = max(min(positives, size - positives), 0.0)  # as variable as the commoner outcome
    share = (rarer + z * np.hypot(sigma, np.sqrt(max(rarer, 1.0)))) / size
    share = float(np.clip(share, 0.0, 0.5))
    return share * (1 - share) / size + (sigma / size) ** 2


def wilson(positives: float, total: float, z: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion at ±z."""
    rate = positives / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def limit_of_detection(counts: Positives, *, alpha: float, power: float) -> int:
    """Return how many verbatim copied members the test at level α finds with this power.

    k copies add k to the members' positives, of which chance would have made a share members:
    with r the odds of membership, sd² = r (K + k) + σ_m² + r² σ_c² and k ≥ (z_α + z_power) sd.
    """
    odds = counts.num_members / counts.num_controls
    base = max(0.0, counts.members + counts.controls)
    reach = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    noise = counts.sigma_members**2 + (odds * counts.sigma_controls) ** 2
    # Solve k² = reach² (r (K + k) + noise) for k.
    b = reach**2 * odds
    c = reach**2 * (odds * base + noise)
    return int(np.ceil((b + np.sqrt(b * b + 4 * c)) / 2))


@dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """Area under the ROC curve of "closer means member", with its one-sided test and interval."""

    auc: float
    p_value: float
    lower: float
    upper: float


def histogram_auc(
    members: Float64Array,
    controls: Float64Array,
    *,
    sigma_members: float,
    sigma_controls: float,
    confidence: float,
) -> AucEstimate:
    """Estimate the AUC from two histograms of a score, lowest cells the most incriminating.

    Args:
        members, controls: counts a cell, exact or noised, of shape (cells,).
        sigma_members, sigma_controls: noise a cell.
        confidence: of the one-sided bounds.

    Raises:
        ValueError: noise leaves less than one patient in a group.

    The AUC is a mean over members of the share of controls in later cells (half of the same cell)
    and the other way round; its variance is that of those means (DeLong et al. 1988) plus the
    noise's, to first order. The test uses the variance under equal distributions.
    """
    n_m, n_c = members.sum(), controls.sum()
    if min(n_m, n_c) < 1:
        raise ValueError("members or controls are too few for an AUC")
    p, q = members / n_m, controls / n_c
    pooled = np.clip((members + controls) / (n_m + n_c), 0, None)
    pooled /= pooled.sum()
    beats = _share_after(q)
    auc = float((p * beats).sum())
    beaten = 1 - _share_after(p)
    under_null = _share_after(pooled)

    def variance(
        weight_m: Float64Array, g: Float64Array, weight_c: Float64Array, f: Float64Array
    ) -> float:
        centred_g, centred_f = g - (weight_m * g).sum(), f - (weight_c * f).sum()
        sampling = (np.clip(weight_m, 0, None) * centred_g**2).sum() / n_m
        sampling += (np.clip(weight_c, 0, None) * centred_f**2).sum() / n_c
        noise = (sigma_members / n_m) ** 2 * (centred_g**2).sum()
        noise += (sigma_controls / n_c) ** 2 * (centred_f**2).sum()
        return float(sampling + noise)

    null_sd = np.sqrt(variance(pooled, under_null, pooled, under_null))
    sd = np.sqrt(variance(p, beats, q, beaten))
    z = float(stats.norm.ppf(confidence))
    return AucEstimate(
        auc=auc,
        # No spread: everybody is in one cell, and the AUC is exactly one half.
        p_value=float(stats.norm.sf((auc - 0.5) / null_sd)) if null_sd > 0 else 1.0,
        lower=auc - z * float(sd),
        upper=auc + z * float(sd),
    )


def _share_after(shares: Float64Array) -> Float64Array:
    """Return for each cell the share in later cells plus half of its own."""
    return np.asarray(shares.sum() - np.cumsum(shares) + shares / 2, np.float64)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values (Scandinavian Journal of Statistics 6:65, 1979).

    A p-value that is not a number stays one (the gate refuses it) and counts in the family.
    """
    adjusted = {name: p for name, p in p_values.items() if np.isnan(p)}
    highest = 0.0
    known = sorted((p, name) for name, p in p_values.items() if name not in adjusted)
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return adjusted
