import numpy as np
import pytest
from scipy import stats

from pratique_privacy.intervals import (
    Positives,
    excess_p_value,
    excess_upper_bound,
    histogram_auc,
    holm,
    limit_of_detection,
    wilson,
)


def _exact(members: int, controls: int) -> Positives:
    return Positives(members=members, controls=controls, num_members=400, num_controls=100)


def test_exact_p_value_is_fishers() -> None:
    table = [[12, 388], [1, 99]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert excess_p_value(_exact(12, 1)) == pytest.approx(expected)


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263 is .2553 to .3662.
    low, high = wilson(81, 263, 1.959964)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_newcombe_upper_bound_by_hand() -> None:
    # Newcombe 1998 (17:873), example 56/70 - 48/80: .0524 to .3339, two-sided 95 %.
    counts = Positives(members=56, controls=48, num_members=70, num_controls=80)
    assert excess_upper_bound(counts, confidence=0.975) == pytest.approx(0.3339, abs=5e-5)


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_holm_keeps_what_is_not_a_number() -> None:
    adjusted = holm({"a": float("nan"), "b": 0.02})
    assert np.isnan(adjusted["a"])
    assert adjusted["b"] == pytest.approx(0.04)


def test_limit_of_detection_is_the_designs() -> None:
    # design/audit.md 6: 4,000/1,000 patients, σ 15 and 2.6, α = .05/24: 71 patients at 50 % power.
    counts = Positives(members=0, controls=0, num_members=4000, num_controls=1000,
                       sigma_members=15, sigma_controls=2.6)  # fmt: skip
    assert abs(limit_of_detection(counts, alpha=0.05 / 24, power=0.5) - 71) <= 1
    assert limit_of_detection(counts, alpha=0.05 / 24, power=0.9) > 90


def test_noise_larger_than_the_counts_gives_finite_answers() -> None:
    counts = Positives(members=-40, controls=-12, num_members=400, num_controls=100,
                       sigma_members=30, sigma_controls=10, member_share=0.8)  # fmt: skip
    assert 0 <= excess_p_value(counts) <= 1
    assert np.isfinite(excess_upper_bound(counts, confidence=0.95))
    assert limit_of_detection(counts, alpha=0.0125, power=0.9) > 0


def test_a_clear_excess_is_significant_through_the_noise() -> None:
    counts = Positives(members=300, controls=20, num_members=4000, num_controls=1000,
                       sigma_members=15, sigma_controls=4, member_share=0.8)  # fmt: skip
    assert excess_p_value(counts) < 0.005
    assert excess_upper_bound(counts, confidence=0.95) > counts.excess > 0.05


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
