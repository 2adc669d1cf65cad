import numpy as np
import pytest

from pratique_common.generators.build import build_generator, to_vector
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.noise import grid_step
from pratique_server.strategy import DpAdam, marginals, signal_to_noise, smoothed, sum_on_grid
from tests.conftest import small_study

STUDY = small_study()


def _histogram(counts: list[list[float]]) -> np.ndarray:  # type: ignore[type-arg]
    flat = np.concatenate([np.array(c, float) for c in counts])
    return np.rint(flat / grid_step(PrivacyPlan(STUDY).histogram_sigma)).astype(np.int64)


def test_marginals_are_read_from_the_grid_summed_and_projected() -> None:
    age, marker = [100.0] * 8, [300.0, 200.0, 200.0, 100.0]
    found = marginals(
        STUDY, [_histogram([age, marker, [700, 100]]), _histogram([age, marker, [790, 10]])]
    )
    np.testing.assert_allclose(found[0], np.full(8, 1 / 8), atol=1e-3)
    np.testing.assert_allclose(found[2], [1490 / 1600, 110 / 1600], atol=1e-3)
    noisy = marginals(STUDY, [_histogram([age, marker, [815, -15]])])
    np.testing.assert_allclose(noisy[2], [1.0, 0.0], atol=1e-3)
    assert all(m.sum() == pytest.approx(1) and (m >= 0).all() for m in noisy)
    assert (smoothed(noisy[2], STUDY) > 0).all()


def test_marginals_of_pure_noise_are_still_distributions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        answer = rng.integers(-(10**6), 10**6, 14)
        for marginal in marginals(STUDY, [answer]):
            assert marginal.sum() == pytest.approx(1)
            assert (marginal >= 0).all()


def test_a_step_goes_against_the_gradient_and_the_average_follows() -> None:
    module = build_generator(STUDY).module
    start = to_vector(module)
    optimizer = DpAdam(STUDY, module)
    gradient = np.ones(start.size)
    for _ in range(STUDY.training.rounds):
        optimizer.update(gradient)
    last = to_vector(module)
    assert (last < start).all()
    optimizer.finish()
    average = to_vector(module)
    assert ((average > last) & (average < start)).all()


def test_the_divisor_is_the_plan_and_not_a_count() -> None:
    """Adam forgets a constant factor: twice the patients at the same plan give the same step."""
    steps = []
    for factor in (1.0, 2.0):
        module = build_generator(STUDY).module
        start = to_vector(module)
        DpAdam(STUDY, module).update(np.full(start.size, 100.0) * factor)
        steps.append(to_vector(module) - start)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3)


def test_signal_to_noise_is_one_for_noise_alone() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2.0, 20_000)
    assert signal_to_noise(noise, 2.0) == pytest.approx(1, abs=0.02)
    assert signal_to_noise(noise + 3, 2.0) > 1.5
    assert sum_on_grid([np.array([4096]), np.array([-2048])], 2.0).tolist() == [1.0]
