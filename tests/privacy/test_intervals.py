import numpy as np
import pytest
from scipy import stats

from pratique_privacy.intervals import (
    Positives,
    clopper_pearson,
    control_rate_bounds,
    excess_bounds,
    excess_p_value,
    holm,
)
from pratique_privacy.roc import histogram_auc


def _exact(members: int, controls: int) -> Positives:
    return Positives(members=members, controls=controls, num_members=400, num_controls=100)


def test_exact_p_value_is_fishers() -> None:
    table = [[12, 388], [1, 99]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert excess_p_value(_exact(12, 1)) == pytest.approx(expected)


def test_clopper_pearson_by_hand() -> None:
    # Newcombe 1998 (17:857), table I: 81 of 263 is .2527 to .3676, two-sided 95 %.
    assert clopper_pearson(81, 263, 0.975) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(0, 20, 0.975) == pytest.approx((0.0, 0.1684), abs=5e-5)
    assert clopper_pearson(20, 20, 0.975) == pytest.approx((1 - 0.1684, 1.0), abs=5e-5)


def test_bounds_of_an_excess_are_a_little_wider_than_newcombes() -> None:
    # Newcombe 1998 (17:873), example 56/70 - 48/80: .0524 to .3339, two-sided 95 %.
    counts = Positives(members=56, controls=48, num_members=70, num_controls=80)
    low, high = excess_bounds(counts, confidence=0.975)
    assert 0.03 < low < 0.0524 and 0.3339 < high < 0.35
    assert excess_bounds(counts.exchanged, confidence=0.975) == pytest.approx((-high, -low))


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.3])
@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_bounds_of_an_excess_hold_as_often_as_they_say(rate: float, sigma: float) -> None:
    """One in twenty each: three standard errors of 2,000 draws are 1.5 points."""
    rng, missed = np.random.default_rng(0), np.zeros(4)
    for _ in range(2_000):
        noise_m, noise_c = sigma * rng.standard_normal(2)
        counts = Positives(
            members=rng.binomial(4_000, rate) + noise_m,
            controls=rng.binomial(1_000, rate) + noise_c,
            num_members=4_000, num_controls=1_000,
            sigma_members=sigma, sigma_controls=sigma, member_share=0.8,
        )  # fmt: skip
        low, high = excess_bounds(counts, confidence=0.95)
        fewest, most = control_rate_bounds(counts, confidence=0.95)
        missed += low > 0, high < 0, fewest > rate, most < rate
    assert (missed / 2_000 < 0.065).all(), missed


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_holm_keeps_what_is_not_a_number() -> None:
    adjusted = holm({"a": float("nan"), "b": 0.02})
    assert np.isnan(adjusted["a"])
    assert adjusted["b"] == pytest.approx(0.04)


def test_noise_larger_than_the_counts_gives_finite_answers() -> None:
    counts = Positives(members=-40, controls=-12, num_members=400, num_controls=100,
                       sigma_members=30, sigma_controls=10, member_share=0.8)  # fmt: skip
    assert 0 <= excess_p_value(counts) <= 1
    assert np.isfinite(excess_bounds(counts, confidence=0.95)).all()


def test_a_clear_excess_is_significant_through_the_noise() -> None:
    counts = Positives(members=300, controls=20, num_members=4000, num_controls=1000,
                       sigma_members=15, sigma_controls=4, member_share=0.8)  # fmt: skip
    assert excess_p_value(counts) < 0.005
    low, high = excess_bounds(counts, confidence=0.95)
    assert 0 < low < counts.excess < high
    assert counts.excess > 0.05


def test_auc_of_a_histogram_is_that_of_its_scores() -> None:
    rng = np.random.default_rng(0)
    members, controls = rng.integers(0, 8, 500), rng.integers(1, 9, 300)
    estimate = histogram_auc(
        np.bincount(members, minlength=9).astype(float),
        np.bincount(controls, minlength=9).astype(float),
        sigma_members=0, sigma_controls=0, confidence=0.95,
    )  # fmt: skip
    test = stats.mannwhitneyu(members, controls, alternative="less")
    assert estimate.auc == pytest.approx(1 - test.statistic / (500 * 300))
    assert estimate.lower < estimate.auc < estimate.upper
    weaker = stats.mannwhitneyu(members[:40], controls[:30], alternative="less")
    weak = histogram_auc(
        np.bincount(members[:40], minlength=9).astype(float),
        np.bincount(controls[:30], minlength=9).astype(float),
        sigma_members=0, sigma_controls=0, confidence=0.95,
    )  # fmt: skip
    assert weak.p_value == pytest.approx(weaker.pvalue, abs=0.02)


@pytest.mark.parametrize("num_controls", [1, 2, 3, 5, 20])
def test_an_auc_of_few_controls_is_hardly_bounded(num_controls: int) -> None:
    """Of a few controls in one cell the estimate itself has no spread; its bound must have."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(1_000):
        members, controls = (
            np.bincount(rng.integers(0, 16, num), minlength=16).astype(float)
            for num in (3_000, num_controls)
        )
        found = histogram_auc(members, controls, sigma_members=0, sigma_controls=0, confidence=0.95)
        held += found.upper >= 0.5
    assert held / 1_000 >= 0.93


def test_an_auc_is_tested_on_both_sides() -> None:
    rng = np.random.default_rng(2)
    near, far = (np.bincount(rng.integers(low, low + 12, 900), minlength=16) for low in (0, 3))
    for one, other, few in ((near, far, True), (far, near, False)):
        found = histogram_auc(one.astype(float), other.astype(float),
                              sigma_members=0, sigma_controls=0, confidence=0.95)  # fmt: skip
        assert (found.p_value < 1e-6) == few
        assert (found.p_opposite < 1e-6) != few
        assert found.p_value + found.p_opposite == pytest.approx(1)


@pytest.mark.parametrize("sigma", [0.0, 8.0])
def test_an_auc_and_its_bounds_are_shares(sigma: float) -> None:
    """Groups that lie apart: noise and a wide bound would go beyond 1."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        members, controls = np.zeros(9), np.zeros(9)
        members[0], controls[8] = 100, 100
        found = histogram_auc(
            members + rng.normal(0, sigma, 9), controls + rng.normal(0, sigma, 9),
            sigma_members=sigma, sigma_controls=sigma, confidence=0.95,
        )  # fmt: skip
        assert 0 <= found.lower <= found.auc <= found.upper <= 1
