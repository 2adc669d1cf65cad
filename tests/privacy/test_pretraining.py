"""What a study's prior teaches before round 1."""

from typing import Any

import numpy as np
import pytest
import torch

from pratique_common.generators.base import GradientGenerator, PretrainedGenerator
from pratique_common.generators.build import build_generator
from pratique_common.images.prior_codes import prior_codes
from pratique_privacy.post_processing import pretraining
from pratique_privacy.post_processing.derivation import Derivation
from pratique_privacy.post_processing.pretraining import pretrain
from pratique_privacy.post_processing.weights import load_weights
from tests.small_images import image_study

SMALL = {"name": "image_diffusion", "base_channels": 8, "noise_draws": 1}


@pytest.fixture(autouse=True)
def _small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "_POOL_ROWS", 64)
    monkeypatch.setattr(pretraining, "_BATCH_ROWS", 8)


def _pretrained(**settings: Any) -> PretrainedGenerator:
    study = image_study(generator={**SMALL, **settings})
    generator = build_generator(study)
    assert isinstance(generator, PretrainedGenerator)
    pretrain(study, generator)
    return generator


def test_the_same_study_learns_the_same_and_others_draws_stay() -> None:
    torch.manual_seed(1)
    first = _pretrained(pretrain_steps=3).state()
    after = torch.rand(1).item()
    torch.manual_seed(1)
    assert after == torch.rand(1).item()
    np.testing.assert_array_equal(first, _pretrained(pretrain_steps=3).state())


def test_all_is_trained_and_then_again_what_sites_train() -> None:
    generator = _pretrained(pretrain_steps=3, trained="head")
    start = build_generator(
        image_study(generator={**SMALL, "pretrain_steps": 3, "trained": "head"})
    )
    moved = generator.state() != start.state()
    size = generator.sum_size
    assert size == start.sum_size < 1_000 < len(moved)
    assert moved[:size].mean() > 0.9
    assert moved[size:].mean() > 0.9  # what no site trains


def test_nothing_is_learnt_in_no_steps() -> None:
    generator = _pretrained(pretrain_steps=0, trained="all")
    start = build_generator(image_study(generator={**SMALL, "pretrain_steps": 0, "trained": "all"}))
    np.testing.assert_array_equal(generator.state(), start.state())


@pytest.mark.parametrize("name", ["image_diffusion", "image_vae"])
def test_the_priors_loss_falls(name: str) -> None:
    study = image_study(generator={"name": name, "base_channels": 8, "pretrain_steps": 40})
    generator = build_generator(study)
    assert isinstance(generator, PretrainedGenerator)
    codes = torch.from_numpy(prior_codes(study.data, 64, np.random.default_rng(5))).long()
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(generator.loss(codes[:, None], torch.ones(64, 1)).mean().item())
        pretrain(study, generator)
    assert losses[1] < 0.7 * losses[0]


def test_a_run_begins_with_what_the_prior_taught() -> None:
    """At the coordinator, after the histograms; a site gets it with the state."""
    study = image_study(generator={**SMALL, "pretrain_steps": 2, "steps": 2})
    derivation = Derivation(study, 3)
    derivation.add_histograms(np.full(derivation.histogram_form.size, 100.0), 3)
    at_site = build_generator(study)
    assert isinstance(at_site, GradientGenerator)
    assert at_site.sum_size == derivation.generator.sum_size
    before = at_site.state()
    at_site.load_state(derivation.generator.state())
    assert (at_site.state() != before).any()
    np.testing.assert_array_equal(at_site.state(), _pretrained(pretrain_steps=2, steps=2).state())
    # What the bundle holds draws the same images, and labels by the histograms.
    derivation.add_round(np.ones(derivation.step_form.size), 3)
    load_weights(derivation.fit(), at_site, study.data)
    drawn = [
        each.sample(5, torch.Generator().manual_seed(1)) for each in (derivation.generator, at_site)
    ]
    np.testing.assert_array_equal(*drawn)
