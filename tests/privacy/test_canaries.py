"""Canaries: the bound, the test of noise, what sites add, and what honest runs show."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from pratique_client.histograms import canary_counts
from pratique_common.generators.build import build_generator
from pratique_common.parts import CanaryOpening
from pratique_common.study import StudySpec
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.budget import NUM_CANARIES, PrivacyPlan
from pratique_privacy.canaries import (
    NOISE_CONFIDENCE,
    CanaryResult,
    conclude_canaries,
    one_run_bound,
)
from pratique_privacy.canary_coins import Coins
from pratique_privacy.canary_evidence import canary_rules
from pratique_privacy.canary_noise import Group, Measured, NoiseTest
from pratique_privacy.canary_sums import canaries_in_histograms, canaries_in_step
from pratique_privacy.fixed_point import FixedPoint, Section
from tests.canaries import planted_run
from tests.conftest import small_study

KINDS = ("pairwise", "autoregressive")


def study_of(kind: str, *, rounds: int = 3, sample_rate: float = 1.0, rows: int = 2) -> StudySpec:
    data = {**small_study().data.model_dump(mode="json"), "max_rows_per_patient": rows}
    return small_study(
        data=data,
        generator={"name": kind},
        training={"rounds": rounds, "sample_rate": sample_rate, "max_grad_norm": 0.7},
    )


# The bound.


def test_the_papers_self_check() -> None:
    """All of 100 guesses right, δ = 0: .97^100 < .05, and ln(.97 / .03) = 3.49."""
    assert one_run_bound(100, 100, 100, delta=0.0) == pytest.approx(3.49, abs=0.005)


def test_the_bound_is_where_its_p_value_is_beta() -> None:
    """Against the formula written out as loops, with another δ."""
    m, r, v, delta = 400, 90, 80, 1e-4
    epsilon = one_run_bound(m, r, v, delta=delta)
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [float(binom.pmf(k, r, chance)) for k in range(r + 1)]
    worst = max(sum(pmf[v - i : v]) / i for i in range(1, v + 1))
    assert sum(pmf[v:]) + 2 * m * delta * worst == pytest.approx(0.05, abs=1e-4)
    assert 0 < epsilon < one_run_bound(m, r, v, delta=0.0)


def test_the_bound_grows_with_right_guesses_and_falls_with_doubt() -> None:
    bounds = [one_run_bound(1_000, 200, v, delta=1e-5) for v in (0, 100, 120, 160, 199, 200)]
    assert bounds[:2] == [0.0, 0.0]
    assert sorted(bounds) == bounds and bounds[2] > 0
    strict = one_run_bound(1_000, 200, 160, delta=1e-5, confidence=0.999)
    assert strict < one_run_bound(1_000, 200, 160, delta=1e-5)


def test_randomised_response_exceeds_its_epsilon_in_at_most_one_of_twenty() -> None:
    """The mechanism for which the bound is tight: each coin is told rightly with chance q(ε)."""
    epsilon, guesses, rng = 1.0, 300, np.random.default_rng(5)
    right = rng.binomial(guesses, 1 / (1 + math.exp(-epsilon)), 4_000)
    bounds = {v: one_run_bound(guesses, guesses, v, delta=0.0) for v in set(right.tolist())}
    exceeded = np.mean([bounds[v] > epsilon for v in right.tolist()])
    assert 0.01 < exceeded <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4_000)


# Coins.


def test_a_commitment_fixes_coins_and_tells_nothing() -> None:
    coins = Coins.draw(NUM_CANARIES)
    assert Coins.of(coins.opening).commitment == coins.commitment
    assert coins.first(NUM_CANARIES).shape == (NUM_CANARIES,)
    assert abs(coins.first(NUM_CANARIES).mean() - 0.5) < 0.1
    other = Coins(coins.included, Coins.draw(8).salt)
    assert other.commitment != coins.commitment
    assert Coins.draw(NUM_CANARIES) != coins
    # Neither fewer coins nor bytes that wander between salt and coins.
    with pytest.raises(ValueError):
        Coins(coins.included, coins.salt).first(NUM_CANARIES + 1)
    with pytest.raises(ValueError):
        Coins(coins.included[1:], coins.salt + coins.included[:1]).first(8)
    with pytest.raises(ValueError):
        Coins.of(CanaryOpening(coins="zz", salt="0" * 64))


# What sites add.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_canary_counts_for_one_patient_and_in_its_own_place(kind: str, rows: int) -> None:
    generator = build_generator(study_of(kind))
    included = np.random.default_rng(1).random(50) < 0.5
    values = canaries_in_step(generator, included, rows, 0.7, 1.0)
    np.testing.assert_allclose(values[included], 0.7, rtol=1e-4)
    np.testing.assert_allclose(values[~included], 0.0, atol=1e-9)
    assert values.max() <= 0.7 * (1 + 1e-9)
    for columns in ([5, 3], [2, 1]):
        histograms = canaries_in_histograms(included, columns, rows, canary_counts())
        assert histograms.shape == (2, 50)
        wanted = np.sqrt(columns)[:, None] * included
        np.testing.assert_allclose(histograms, wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there_adds_nothing(kind: str) -> None:
    nobody = np.zeros(20, bool)
    assert not canaries_in_step(build_generator(study_of(kind)), nobody, 2, 1.0, 1.0).any()
    assert not canaries_in_histograms(nobody, [3, 2], 2, canary_counts()).any()


@pytest.mark.parametrize("kind", KINDS)
def test_canaries_are_sampled_like_patients(kind: str) -> None:
    included = np.ones(1_000, bool)
    values = canaries_in_step(build_generator(study_of(kind)), included, 2, 1.0, 0.3)
    assert abs((values > 0.5).mean() - 0.3) < 0.08
    again = canaries_in_step(build_generator(study_of(kind)), included, 2, 1.0, 0.3)
    assert ((values > 0.5) != (again > 0.5)).mean() > 0.3


def test_canaries_draw_from_no_seeded_generator() -> None:
    """They must not move the numbers that anything else draws."""
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    canaries_in_step(build_generator(study_of("pairwise")), np.ones(5, bool), 2, 1.0, 1.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_reserved_coordinates_are_the_last_of_each_section() -> None:
    section = Section(size=3, sensitivity=1.0, noise_multiplier=1.0, largest=10.0, reserved=1)
    form = FixedPoint(sections=(section, section))
    total = form.join(np.arange(4.0), np.array([8.0, 9.0]))
    assert total.tolist() == [0, 1, 8, 2, 3, 9]
    of_patients, of_canaries = form.split(total)
    assert (of_patients.tolist(), of_canaries.tolist()) == ([0, 1, 2, 3], [8, 9])


@pytest.mark.parametrize("noise", ["secure_sum", "local"])
@pytest.mark.parametrize("num_sites", [3, 7, 1_000])
def test_sites_have_places_of_their_own(noise: str, num_sites: int) -> None:
    study = small_study(privacy={"target_epsilon": 3.0, "expected_patients": 900, "noise": noise})
    plan = PrivacyPlan(study)
    if noise == "local":
        assert plan.canaries_of(0, 1) == slice(0, plan.reserved)
        return
    places = [plan.canaries_of(rank, num_sites) for rank in range(num_sites)]
    assert all(a.stop == b.start and b.stop > b.start for a, b in pairwise(places))
    assert places[0].start == 0 and places[-1].stop <= plan.reserved


# The test of noise.


def measured(
    rng: np.random.Generator,
    there: np.ndarray,
    *,
    rounds: int = 4,
    rate: float = 0.4,  # type: ignore[type-arg]
) -> dict[str, Measured]:
    """Canaries with exactly the planned noise, in histograms and in sampled rounds."""
    drawn = rng.binomial(rounds, rate, there.size)
    return {
        "levels": Measured(
            values=there + 2.0 * rng.standard_normal(there.size),
            sigma=2.0,
            event=GaussianEvent(noise_multiplier=2.0),
        ),
        "rounds": Measured(
            values=there * drawn + 1.5 * rng.standard_normal(there.size),
            sigma=1.5,
            event=GaussianEvent(noise_multiplier=0.75, sample_rate=rate, num_steps=rounds),
            rounds=rounds,
            sample_rate=rate,
        ),
    }


def noise_test(rng: np.random.Generator, there: np.ndarray) -> NoiseTest:  # type: ignore[type-arg]
    return NoiseTest([*measured(rng, there).values()])


def test_guesses_are_right_as_often_as_calculated() -> None:
    rng = np.random.default_rng(2)
    there = rng.random(200_000) < 0.5
    test = noise_test(rng, there)
    right = (test.guesses() == there).mean()
    assert right == pytest.approx(test.chance_right(), abs=4 * math.sqrt(0.25 / there.size))
    halved = NoiseTest(
        [
            Measured(
                values=there + 1.0 * rng.standard_normal(there.size),
                sigma=2.0,
                event=GaussianEvent(noise_multiplier=2.0),
            )
        ]
    )
    assert (halved.guesses() == there).mean() == pytest.approx(halved.chance_right(2.0), abs=0.005)


def test_p_values_of_planned_values_are_uniform() -> None:
    rng = np.random.default_rng(3)
    found: list[tuple[float, float]] = []
    for _ in range(400):
        there = rng.random(300) < 0.5
        found += [group.p_values() for group in noise_test(rng, there).groups(there)]
    for p_values in zip(*found, strict=True):
        assert kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.3, 2.0])
def test_noise_of_another_size_is_seen(scale: float) -> None:
    standard = scale * np.random.default_rng(4).standard_normal(500)
    assert Group(standard, 3.0).p_values()[1] < 1e-6


def test_sites_that_were_in_unlike_sums_are_judged_together() -> None:
    rng = np.random.default_rng(6)
    sites = []
    for rounds in (2, 9):
        there = rng.random(400) < 0.5
        sites.append((measured(rng, there, rounds=rounds), there))
    events = PrivacyPlan(study_of("pairwise")).training_events()
    result = conclude_canaries(sites, events, delta=1e-5)
    assert result.num_canaries == 800 and result.guesses == 160
    tests = [NoiseTest([*kinds.values()]) for kinds, _ in sites]
    coins = [coins for _, coins in sites]
    right = [t.guesses() == c for t, c in zip(tests, coins, strict=True)]
    assert result.all_right == np.concatenate(right).sum()
    chances = [test.chance_right() for test in tests]
    assert result.planned_share == pytest.approx(np.mean(chances))
    with pytest.raises(ValueError):
        conclude_canaries([], events, delta=1e-5)


# Whole runs of canaries, through the code of sites and coordinator.


def passed(result: CanaryResult, study: StudySpec) -> bool:
    claimed = PrivacyPlan(study).training_spent().epsilon
    return all(rule.passed for rule in canary_rules(result, claimed_epsilon=claimed))


@pytest.mark.parametrize("noise", ["secure_sum", "local"])
@pytest.mark.parametrize(("kind", "rate"), [("pairwise", 1.0), ("autoregressive", 0.5)])
def test_an_honest_run_exceeds_its_epsilon_in_at_most_one_of_twenty(
    noise: str, kind: str, rate: float
) -> None:
    study = study_of(kind, rounds=3, sample_rate=rate)
    privacy = {**study.privacy.model_dump(), "noise": noise}
    study = study.model_copy(update={"privacy": type(study.privacy).model_validate(privacy)})
    results = [planted_run(study) for _ in range(15)]
    # At most 5 % each: more than 4 of 15 would have a chance below 1 in 1,000.
    assert sum(not passed(result, study) for result in results) <= 4
    claimed = PrivacyPlan(study).training_spent().epsilon
    # Of 150 honest runs the bound was at most .81 of the claim; it may be 0 (least: .04).
    assert max(r.epsilon_gaussian for r in results) < 1.2 * claimed
    assert np.median([r.epsilon_gaussian for r in results]) > 0
    planned = np.mean([result.planned_share for result in results])
    share = np.mean([result.all_right / result.num_canaries for result in results])
    assert share == pytest.approx(planned, abs=5 * math.sqrt(0.25 / (15 * 999)))


def test_histograms_alone_have_canaries_too() -> None:
    study = study_of("independent", rounds=0)
    result = planted_run(study)
    assert result.num_canaries == NUM_CANARIES // 3 * 3
    assert result.p_planned >= 1 - NOISE_CONFIDENCE or not passed(result, study)
    assert result.planned_share > 0.55


def test_without_canaries_there_is_one_rule_and_it_is_not_met() -> None:
    (rule,) = canary_rules(None, claimed_epsilon=3.0)
    assert (rule.tier, rule.passed) == (1, False)
