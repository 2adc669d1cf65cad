"""What every generator of images must do; a new entry of IMAGE_GENERATORS is picked up here."""

from typing import Any

import numpy as np
import pytest
import torch

from pratique_common.errors import InvalidFileError
from pratique_common.generators import IMAGE_GENERATORS
from pratique_common.generators.base import (
    GradientGenerator,
    ImageGenerator,
    PretrainedGenerator,
)
from pratique_common.generators.build import build_generator
from pratique_common.generators.image_codes import ImageCodes
from pratique_common.generators.image_diffusion import _sigmas
from pratique_common.generators.image_unet import UNet
from pratique_common.generators.vectors import trainable
from pratique_common.images.prior_codes import prior_codes
from tests.conftest import small_study
from tests.small_images import KINDS, image_batch, image_study

VARIANTS: list[dict[str, Any]] = [
    *({"name": "image_diffusion", "trained": t, "steps": 2} for t in ("all", "film", "head")),
    *({"name": "image_gan", "variant": v} for v in ("dcgan", "conditional", "wasserstein", "r3")),
    {"name": "image_vae"},
]
OF_PHANTOMS = [{"name": name, "phantoms": 40} for name in ("sim_moments", "sim_pe")]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def generator_spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def built(spec: dict[str, Any], **changes: Any) -> GradientGenerator:
    generator = build_generator(image_study(generator=spec, **changes))
    assert isinstance(generator, GradientGenerator)
    return generator


def test_all_generators_are_tried() -> None:
    # Patients vote for phantoms (tests/privacy/test_patient_votes.py, test_moments.py), and a chain
    # is two of all these.
    voted = {variant["name"] for variant in OF_PHANTOMS}
    assert {variant["name"] for variant in VARIANTS} == set(IMAGE_GENERATORS) - voted - {
        "image_chain"
    }


def test_the_initial_state_follows_from_the_study_alone(generator_spec: dict[str, Any]) -> None:
    first, second = (built(generator_spec).state() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (built(generator_spec, name="another").state() != first).any()


def test_one_loss_a_patient(generator_spec: dict[str, Any]) -> None:
    generator = built(generator_spec)
    codes, weight = image_batch(image_study(), 6, 3)
    others = codes.flip(0)
    others[2] = codes[2]
    losses = []
    for batch in (codes, others):
        torch.manual_seed(0)  # a loss draws
        losses.append(generator.loss(batch, weight))
    assert losses[0].shape == (6,)
    assert torch.isfinite(losses[0]).all()
    assert losses[0][2].item() == pytest.approx(losses[1][2].item(), rel=1e-5)
    assert losses[0][1].item() != losses[1][1].item()


def test_samples_stay_in_the_domain_and_columns_follow_marginals(
    generator_spec: dict[str, Any],
) -> None:
    study = image_study(generator=generator_spec)
    generator = built(generator_spec)
    levels = [column.num_levels for column in study.data.columns]
    wanted = [np.eye(n)[n - 1] * 0.7 + 0.3 / n for n in levels]
    generator.set_marginals(wanted)
    drawn = [generator.sample(150, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert drawn[0].dtype == torch.int64
    assert drawn[0].shape == (150, len(levels) + 16 * 16)
    assert ((drawn[0] >= 0) & (drawn[0] <= 255)).all()
    for d, marginal in enumerate(wanted):
        found = np.bincount(drawn[0][:, d], minlength=len(marginal)) / 150
        assert 0.5 * np.abs(found - marginal).sum() < 0.15
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0][:, 3:] != drawn[2][:, 3:]).any()


@pytest.mark.parametrize(
    "spec",
    [*VARIANTS, *OF_PHANTOMS],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_images_are_made_for_columns_that_are_given(spec: dict[str, Any]) -> None:
    generator = build_generator(image_study(generator=spec))
    assert isinstance(generator, ImageGenerator)
    codes = torch.stack([torch.arange(20) % n for n in (4, 4, 5)], dim=1)
    before = codes.clone()
    rows, masks = generator.images_for(codes, torch.Generator().manual_seed(1))
    assert codes.equal(before)
    assert rows.dtype == torch.int64 and rows.shape == (20, 3 + 16 * 16)
    assert rows[:, 0].equal(codes[:, 0])  # ages are nobody's business
    assert {1} <= set(generator.shown) or spec.get("variant") == "dcgan"
    for column in generator.shown:
        assert rows[:, column].equal(codes[:, column])
    known = spec in OF_PHANTOMS
    assert (masks is not None) == known
    assert rows[:, 2].equal(codes[:, 2]) != known  # a phantom's slice lies where it lies
    again, _ = generator.images_for(codes, torch.Generator().manual_seed(1))
    assert rows.equal(again)


def test_states_make_the_round_trip_and_wrong_ones_are_refused(
    generator_spec: dict[str, Any],
) -> None:
    generator, other = built(generator_spec), built(generator_spec, name="another")
    codes, weight = image_batch(image_study(), 4, 2)
    vector = other.state()
    generator.load_state(vector)
    np.testing.assert_array_equal(generator.state(), vector)
    losses = []
    for each in (generator, other):  # all that a loss needs has travelled
        torch.manual_seed(0)
        losses.append(each.loss(codes, weight).detach().numpy())
    np.testing.assert_array_equal(*losses)
    wrong = vector.copy()
    wrong[-1] = 101.0
    for bad in (vector[:-1], np.append(vector, np.float32(0)), np.full_like(vector, np.nan), wrong):
        with pytest.raises(ValueError, match="expected"):
            generator.load_state(bad)
    np.testing.assert_array_equal(generator.state(), vector)


def test_tables_and_images_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(InvalidFileError, match=r"'image_vae' makes images, and .* of tables"):
        build_generator(small_study(generator={"name": "image_vae"}))
    with pytest.raises(InvalidFileError, match=r"'diffusion' makes tables, .*image_diffusion"):
        build_generator(image_study(generator={"name": "diffusion"}))
    with pytest.raises(InvalidFileError, match="there is no generator 'magic'"):
        build_generator(image_study(generator={"name": "magic"}))


def test_a_part_of_an_untrained_network_is_not_trained() -> None:
    spec = {"name": "image_diffusion", "trained": "film", "pretrain_steps": 0}
    with pytest.raises(InvalidFileError, match="nothing has trained"):
        build_generator(image_study(generator=spec))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"channels": ["pet"]}, r"data\.image: channels: the prior has no 'pet', but t1"),
        ({"kinds": {"none": "cold"}}, r"data\.image: kinds: the prior has no 'cold', but none"),
    ],
)
def test_a_study_that_its_prior_does_not_know_is_refused(field: dict[str, Any], words: str) -> None:
    study = image_study().model_dump(mode="json")
    study["data"]["image"] |= field
    with pytest.raises(InvalidFileError, match=words):
        build_generator(image_study(data=study["data"]))


# --- codes -------------------------------------------------------------------------------------


def test_codes_become_images_and_come_back() -> None:
    study = image_study(channels=("t1", "flair"))
    codes, _ = image_batch(study, 5, 1)
    image_codes = ImageCodes(study.data)
    images = image_codes.images(codes[:, 0], torch.float32)
    assert images.pixels.shape == (5, 2, 16, 16)
    assert images.pixels.abs().max() <= 1
    # Channels come last in codes: the second pixel's second channel.
    assert images.pixels[0, 1, 0, 1].item() == pytest.approx(codes[0, 0, 3 + 3] / 127.5 - 1)
    np.testing.assert_array_equal(images.label, codes[:, 0, 1])
    np.testing.assert_allclose(images.position, 0.1 + 0.2 * codes[:, 0, 2])
    again = image_codes.with_pixels(codes[:, 0, :3], images.pixels)
    np.testing.assert_array_equal(again, codes[:, 0])


def test_a_study_without_positions_has_images_too() -> None:
    data = image_study().model_dump(mode="json")["data"]
    data["image"]["position"] = None
    study = image_study(data=data, generator={"name": "image_diffusion", "steps": 2})
    codes, weight = image_batch(study, 3, 1)
    generator = build_generator(study)
    assert isinstance(generator, GradientGenerator)
    assert torch.isfinite(generator.loss(codes, weight)).all()
    assert generator.sample(2, torch.Generator().manual_seed(0)).shape == (2, 3 + 256)


def test_the_prior_speaks_the_studys_codes() -> None:
    data = image_study().model_dump(mode="json")["data"]
    data["columns"][1]["categories"] = ["well", "sick"]
    data["image"]["kinds"] = {"well": "none", "sick": "meningioma"}
    study = image_study(data=data)
    codes = prior_codes(study.data, 40, np.random.default_rng(0))
    assert codes.shape == (40, 3 + 256)
    assert np.bincount(codes[:, 1]).tolist() == [20, 20]
    assert len(np.unique(codes[:, 2])) > 2
    images = ImageCodes(study.data).images(torch.from_numpy(codes).long(), torch.float32)
    assert images.pixels.std() > 0.1


# --- diffusion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [16, 18, 32, 66, 128])
def test_a_network_keeps_the_size_of_images(size_px: int) -> None:
    unet = UNet(2, size_px, num_classes=3, base_channels=8)
    for weight in unet.parameters():
        torch.nn.init.normal_(weight, 0, 0.1)
    condition = torch.tensor([[0, 3]])
    images = torch.randn(1, 2, 2, size_px, size_px)
    found = unet(images, torch.zeros(1, 2), condition, torch.full((1, 2), 0.5))
    assert found.shape == images.shape
    moved = unet(images, torch.zeros(1, 2), condition, torch.full((1, 2), 0.6))
    assert (found != moved).any()


def test_parts_of_the_network_hold_each_other() -> None:
    unet = UNet(1, 32, num_classes=4, base_channels=16)
    parts = [{id(p) for p in unet.trained_by(part)} for part in ("head", "film", "all")]
    sizes = [sum(p.numel() for p in unet.trained_by(part)) for part in ("head", "film", "all")]
    assert parts[0] < parts[1] < parts[2] == {id(p) for p in unet.parameters()}
    assert [round(size, -2) for size in sizes] == [600, 20_400, 75_600]


def test_noise_levels_are_spread_evenly_within_a_row() -> None:
    torch.manual_seed(0)
    logs = (_sigmas((200, 2, 4)).log() + 0.6) / 1.3
    quartiles = torch.distributions.Normal(0, 1).cdf(logs).mul(4).long().sort(dim=-1).values
    assert (quartiles == torch.arange(4)).float().mean() > 0.999
    assert logs.mean().item() == pytest.approx(0, abs=0.05)
    assert logs.std().item() == pytest.approx(1, abs=0.05)


def test_guidance_makes_more_of_what_is_asked_for() -> None:
    """Guided by 1, a step goes twice as far from what is likely anyhow."""
    spec = {"name": "image_diffusion", "guidance": 1.0, "trained": "all"}
    generator: Any = built(spec)
    plain: Any = built({**spec, "guidance": 0.0})
    plain.load_state(generator.state())
    for each in (generator, plain):
        torch.manual_seed(1)
        for weight in each.module.unet.parameters():
            torch.nn.init.normal_(weight, 0, 0.1)
    x, position = torch.randn(1, 3, 1, 16, 16), torch.zeros(1, 3)
    label, anything = torch.tensor([[0, 1, 2]]), torch.full((1, 3), len(KINDS))
    with torch.no_grad():
        found = generator._guided(x, 2.0, label, position)
        known, unknown = (plain._guided(x, 2.0, each, position) for each in (label, anything))
    torch.testing.assert_close(found, known + (known - unknown))
    assert (known - unknown).abs().max() > 1e-3


# --- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ({"name": "image_diffusion", "trained": "all", "base_channels": 8, "steps": 6}, 240),
        ({"name": "image_vae", "base_channels": 8, "pixel_deviation": 0.5}, 150),
    ],
    ids=["image_diffusion", "image_vae"],
)
def test_training_learns_what_labels_show(spec: dict[str, Any], steps: int) -> None:
    """Dark images and bright ones, told apart by the label; the other labels never occur."""
    generator = built(spec)
    torch.manual_seed(0)
    label = torch.arange(16) % 2
    grey = torch.where(label == 0, 50, 200)[:, None] + torch.randint(-20, 21, (16, 256))
    codes = torch.cat([torch.zeros(16, 1), label[:, None], torch.zeros(16, 1), grey], dim=1).long()
    optimizer = torch.optim.Adam(trainable(generator.module), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(generator.loss(codes[:, None], torch.ones(16, 1)).mean())
        optimizer.step()
    half = np.array([0.5, 0.5, 0.0, 0.0])
    generator.set_marginals([np.eye(4)[0], half, np.eye(5)[0]])
    drawn = generator.sample(40, torch.Generator().manual_seed(3))
    dark, bright = (drawn[drawn[:, 1] == k, 3:].float().mean().item() for k in (0, 1))
    assert bright - dark > 40  # of 150; initial weights follow from the digest: 87 to 152 of eight
    assert (dark + bright) / 2 == pytest.approx(125, abs=40)


def test_some_generators_begin_with_the_prior() -> None:
    generators = (built({"name": name}) for name in ("image_diffusion", "image_vae"))
    assert all(isinstance(each, PretrainedGenerator) for each in generators)
    assert not isinstance(built({"name": "image_gan"}), PretrainedGenerator)
