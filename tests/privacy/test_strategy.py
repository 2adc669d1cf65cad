import numpy as np
import pytest

from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import to_vector
from pratique_privacy.post_processing.strategy import DpAdam, signal_to_noise
from tests.conftest import small_study

STUDY = small_study(generator={"name": "autoregressive"})


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
