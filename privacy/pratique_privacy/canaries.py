"""Canaries: is the claimed ε true of the code?

A canary is a pretended patient whose whole contribution lies in one reserved coordinate. It goes
through the code that patients go through, if a secret coin of its site says so. Who sees the noised
sums guesses the coins; guesses that are right too often prove that noise is less than claimed.

Two bounds follow from the guesses, for two kinds of reader:

*   ``one_run_bound`` assumes nothing of the noise (Steinke, Nasr, Jagielski 2023, "Privacy auditing
    with one (1) training run", arXiv 2305.08846, theorem 5.2). It is far below ε for honest code.
*   ``NoiseTest`` takes noise of different coordinates to be independent and Gaussian, as our code
    draws it: then right guesses are binomial, and the noise that they allow is nearly the true one
    (as in white-box tests of a Gaussian, Nasr et al. 2023, "Tight auditing of differentially
    private machine learning", arXiv 2302.07956, section 5).

A site that lies can always pass: this falsifies code, and proves no honesty.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from pratique_privacy.accountant import GaussianEvent, privacy_spent
from pratique_privacy.canary_noise import BoolArray, Group, Measured, NoiseTest

ONE_RUN_CONFIDENCE = 0.95
NOISE_CONFIDENCE = 0.999
"""A failed test is an incident: an honest run must not have one in twenty times."""

GUESSED_SHARE = 0.2
"""Of all canaries, those whose coins are guessed for the one-run bound: the clearest ones. It is
fixed beforehand, as the bound demands."""

_MOST_EPSILON = 100.0
_MOST_NOISE_RATIO = 1e3


def one_run_bound(
    num_canaries: int,
    num_guesses: int,
    num_right: int,
    *,
    delta: float,
    confidence: float = ONE_RUN_CONFIDENCE,
) -> float:
    """Return the largest ε that right guesses refute at δ, 0 if none; m = r = v = 100 gives 3.49.

    Args:
        num_canaries: m, with independent fair coins.
        num_guesses: r, chosen without looking at the coins.
        num_right: v.
        delta: of the claim.
        confidence: 1 - β.
    """
    low, high = 0.0, _MOST_EPSILON
    if _p_value(num_canaries, num_guesses, num_right, 0.0, delta) >= 1 - confidence:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        refuted = _p_value(num_canaries, num_guesses, num_right, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Return Pr[X ≥ v] + 2mδ max_i Pr[v > X ≥ v - i] / i for X ~ Bin(r, e^ε / (1 + e^ε))."""
    chance = 1 / (1 + np.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(v - 1, -1, -1), r, chance))
    worst = float((below / np.arange(1, v + 1)).max(initial=0.0))
    return float(binom.sf(v - 1, r, chance)) + 2 * m * delta * worst


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """What canaries say of the training of a run.

    Attributes:
        num_canaries: m.
        guesses, right: of the clearest canaries, for the one-run bound.
        all_right: of guesses of every canary, for the test of the noise.
        planned_share: of all guesses that are right with the planned noise.
        epsilon: refuted at ``ONE_RUN_CONFIDENCE`` whatever the noise is.
        epsilon_gaussian: refuted at ``NOISE_CONFIDENCE`` if noise is Gaussian and independent: the
            largest of all sums together and of each kind of sum.
        noise_at_most: upper bound of the noise in all sums together, as a share of what was
            planned; inf is no bound.
        p_planned: of values that are distributed as noise and coins of the study say, corrected
            for the number of tests.
    """

    num_canaries: int
    guesses: int
    right: int
    all_right: int
    planned_share: float
    epsilon: float
    epsilon_gaussian: float
    noise_at_most: float
    p_planned: float


SiteValues = tuple[Mapping[str, Measured], BoolArray]
"""Of a site: what was measured, by kind of sum, and which of its canaries are there."""


def conclude_canaries(
    sites: Sequence[SiteValues], events: Sequence[GaussianEvent], *, delta: float
) -> CanaryResult:
    """Return what the canaries of all sites say together.

    Args:
        sites: each site's canaries.
        events: what training does to a patient, as claimed.
        delta: of the claim.

    Raises:
        ValueError: there is no canary.
    """
    if not sum(coins.size for _, coins in sites):
        raise ValueError("no canaries")
    whole = _Together([(NoiseTest([*kinds.values()]), coins) for kinds, coins in sites])
    # One kind of sum may betray what all together hide, where it has little weight among them.
    by_kind: dict[str, list[tuple[NoiseTest, BoolArray]]] = {}
    for kinds, coins in sites:
        for name, kind in kinds.items():
            by_kind.setdefault(name, []).append((NoiseTest([kind]), coins))
    each = {name: _Together(tests) for name, tests in by_kind.items()}
    steps_of = {name: [next(k[name] for k, _ in sites if name in k).event] for name in each}
    confidence = 1 - (1 - NOISE_CONFIDENCE) / (1 + len(each))
    bounds = [
        _epsilon(events, whole.noise_ratio(confidence), delta),
        *(_epsilon(steps_of[n], each[n].noise_ratio(confidence), delta) for n in each),
    ]
    guessed = whole.clearest(GUESSED_SHARE)
    right = int(whole.right[guessed].sum())
    ratio = whole.noise_ratio(confidence)
    groups = [group for test, coins in whole.sites for group in test.groups(coins)]
    for together in (whole, *each.values()):
        groups += together.groups()
    return CanaryResult(
        num_canaries=whole.right.size,
        guesses=guessed.size,
        right=right,
        all_right=int(whole.right.sum()),
        planned_share=whole.chance_right(1.0),
        epsilon=one_run_bound(whole.right.size, guessed.size, right, delta=delta),
        epsilon_gaussian=max(bounds),
        noise_at_most=1 / ratio if ratio > 0 else inf,
        p_planned=_least_p(groups),
    )


class _Together:
    """Like values of all sites."""

    def __init__(self, sites: Sequence[tuple[NoiseTest, BoolArray]]) -> None:
        self.sites = sites
        self.right = np.concatenate([test.guesses() == coins for test, coins in sites])

    def clearest(self, share: float) -> NDArray[np.int64]:
        """Return the numbers of the canaries that are guessed best."""
        clearness = np.concatenate([test.clearness() for test, _ in self.sites])
        return np.argsort(-clearness, kind="stable")[: round(share * clearness.size)]

    def chance_right(self, noise_ratio: float) -> float:
        """Return the mean chance of a guess to be right.

        Guesses of unlike sites have unlike chances; their sum is less spread than a binomial of the
        mean chance (Hoeffding 1956), so that tests by the binomial hold.
        """
        each = [test.chance_right(noise_ratio) for test, _ in self.sites]
        return float(np.average(each, weights=[coins.size for _, coins in self.sites]))

    def noise_ratio(self, confidence: float) -> float:
        """Return what was planned of noise over what is there, at least; 0 if nothing is known."""
        right, num = int(self.right.sum()), self.right.size
        # Clopper and Pearson's lower bound.
        share = float(beta.ppf(1 - confidence, right, num - right + 1)) if right else 0.0
        return _least_ratio(self.chance_right, share)

    def groups(self) -> list[Group]:
        """Return the values of all canaries that are not there, and of all that are."""
        alike = zip(*(test.groups(coins) for test, coins in self.sites), strict=True)
        return [
            Group(np.concatenate([g.standard for g in each]), max(g.kurtosis for g in each))
            for each in alike
        ]


def _epsilon(events: Sequence[GaussianEvent], noise_ratio: float, delta: float) -> float:
    """Return what events cost if noise is smaller than planned by the ratio."""
    if noise_ratio <= 0:
        return 0.0
    scaled = [replace(e, noise_multiplier=e.noise_multiplier / noise_ratio) for e in events]
    return privacy_spent(scaled, delta=delta).epsilon


def _least_p(groups: Sequence[Group]) -> float:
    """Return the least p-value, times the number of tests."""
    found = [p for group in groups if group.standard.size for p in group.p_values()]
    return min(1.0, min(found) * len(found))


def _least_ratio(chance: Callable[[float], float], share: float) -> float:
    """Return the largest ratio at which guesses are right less often than ``share``; 0 if none."""
    low, high = 0.0, 1.0
    if share <= chance(0.0):
        return 0.0
    while chance(high) < share and high < _MOST_NOISE_RATIO:
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < share else (low, middle)
    return low
