"""Canaries as they stand in a run's evidence, and what the gate makes of them (its tier 1)."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import isfinite, sqrt

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pratique_common.parts import CanaryOpening
from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canaries import (
    NOISE_CONFIDENCE,
    CanaryResult,
    SiteValues,
    conclude_canaries,
)
from pratique_privacy.canary_coins import Coins
from pratique_privacy.canary_noise import Measured
from pratique_privacy.gate import Rule

OPENED = "canaries: every site that trained opened its coins"
AS_PLANNED = "canaries: each shows the planned noise and rate of sampling"
ONE_RUN = "canaries: bound for any mechanism within the claimed epsilon"
GAUSSIAN = "canaries: bound for Gaussian noise within the claimed epsilon"

_HISTOGRAM_KINDS = ("levels", "sub-bins")


class SiteCanaries(BaseModel):
    """One site's canaries. Values are noised sums over what one canary adds if it is there.

    Attributes:
        commitment: to the coins, given before training.
        opening: coins and salt, given after training.
        histograms: one vector for each section of the histogram round; empty if it missed it.
        histogram_summands: whose noise is in them.
        steps: sum of the rounds that the site was in.
        rounds: how many these were.
        round_summands: whose noise is in each of them, added up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    commitment: str
    opening: CanaryOpening
    histograms: tuple[tuple[float, ...], ...] = ()
    histogram_summands: int = Field(default=0, ge=0)
    steps: tuple[float, ...] = ()
    rounds: int = Field(default=0, ge=0)
    round_summands: int = Field(default=0, ge=0)


def histogram_units(study: StudySpec) -> tuple[float, ...]:
    """Return what a canary that is there adds, in each section of the histogram round."""
    columns = len(study.data.trained.columns), len(SubBins(study.data.columns).columns)
    return tuple(sqrt(num) for num in columns if num)


def conclude_site_canaries(
    study: StudySpec,
    trained: tuple[str, ...],
    canaries: Mapping[str, SiteCanaries],
    num_roster: int,
    *,
    rounds_done: int,
    dropped: Collection[str],
) -> CanaryResult | None:
    """Return what the canaries say, or None if a site's are missing or not what it committed to.

    Args:
        study: the study.
        trained: sites whose sums were opened.
        canaries: of each site.
        num_roster: sites in the roster, 0 without secure sums.
        rounds_done: whose sums were opened; a site that was never missing was in all of them.
        dropped: sites that were missing at some time.
    """
    if not trained or set(canaries) != set(trained):
        return None
    num_sites = max(1, num_roster)
    for name, site in canaries.items():
        whole = bool(site.histograms) and site.rounds == rounds_done
        if site.rounds > rounds_done or not (whole or name in dropped):
            return None
        least = num_sites - (study.privacy.tolerated_dropouts if num_roster else 0)
        summands = [float(site.histogram_summands)] if site.histograms else []
        summands += [site.round_summands / site.rounds] if site.rounds else []
        if not all(least <= count <= num_sites for count in summands):
            return None
    try:
        sites = [_values_of(study, canaries[site], num_sites) for site in trained]
        training = PrivacyPlan(study).training_events()
        return conclude_canaries(sites, training, delta=study.privacy.target_delta)
    except ValueError:
        return None


def _values_of(study: StudySpec, site: SiteCanaries, num_sites: int) -> SiteValues:
    plan = PrivacyPlan(study)
    places = plan.canaries_of(0, num_sites)
    num = places.stop - places.start
    coins = Coins.of(site.opening)
    if coins.commitment != site.commitment:
        raise ValueError("not the coins of the commitment")
    kinds: dict[str, Measured] = {}
    if site.histograms:
        form = plan.histogram_sum(num_sites)
        noise = sqrt(site.histogram_summands / form.num_shares)
        parts = zip(_HISTOGRAM_KINDS, form.sections, strict=False)
        for (name, section), values in zip(parts, site.histograms, strict=True):
            kinds[name] = Measured(
                values=np.array(values),
                sigma=section.noise_multiplier * noise,
                event=GaussianEvent(noise_multiplier=section.noise_multiplier),
            )
    if site.rounds:
        noise = sqrt(site.round_summands / plan.step_sum(1, num_sites).num_shares)
        kinds["rounds"] = Measured(
            values=np.array(site.steps),
            sigma=plan.step.noise_multiplier * noise,
            event=replace(plan.step, num_steps=site.rounds),
            rounds=site.rounds,
            sample_rate=study.training.sample_rate,
        )
    if not kinds or any(
        kind.sigma <= 0 or kind.values.shape != (num,) or not np.isfinite(kind.values).all()
        for kind in kinds.values()
    ):
        raise ValueError("not the values of these canaries")
    return kinds, coins.first(num)


def canary_rules(result: CanaryResult | None, *, claimed_epsilon: float) -> list[Rule]:
    """Return the rules of tier 1; without a result there is one, and it is not met."""
    rules = [Rule(tier=1, rule=OPENED, passed=result is not None)]
    if result is None:
        return rules
    least = 1 - NOISE_CONFIDENCE
    rules.append(
        Rule(
            tier=1,
            rule=AS_PLANNED,
            passed=isfinite(result.p_planned) and result.p_planned >= least,
            value=result.p_planned,
            limit=least,
        )
    )
    for rule, epsilon in ((ONE_RUN, result.epsilon), (GAUSSIAN, result.epsilon_gaussian)):
        rules.append(
            Rule(
                tier=1,
                rule=rule,
                passed=isfinite(epsilon) and epsilon <= claimed_epsilon,
                value=epsilon,
                limit=claimed_epsilon,
            )
        )
    return rules
