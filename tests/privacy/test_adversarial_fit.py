"""Adversarial networks: the maker learns through the critic alone."""

import numpy as np
import pytest
import torch

from pratique_common.generators.adversarial import AdversarialGenerator
from pratique_common.generators.build import build_generator
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.strategy import strategy_of
from tests.conftest import small_study

PATIENTS = 1_000


@pytest.mark.parametrize(("objective", "max_grad_norm"), [("gan", 10.0), ("wasserstein", 0.5)])
def test_the_maker_learns_a_dependence_that_only_the_critic_saw(
    objective: str, max_grad_norm: float
) -> None:
    """Also where every patient is clipped: made-up rows then count for no more than patients."""
    rounds = 150
    study = small_study(
        generator={"name": "adversarial", "objective": objective, "hidden_units": 48},
        training={"rounds": rounds, "learning_rate": 0.01, "max_grad_norm": max_grad_norm},
        privacy={"target_epsilon": 3.0, "expected_patients": round(PATIENTS * 1.25)},
    )
    torch.manual_seed(0)
    rng = np.random.default_rng(2)
    age = rng.integers(0, 8, PATIENTS)
    codes = np.stack([age, rng.integers(0, 4, PATIENTS), (age >= 4).astype(int)], axis=1)
    batch, weight = torch.from_numpy(codes)[:, None, :], torch.ones(PATIENTS, 1)
    generator, at_site = build_generator(study), build_generator(study)
    assert isinstance(generator, AdversarialGenerator)
    uniform = [np.full(n, 1 / n) for n in (8, 4, 2)]
    generator.set_marginals(uniform)
    strategy = strategy_of(study, generator, patients=PATIENTS, errors=np.zeros(0))
    add_up = patient_sum(at_site, study.training.max_grad_norm)

    def agreement() -> float:
        drawn = generator.sample(4_000, torch.Generator().manual_seed(4)).numpy()
        return float(((drawn[:, 0] >= 4) == (drawn[:, 2] == 1)).mean())

    before = agreement()
    for _ in range(rounds):
        at_site.load_state(generator.state())
        strategy.update(add_up(batch, weight), 1.0)
    strategy.finish()
    assert before < 0.65
    assert agreement() > 0.85


def test_a_site_gets_the_critic_and_never_the_maker() -> None:
    study = small_study(generator={"name": "adversarial"})
    generator = build_generator(study)
    assert isinstance(generator, AdversarialGenerator)
    before = generator.state()
    with torch.no_grad():
        for parameter in generator.module.maker_weights():
            parameter.add_(1.0)
    np.testing.assert_array_equal(generator.state(), before)
    assert before.size == generator.sum_size
    critic = sum(
        p.numel() for name, p in generator.module.named_parameters() if name.startswith("critic")
    )
    assert before.size == critic


def test_wasserstein_weights_stay_bounded() -> None:
    study = small_study(
        generator={"name": "adversarial", "objective": "wasserstein", "weight_bound": 0.01}
    )
    generator = build_generator(study)
    assert isinstance(generator, AdversarialGenerator)
    strategy = strategy_of(study, generator, patients=100.0, errors=np.zeros(0))
    strategy.update(np.full(generator.sum_size, 1e6), 1.0)
    assert np.abs(generator.state()).max() <= 0.01 + 1e-7
