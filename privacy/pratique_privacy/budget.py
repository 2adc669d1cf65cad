"""How a study's ε is cut: every noise multiplier follows from the study alone.

The coordinator and every site compute the same plan from the same study, so that nobody takes a
noise level on trust.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import sqrt

from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins
from pratique_common.utility_cells import utility_sensitivity
from pratique_privacy.accountant import GaussianEvent, PrivacySpent, privacy_spent
from pratique_privacy.audits.family import STATISTICS
from pratique_privacy.fixed_point import FixedPoint, Section
from pratique_privacy.histogram_share import histogram_share

AUDIT_SENSITIVITY = sqrt(len(STATISTICS))
"""One patient is in one cell of each statistic."""

_SUB_BIN_SHARE = 0.2
"""Of the histogram round's precision, for sub-bins. On Adult at ε = 1 a share of .4 instead brings
their part of the two-way distance from .0081 to .0077 and makes bins' noise 15 % larger."""

NUM_CANARIES = 1_000
"""Over all sites. Among so many, half of the planned noise and four fifths of it are found in every
run (the table of planted bugs in privacy/README.md); ten times as many would lengthen every sum."""

_MAX_NOISE_MULTIPLIER = 1e6
_BISECTIONS = 40

_FLOAT32_MARGIN = 1e-3
"""Gradients are 32-bit floats, though their sums are not: removing one of 4,096 equal patients at
hostile weights moved a block's sum by at most 1.0001 of its bound (a test)."""

_COUNT_SLACK = 4.0
"""A site may hold this many times the patients planned for all sites before counts are cut."""


@dataclass(frozen=True)
class PrivacyPlan:
    """Noise multipliers of a study, what they cost a patient, and the sums that carry the noise."""

    study: StudySpec

    @cached_property
    def histogram(self) -> GaussianEvent:
        """All one-way histograms with sub-bins: their share of the whole precision.

        Gaussian mechanisms compose by adding 1/σ², so with all of ε the histograms alone would have
        the noise of a single release, and with a share of it more by 1/√share.
        """
        privacy = self.study.privacy
        alone = _single_release(privacy.target_epsilon, privacy.target_delta)
        sigma = alone.noise_multiplier
        share = histogram_share(self.study, sigma) if self.study.training.rounds else 1.0
        return GaussianEvent(noise_multiplier=sigma / sqrt(share))

    @cached_property
    def step(self) -> GaussianEvent:
        """One step: the least noise that keeps histogram and all steps within the target.

        Raises:
            ValueError: the study has no steps.
        """
        training, privacy = self.study.training, self.study.privacy
        if not training.rounds:
            raise ValueError("the study has no rounds")
        noise_multiplier = _step_noise_multiplier(
            self.histogram,
            training.sample_rate,
            training.rounds,
            privacy.target_epsilon,
            privacy.target_delta,
        )
        return GaussianEvent(noise_multiplier=noise_multiplier, sample_rate=training.sample_rate)

    @property
    def audit_members(self) -> GaussianEvent:
        """One audit of one candidate, for a member."""
        audit = self.study.audit
        return _single_release(audit.epsilon_members, audit.delta)

    @property
    def audit_holdout(self) -> GaussianEvent:
        """One audit of one candidate, for a hold-out patient."""
        audit = self.study.audit
        return _single_release(audit.epsilon_holdout, audit.delta)

    @property
    def utility(self) -> GaussianEvent:
        """One utility measurement, for a hold-out patient."""
        audit = self.study.audit
        return _single_release(audit.epsilon_utility, audit.delta)

    def histogram_sum(self, num_sites: int) -> FixedPoint:
        """Return the form of the histogram round's sum over ``num_sites`` sites.

        Bins and levels first, then sub-bins, each with its share of the precision. L2 sensitivity
        √D: a patient adds weight 1, spread over its rows, to each of D columns. Both end with
        coordinates for canaries.
        """
        columns, finer = self.study.data.trained.columns, SubBins(self.study.data.columns)
        cells = sum(column.num_levels for column in columns)
        sizes = [(cells, len(columns), 1.0)]
        if finer.size:
            sizes = [
                (cells, len(columns), 1 - _SUB_BIN_SHARE),
                (finer.size, len(finer.columns), _SUB_BIN_SHARE),
            ]
        sections = [
            Section(
                size=size + self.reserved,
                sensitivity=sqrt(num_columns),
                noise_multiplier=self.histogram.noise_multiplier / sqrt(share),
                largest=self._largest_count,
                reserved=self.reserved,
            )
            for size, num_columns, share in sizes
        ]
        return self._sum(num_sites, *sections)

    def step_sum(self, num_parameters: int, num_sites: int) -> FixedPoint:
        """Return the form of one step's sum of clipped vectors; canaries have the last places."""
        training = self.study.training
        return self._sum(
            num_sites,
            Section(
                size=num_parameters + self.reserved,
                sensitivity=training.max_grad_norm * (1 + _FLOAT32_MARGIN),
                noise_multiplier=self.step.noise_multiplier,
                # The whole planned batch at one site, its gradients along one coordinate.
                largest=training.sample_rate * self.study.expected_members * training.max_grad_norm,
                reserved=self.reserved,
            ),
        )

    def audit_sum(self, num_cells: int, num_utility_cells: int, num_sites: int) -> FixedPoint:
        """Return the form of an audit's counts: members, hold-out and, with a target, utility."""
        roles = (self.audit_members, num_cells), (self.audit_holdout, num_cells)
        sections = [
            Section(
                size=size,
                sensitivity=AUDIT_SENSITIVITY,
                noise_multiplier=event.noise_multiplier,
                largest=self._largest_count,
            )
            for event, size in roles
        ]
        if num_utility_cells:
            utility = Section(
                size=num_utility_cells,
                sensitivity=utility_sensitivity(self.study.data),
                noise_multiplier=self.utility.noise_multiplier,
                largest=self._largest_count,
            )
            sections.append(utility)
        return self._sum(num_sites, *sections)

    def canaries_of(self, rank: int, num_sites: int) -> slice:
        """Return which of a sum's reserved coordinates are a site's.

        Args:
            rank: the site's place among those whose vectors are added in the ring, from 0.
            num_sites: how many these are; 1 where each vector stands for itself.
        """
        each = self.reserved // num_sites
        return slice(rank * each, (rank + 1) * each)

    @property
    def reserved(self) -> int:
        """How many coordinates canaries have in each section of a training sum."""
        if self.study.privacy.noise == "local":
            return NUM_CANARIES // self.study.release.min_sites  # each site has its own vector
        return NUM_CANARIES

    @property
    def _largest_count(self) -> float:
        return _COUNT_SLACK * self.study.privacy.expected_patients

    def _sum(self, num_sites: int, *sections: Section) -> FixedPoint:
        privacy = self.study.privacy
        if privacy.noise == "local":
            return FixedPoint(sections=sections)  # each site's vector stands for itself
        unreliable = privacy.tolerated_dropouts + privacy.colluding_sites
        return FixedPoint(sections=sections, num_sites=num_sites, num_shares=num_sites - unreliable)

    def training_events(self) -> list[GaussianEvent]:
        """Return what training does to a member."""
        if not self.study.training.rounds:
            return [self.histogram]
        steps = GaussianEvent(
            noise_multiplier=self.step.noise_multiplier,
            sample_rate=self.step.sample_rate,
            num_steps=self.study.training.rounds,
        )
        return [self.histogram, steps]

    def training_spent(self) -> PrivacySpent:
        """Return the cost of training, histograms included."""
        return privacy_spent(self.training_events(), delta=self.study.privacy.target_delta)

    def member_events(self) -> list[GaussianEvent]:
        """Return everything that a run does to a member."""
        return [*self.training_events(), self.audit_members]

    def holdout_events(self) -> list[GaussianEvent]:
        """Return everything that a run does to a hold-out patient."""
        events = [self.audit_holdout]
        return [*events, self.utility] if self.study.data.target else events

    def total_spent(self) -> PrivacySpent:
        """Return the headline cost: the dearer role, parts added up (basic composition).

        Training is one claim and the audit another, at a δ of its own; adding both is never less
        than the truth and can be checked by hand.
        """
        training, audit = self.training_spent(), self.study.audit
        member = training.epsilon + audit.epsilon_members
        utility = audit.epsilon_utility if self.study.data.target else 0.0
        holdout = audit.epsilon_holdout + utility
        return PrivacySpent(
            epsilon=max(member, holdout),
            delta=max(training.delta + audit.delta, 2 * audit.delta),
        )


@lru_cache(maxsize=64)
def _step_noise_multiplier(
    histogram: GaussianEvent, sample_rate: float, rounds: int, epsilon: float, delta: float
) -> float:
    def cost(noise_multiplier: float) -> float:
        steps = GaussianEvent(
            noise_multiplier=noise_multiplier, sample_rate=sample_rate, num_steps=rounds
        )
        return privacy_spent([histogram, steps], delta=delta).epsilon

    return _least_noise(cost, epsilon)


@lru_cache(maxsize=256)
def _single_release(epsilon: float, delta: float) -> GaussianEvent:
    noise_multiplier = _least_noise(
        lambda nm: privacy_spent([GaussianEvent(noise_multiplier=nm)], delta=delta).epsilon, epsilon
    )
    return GaussianEvent(noise_multiplier=noise_multiplier)


def _least_noise(cost: Callable[[float], float], target_epsilon: float) -> float:
    """Return the least noise multiplier, to 0.1 %, whose cost is within the target."""
    low, high = 0.0, 1.0
    while cost(high) > target_epsilon:
        low, high = high, high * 2
        if high > _MAX_NOISE_MULTIPLIER:
            raise ValueError("no noise multiplier reaches this epsilon")
    for _ in range(_BISECTIONS):
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target_epsilon else (middle, high)
    return high
