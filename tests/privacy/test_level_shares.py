"""Shares of levels from noised counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pratique_privacy.post_processing.level_shares import _Fit, correlation, level_shares

Float64Array = NDArray[np.float64]

PATIENTS, REPEATS = 2_000, 30
AGE = np.exp(-0.5 * ((np.arange(20) - 7) / 4) ** 2)
COUNTRY = np.array([90.0, 2, 1.5, 1, *[0.2] * 26])
HEAPED = np.array([1.0] * 9 + [12.0] + [1.0] * 10)


def _nearest(counts: Float64Array, size: float) -> Float64Array:
    """Return the nearest distribution (Duchi et al. 2008), which knows nothing of noise."""
    descending = np.sort(counts)[::-1]
    excess = (np.cumsum(descending) - size) / np.arange(1, len(counts) + 1)
    return np.maximum(counts - excess[np.flatnonzero(descending > excess)[-1]], 0) / size


def _distances(weights: Float64Array, noise: float, num_ordered: int) -> tuple[float, float]:
    """Return mean distances to the truth: of the estimate, and of the nearest distribution."""
    truth, rng = weights / weights.sum(), np.random.default_rng(0)
    found = []
    for _ in range(REPEATS):
        counts = PATIENTS * truth + rng.normal(0, noise, len(truth))
        ours, _ = level_shares(counts, PATIENTS, noise, num_ordered)
        found.append([np.abs(p - truth).sum() / 2 for p in (ours, _nearest(counts, PATIENTS))])
    ours_mean, nearest_mean = np.mean(found, axis=0)
    return float(ours_mean), float(nearest_mean)


@pytest.mark.parametrize(
    ("weights", "num_ordered", "most"), [(AGE, 20, 0.75), (COUNTRY, 0, 0.9), (HEAPED, 20, 0.9)]
)
@pytest.mark.parametrize("noise", [50.0, 150.0])
def test_noise_is_taken_off(
    weights: Float64Array, num_ordered: int, most: float, noise: float
) -> None:
    ours, nearest = _distances(weights, noise, num_ordered)
    assert ours < most * nearest


def test_order_helps_where_neighbours_are_alike() -> None:
    assert _distances(AGE, 100.0, 20)[0] < 0.85 * _distances(AGE, 100.0, 0)[0]
    shuffled = np.random.default_rng(1).permutation(AGE)
    assert _distances(shuffled, 100.0, 20)[0] < 1.1 * _distances(shuffled, 100.0, 0)[0]


@pytest.mark.parametrize("weights", [AGE, COUNTRY, HEAPED])
def test_without_noise_shares_are_the_counts(weights: Float64Array) -> None:
    truth = weights / weights.sum()
    found, errors = level_shares(PATIENTS * truth, PATIENTS, 1e-3, 0)
    np.testing.assert_allclose(found, truth, atol=1e-5)
    assert (errors < 3e-3).all()


def test_errors_are_as_large_as_they_are_said_to_be() -> None:
    truth, rng = AGE / AGE.sum(), np.random.default_rng(0)
    told, made = [], []
    for _ in range(200):
        counts = PATIENTS * truth + rng.normal(0, 60, len(truth))
        shares, errors = level_shares(counts, PATIENTS, 60, 20)
        told.append(errors**2 * (1 - 1 / len(truth)))
        made.append((PATIENTS * (shares - truth)) ** 2)
    ratio = np.sqrt(np.mean(made) / np.mean(told))
    assert 0.75 < ratio < 1.25
    assert np.sqrt(np.mean(told)) < 0.7 * 60  # the prior told something


def test_errors_are_the_noise_where_the_prior_tells_nothing() -> None:
    for counts in ([1_100.0, 900.0], [400.0, 500.0, 300.0, 800.0]):
        _, errors = level_shares(np.array(counts), PATIENTS, 5, 0)
        np.testing.assert_allclose(errors, 5, rtol=0.05)


@settings(deadline=None)
@given(
    counts=st.lists(st.floats(-500, 5_000), min_size=1, max_size=12),
    noise=st.floats(1e-3, 1e4),
    ordered=st.booleans(),
    patients=st.floats(1, 1e6),
)
def test_whatever_the_counts_shares_are_a_distribution(
    counts: list[float], noise: float, ordered: bool, patients: float
) -> None:
    shares, errors = level_shares(np.array(counts), patients, noise, len(counts) * ordered)
    assert shares.sum() == 1
    assert (shares >= 0).all()
    assert np.isfinite(errors).all()
    assert (errors > 0).all()


@pytest.mark.parametrize(("patients", "noise"), [(2e3, 80.0), (1e5, 3.5), (1e6, 3.5)])
@pytest.mark.parametrize("num_ordered", [0, 20])
def test_a_last_bit_decides_nothing(patients: float, noise: float, num_ordered: int) -> None:
    rng = np.random.default_rng(3)
    for concentration in (0.05, 0.1, 1.0):  # rare levels, where curvature is all but flat
        counts = patients * rng.dirichlet(np.full(20, concentration)) + rng.normal(0, noise, 20)
        ones = level_shares(counts, patients, noise, num_ordered)
        others = level_shares(counts * (1 + 1e-15), patients, noise, num_ordered)
        for one, other in zip(ones, others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_newton_ends_at_the_mode() -> None:
    counts = 1e6 * AGE / AGE.sum() + np.random.default_rng(4).normal(0, 3.5, len(AGE))
    fit = _Fit(counts, 1e6, 3.5, np.eye(len(AGE)) / 25)
    mode = fit.likeliest(np.zeros(len(AGE)))
    # From wherever it starts, it ends there.
    for seed in range(3):
        start = mode + np.random.default_rng(seed).normal(0, 2, len(AGE))
        np.testing.assert_allclose(fit.likeliest(start), mode, atol=1e-7)


def test_evidence_is_the_determinant_of_the_whole_curvature() -> None:
    counts = np.array([700.0, 250, 40, 10])
    fit = _Fit(counts, 1e3, 30.0, np.eye(4) / 2.2**2)
    mode = fit.likeliest(np.zeros(4))
    shares, variances, evidence = fit.evidence(mode)
    moved = np.diag(shares) - np.outer(shares, shares)
    curvature = (1e3 / 30) ** 2 * moved @ moved + np.eye(4) / 2.2**2
    np.testing.assert_allclose(variances, 1e6 * np.diag(moved @ np.linalg.inv(curvature) @ moved))
    rest = shares - counts / 1e3
    energy = ((1e3 / 30) ** 2 * rest @ rest + mode @ mode / 2.2**2) / 2
    half = np.linalg.slogdet(curvature)[1] / 2
    assert evidence == pytest.approx(-4 * np.log(2.2) - half - energy, rel=1e-9)


def test_levels_without_order_have_no_neighbours() -> None:
    found = correlation(5, 3, length=2.0, own=0.3)
    assert found[0, 1] == pytest.approx(0.7 * np.exp(-0.5))
    assert (found[3:, :3] == 0).all() and found[3, 4] == 0
    assert (np.diag(found) == 1).all()
