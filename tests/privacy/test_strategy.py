import numpy as np
import pytest

from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import to_vector
from pratique_privacy.post_processing.dp_adam import DpAdam
from pratique_privacy.post_processing.strategy import signal_to_noise
from tests.conftest import small_study

FIRST_SHARE = 1 / 1.2
"""Of the rate in the first of 60 rounds: a warm-up of 2 % of them."""

STUDY = small_study(generator={"name": "autoregressive"})


def test_a_step_goes_against_the_gradient_and_the_average_follows() -> None:
    generator = build_generator(STUDY)
    assert isinstance(generator, GradientGenerator)
    module = generator.module
    start = to_vector(module)
    optimizer = DpAdam(STUDY, generator, rounds=STUDY.training.rounds)
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
        generator = build_generator(STUDY)
        assert isinstance(generator, GradientGenerator)
        start = to_vector(generator.module)
        DpAdam(STUDY, generator, rounds=STUDY.training.rounds).update(
            np.full(start.size, 100.0) * factor, noise=1.0
        )
        steps.append(to_vector(generator.module) - start)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3)


def test_a_study_s_learning_rate_stands_before_the_generator_s_own() -> None:
    """Adam's first step is as long as the rate."""
    for rate, expected in ((None, 0.05), (0.002, 0.002)):
        study = small_study(
            generator={"name": "autoregressive"}, training={"rounds": 60, "learning_rate": rate}
        )
        generator = build_generator(study)
        assert isinstance(generator, GradientGenerator)
        start = to_vector(generator.module)
        DpAdam(study, generator, rounds=60).update(np.ones(start.size), noise=1.0)
        moved = np.abs(to_vector(generator.module) - start).max()
        assert moved == pytest.approx(expected * FIRST_SHARE, rel=1e-3)


def test_signal_to_noise_is_one_for_noise_alone() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2.0, 20_000)
    assert signal_to_noise(noise, 2.0) == pytest.approx(1, abs=0.02)
    assert signal_to_noise(noise + 3, 2.0) > 1.5
