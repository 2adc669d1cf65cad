import numpy as np
import pytest

from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import to_vector
from pratique_server.strategy import DpAdam, marginals, signal_to_noise, smoothed
from tests.conftest import small_study

STUDY = small_study(generator={"name": "autoregressive"})


def _histogram(counts: list[list[float]]) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([np.array(c, float) for c in counts])


def test_marginals_are_the_nearest_distributions() -> None:
    age, marker = [100.0] * 8, [300.0, 200.0, 200.0, 100.0]
    found = marginals(STUDY, _histogram([age, marker, [745, 55]]))
    np.testing.assert_allclose(found[0], np.full(8, 1 / 8), atol=1e-3)
    np.testing.assert_allclose(found[2], [745 / 800, 55 / 800], atol=1e-3)
    noisy = marginals(STUDY, _histogram([age, marker, [815, -15]]))
    np.testing.assert_allclose(noisy[2], [1.0, 0.0], atol=1e-3)
    assert all(m.sum() == pytest.approx(1) and (m >= 0).all() for m in noisy)
    assert (smoothed(noisy[2], STUDY) > 0).all()


def test_marginals_of_pure_noise_are_still_distributions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        for marginal in marginals(STUDY, rng.normal(0, 1e3, 14)):
            assert marginal.sum() == pytest.approx(1)
            assert (marginal >= 0).all()


def test_a_step_goes_against_the_gradient_and_the_average_follows() -> None:
    module = build_generator(STUDY).module
    start = to_vector(module)
    optimizer = DpAdam(STUDY, module)
    gradient = np.ones(start.size)
    for _ in range(STUDY.training.rounds):
        optimizer.update(gradient, noise=1.0)
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
        DpAdam(STUDY, module).update(np.full(start.size, 100.0) * factor, noise=1.0)
        steps.append(to_vector(module) - start)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3)


def test_signal_to_noise_is_one_for_noise_alone() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2.0, 20_000)
    assert signal_to_noise(noise, 2.0) == pytest.approx(1, abs=0.02)
    assert signal_to_noise(noise + 3, 2.0) > 1.5
