"""Adversarial networks of images: the maker learns through the critic alone."""

import numpy as np
import pytest
import torch

from pratique_common.generators.base import CriticGenerator
from pratique_common.generators.build import build_generator
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.strategy import strategy_of
from tests.small_images import image_batch, image_study

PATIENTS = 16


def test_the_maker_learns_what_labels_show_and_only_the_critic_saw() -> None:
    rounds = 150
    study = image_study(
        generator={"name": "image_gan", "variant": "r3", "base_channels": 4},
        training={"rounds": rounds, "learning_rate": 0.005, "max_grad_norm": 10.0},
        privacy={"target_epsilon": 3.0, "expected_patients": round(PATIENTS * 1.25)},
    )
    generator, at_site = build_generator(study), build_generator(study)
    half = np.array([0.5, 0.5, 0.0, 0.0])
    generator.set_marginals([np.eye(4)[0], half, np.eye(5)[0]])
    torch.manual_seed(0)
    label = torch.arange(PATIENTS) % 2
    dark_or_bright = torch.where(label == 0, 50, 200)[:, None]
    grey = dark_or_bright + torch.randint(-20, 21, (PATIENTS, 256))
    codes = torch.cat([0 * grey[:, :1], label[:, None], 0 * grey[:, :1], grey], dim=1)[:, None]
    add_up = patient_sum(at_site, study.training.max_grad_norm)
    strategy = strategy_of(study, generator, patients=PATIENTS, errors=np.zeros(0))

    def difference() -> float:
        drawn = generator.sample(40, torch.Generator().manual_seed(4))
        dark, bright = (drawn[drawn[:, 1] == k, 3:].float().mean().item() for k in (0, 1))
        return bright - dark

    before = difference()
    for _ in range(rounds):
        at_site.load_state(generator.state())
        strategy.update(add_up(codes, torch.ones(PATIENTS, 1)), 1.0)
    strategy.finish()
    assert before < 30
    assert difference() > 75


@pytest.mark.parametrize("variant", ["dcgan", "conditional", "wasserstein", "r3"])
def test_a_step_trains_critic_and_maker_and_keeps_its_bound(variant: str) -> None:
    study = image_study(generator={"name": "image_gan", "variant": variant, "base_channels": 4})
    generator = build_generator(study)
    assert isinstance(generator, CriticGenerator)
    maker = [weight.clone() for weight in generator.maker_weights()]
    codes, weight = image_batch(study, 4, 1)
    total = patient_sum(generator, 1.0)(codes, weight)
    critic = generator.state()[: generator.sum_size]
    strategy_of(study, generator, patients=4.0, errors=np.zeros(0)).update(total, 1.0)
    after = generator.state()[: generator.sum_size]
    assert (after != critic).mean() > 0.4  # without labels their layer rests
    assert (np.abs(after).max() <= 0.1 + 1e-7) == (variant == "wasserstein")
    moved = [(a != b).any() for a, b in zip(generator.maker_weights(), maker, strict=True)]
    assert all(moved)
    assert not any(weight.requires_grad for weight in generator.maker_weights())


def test_makers_weights_reach_a_site_only_where_pairs_are_compared() -> None:
    for variant, sent in (("conditional", False), ("r3", True)):
        spec = {"name": "image_gan", "variant": variant}
        generator = build_generator(image_study(generator=spec))
        assert isinstance(generator, CriticGenerator)
        before = generator.state()
        with torch.no_grad():
            for parameter in generator.maker_weights():
                parameter.add_(1.0)
        assert (generator.state() != before).any() == sent
        assert (before.size > generator.sum_size) == sent


def test_a_network_without_labels_makes_the_same_for_all() -> None:
    spec = {"name": "image_gan", "variant": "dcgan"}
    generator = build_generator(image_study(generator=spec))
    images = []
    for kind in (0, 3):
        generator.set_marginals([np.eye(4)[0], np.eye(4)[kind], np.eye(5)[0]])
        images.append(generator.sample(5, torch.Generator().manual_seed(1))[:, 3:])
    np.testing.assert_array_equal(*images)
