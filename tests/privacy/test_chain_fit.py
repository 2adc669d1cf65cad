"""Votes, moments and gradients within one budget: a round's sum goes to the part it is for."""

from typing import Any

import numpy as np
import pytest
import torch

from pratique_common.errors import InvalidFileError
from pratique_common.generators.base import ChainedGenerator, VotedGenerator, part_of
from pratique_common.generators.build import build_generator
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.image_transport import moment_size
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.post_processing import pretraining, transport_fit
from pratique_privacy.post_processing.derivation import Derivation
from pratique_privacy.post_processing.weights import load_weights
from tests.small_images import image_batch, image_study

VOTES, ROUNDS, PHANTOMS, K = 2, 5, 40, 6
FIRST = {"phantoms": PHANTOMS}
NETWORK = {"base_channels": 8, "noise_draws": 1, "steps": 2, "trained": "all", "adapt_steps": 3}
COLUMNS = torch.tensor([[0, kind, 0] for kind in (0, 1, 2, 3) * 2])
"""Codes of age, kind and place: two rows of each kind."""


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "_ADAPT_ROWS", 64)
    monkeypatch.setattr(transport_fit, "_PHANTOMS", 64)


def chain(rounds: int = ROUNDS, **changes: Any) -> dict[str, Any]:
    generator = {
        "name": "image_chain",
        "vote_rounds": VOTES,
        "components": K,
        "votes": FIRST,
        "moments": FIRST | {"generations": 1},
        "network": NETWORK,
    }
    return {"generator": generator | changes, "training": {"rounds": rounds}}


def built(**changes: Any) -> ImageChainGenerator:
    generator = build_generator(image_study(**chain(**changes)))
    assert isinstance(generator, ImageChainGenerator)
    return generator


@pytest.mark.parametrize("first", ["sim_moments", "sim_pe"])
def test_each_round_is_of_its_part(first: str) -> None:
    study = image_study(**chain(first=first))
    derivation, at_site = Derivation(study, 3), build_generator(study)
    generator = derivation.generator
    assert isinstance(generator, ImageChainGenerator)
    assert isinstance(at_site, ChainedGenerator)
    derivation.add_histograms(np.full(derivation.histogram_form.size, 100.0), 3)
    plan, sizes, network = PrivacyPlan(study), [], generator.network
    assert network is not None
    states, aims = [], []
    for number in range(1, ROUNDS + 1):
        part = part_of(at_site, number)
        part.load_state(derivation.part.state())
        assert plan.step_sum(part.sum_size, 3) == derivation.step_form
        sizes.append(part.sum_size)
        states.append(network.state())
        aims.append(generator.transport.state())
        derivation.add_round(np.ones(derivation.step_form.size), 3)
    size = generator.first.sum_size
    assert (size == PHANTOMS) == (first == "sim_pe")
    moments = len(COLUMNS.unique(dim=0)) * moment_size(K)
    assert sizes == [size] * VOTES + [moments] + [network.sum_size] * (ROUNDS - VOTES - 1)
    assert not aims[VOTES - 1].any()  # while patients vote
    assert (aims[VOTES] != 0).mean() > 0.5  # at the phantoms that follow
    np.testing.assert_array_equal(aims[VOTES], aims[-1])
    np.testing.assert_array_equal(states[0], states[VOTES])
    assert (states[3] != states[2]).mean() > 0.9  # adapted to what follows
    assert (states[4] != states[3]).mean() > 0.9  # a step along gradients
    weights = derivation.fit()
    assert (network.state() != states[4]).mean() > 0.9  # and the last one
    # What the bundle holds draws the same images and masks.
    load_weights(weights, at_site, study.data)
    (rows, masks), (others, of_others) = (
        each.images_for(COLUMNS, torch.Generator().manual_seed(1)) for each in (generator, at_site)
    )
    np.testing.assert_array_equal(rows, others)
    np.testing.assert_array_equal(masks, of_others)


def test_without_a_network_moments_are_last() -> None:
    study = image_study(**chain(VOTES + 1, network=None))
    generator = build_generator(study)
    assert isinstance(generator, ImageChainGenerator)
    assert part_of(generator, VOTES + 1) is generator.transport
    assert generator.sum_size == generator.transport.sum_size
    assert not any(name.startswith("network") for name in generator.module.state_dict())


def test_a_little_noise_leaves_what_is_seen_and_much_noise_does_not() -> None:
    found = {}
    for sigma in (0.02, 40.0):
        generator = built(network=NETWORK | {"refine_sigma": sigma})
        phantoms, masks = generator.first.images_for(COLUMNS, torch.Generator().manual_seed(3))
        rows, kept = generator.images_for(COLUMNS, torch.Generator().manual_seed(3))
        np.testing.assert_array_equal(masks, kept)
        np.testing.assert_array_equal(rows[:, :3], phantoms[:, :3])  # columns stay
        found[sigma] = (rows[:, 3:] - phantoms[:, 3:]).abs().double().mean().item()
    assert found[0.02] < 3  # of 255 grey values
    assert found[40.0] > 20


@pytest.mark.parametrize("first", ["sim_moments", "sim_pe"])
def test_patients_vote_are_measured_or_differentiated_as_the_round_says(first: str) -> None:
    from pratique_privacy.patient_sums import patient_sum

    study = image_study(**chain(first=first))
    generator = build_generator(study)
    codes, weight = image_batch(study, 5, 3)
    rounds = (1, VOTES + 1, ROUNDS)
    sums = [patient_sum(part_of(generator, number), 1.0)(codes, weight) for number in rounds]
    part = part_of(generator, 1)
    assert isinstance(part, VotedGenerator)
    votes = part.votes(codes[:, 0]).shape[1]
    assert sums[0].sum() == pytest.approx(5 * np.sqrt(votes))  # votes of length 1 each
    assert [len(each) for each in sums[1:]] == [4 * moment_size(K), generator.sum_size]
    assert all(0 < np.linalg.norm(each) <= 5 for each in sums)


@pytest.mark.parametrize(
    ("rounds", "network", "words"),
    [
        (VOTES + 1, NETWORK, "no round is left for gradients"),
        (VOTES + 2, None, f"no network has {VOTES + 1}"),
        (VOTES, None, f"no network has {VOTES + 1}"),
    ],
)
def test_rounds_that_no_part_is_for_are_refused(
    rounds: int, network: dict[str, Any] | None, words: str
) -> None:
    with pytest.raises(InvalidFileError, match=words):
        build_generator(image_study(**chain(rounds, network=network)))
