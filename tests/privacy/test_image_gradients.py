"""Clipped gradients of image networks: a patient is one unit, and depends on nobody else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pratique_common.generators import image_gan
from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.image_gan import ImageGanGenerator
from pratique_common.generators.image_layers import RowConv2d, RowGroupNorm
from pratique_common.generators.vectors import MAX_WEIGHT, to_vector, trainable
from pratique_privacy import dp_sgd, patient_sums
from pratique_privacy.dp_sgd import clipped_sum
from pratique_privacy.patient_sums import CPU, place_matters
from tests.small_images import image_batch, image_study

SPECS: list[dict[str, Any]] = [
    {"name": "image_diffusion", "trained": "all", "base_channels": 8, "noise_draws": 2},
    {"name": "image_diffusion", "trained": "film", "base_channels": 8, "noise_draws": 2},
    {"name": "image_gan", "variant": "conditional", "base_channels": 4},
    {"name": "image_gan", "variant": "r3", "base_channels": 4},
    {"name": "image_vae", "base_channels": 4},
]
SEED = 5
NUM_CODES = 3 + 16 * 16


@pytest.fixture(params=SPECS, ids=lambda spec: "-".join(map(str, spec.values())))
def generator(request: pytest.FixtureRequest) -> GradientGenerator:
    built = build_generator(image_study(generator=request.param))
    assert isinstance(built, GradientGenerator)
    rng = np.random.default_rng(3)
    state = built.state()
    built.load_state(state + rng.normal(0, 0.1, state.size).astype(np.float32))
    return built


def _gradient(generator: GradientGenerator, loss: Tensor) -> np.ndarray[Any, Any]:
    found = torch.autograd.grad(
        loss, trainable(generator.module), retain_graph=True, materialize_grads=True
    )
    return torch.cat([each.flatten() for each in found]).double().numpy()


@pytest.mark.parametrize("bound", [0.01, 100.0])
def test_equals_explicit_clipping_of_one_patient_after_the_other(
    generator: GradientGenerator, bound: float
) -> None:
    codes, weight = image_batch(image_study(), 6, 3)
    torch.manual_seed(SEED)
    found = clipped_sum(generator, bound, codes, weight)
    torch.manual_seed(SEED)
    loss_B = generator.loss(codes, weight)
    each = [_gradient(generator, loss) for loss in loss_B]
    norms = [float(np.linalg.norm(gradient)) for gradient in each]
    assert min(norms) > 0.01 and max(norms) < 100  # clipped with one bound, not with the other
    expected = sum(g * min(1.0, bound / norm) for g, norm in zip(each, norms, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5 * np.abs(expected).max())


def test_rows_that_pad_mean_nothing(generator: GradientGenerator) -> None:
    codes, weight = image_batch(image_study(), 4, 3)
    changed = codes.clone()
    changed[weight == 0] = 0
    sums = []
    for each in (codes, changed):
        torch.manual_seed(SEED)
        sums.append(clipped_sum(generator, 1.0, each, weight))
    np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize("scale", [1.0, MAX_WEIGHT])
def test_no_weights_let_one_patient_count_for_more(
    generator: GradientGenerator, scale: float
) -> None:
    hostile = np.random.default_rng(3).choice([-scale, 0.0, scale], generator.state().size)
    generator.load_state(hostile.astype(np.float32))
    codes, weight = image_batch(image_study(), 3, 3)
    for one in range(3):
        part = clipped_sum(generator, 1.0, codes[one : one + 1], weight[one : one + 1])
        assert np.isfinite(part).all()
        assert np.linalg.norm(part) <= 1 + 1e-3


def test_a_rows_place_in_a_block_does_not_matter(generator: GradientGenerator) -> None:
    before = generator.state()
    assert not place_matters(generator, 3, NUM_CODES, CPU)
    np.testing.assert_array_equal(generator.state(), before)


@pytest.mark.parametrize("size_px", [18, 32])
def test_a_place_does_not_matter_at_other_sizes(size_px: int) -> None:
    spec = {"name": "image_diffusion", "trained": "all"}
    built = build_generator(image_study(size_px=size_px, channels=("t1", "t2"), generator=spec))
    assert isinstance(built, GradientGenerator)
    assert not place_matters(built, 2, 3 + 2 * size_px**2, CPU)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_convolution_that_treats_places_differently_is_found(
    monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    stock = RowConv2d.forward

    def last_otherwise(layer: RowConv2d, x: Tensor) -> Tensor:
        factor = torch.ones(len(x), *[1] * (x.dim() - 1))
        factor[-1] += 2.0**-20
        if backwards:  # as it is, but for the gradient
            x = x.detach() + factor * (x - x.detach())
            factor = torch.ones(())
        return stock(layer, x) * factor

    monkeypatch.setattr(RowConv2d, "forward", last_otherwise)
    built = build_generator(image_study(generator=SPECS[0]))
    assert isinstance(built, GradientGenerator)
    assert place_matters(built, 1, NUM_CODES, CPU)


def test_nothing_of_a_step_stays_on_the_processor(generator: Any) -> None:
    """Device "meta" holds shapes without numbers, and refuses what lies on two devices."""
    codes, weight = image_batch(image_study(), 4, 3)
    generator.module.to("meta", torch.float64)
    with dp_sgd._recorded(generator.module) as passes:
        loss = generator.loss(codes.to("meta"), weight.to("meta", torch.float64))
    found = torch.autograd.grad(loss.sum(), [p.outputs for p in passes], materialize_grads=True)
    for each, backprop in zip(passes, found, strict=True):
        gradients = dp_sgd._gradients(each.layer, [each.inputs], backprop)
        assert {dp_sgd._norm(x).device.type for x in gradients.values()} == {"meta"}


# --- blocks ------------------------------------------------------------------------------------


class _Toy:
    """A network whose loss draws nothing; it keeps the shapes that it gets."""

    block_rows = 8

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(
            RowConv2d(1, 4, 3, padding=1), RowGroupNorm(2, 4), nn.SiLU(), RowConv2d(4, 1, 1)
        )
        self.shapes: list[tuple[int, ...]] = []

    @property
    def sum_size(self) -> int:
        return to_vector(self.module).size

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        self.shapes.append(tuple(codes_BKD.shape))
        images = codes_BKD.to(weight_BK.dtype).view(*codes_BKD.shape[:2], 1, 4, 4) / 255
        return (self.module(images).square().mean((2, 3, 4)) * weight_BK).sum(1)


def _toy_batch(patients: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    count = 1 + torch.arange(patients)[:, None] % 5
    weight = (torch.arange(5) < count).float() / count
    return torch.randint(0, 256, (patients, 5, 16), generator=rng), weight


def test_a_block_holds_patients_of_as_many_rows_and_none_that_pad() -> None:
    toy, (codes, weight) = _Toy(), _toy_batch(23)
    found = patient_sums.gradient_sum(toy, 0.05)(codes, weight)
    # Five patients of each number of rows, but three of four and five: 8 rows at once.
    assert toy.shapes == [(8, 1, 16)] + 2 * [(4, 2, 16)] + 3 * [(2, 3, 16)] + 2 * [
        (2, 4, 16)
    ] + 4 * [(1, 5, 16)]
    np.testing.assert_allclose(found, clipped_sum(toy, 0.05, codes, weight), rtol=1e-5)
    assert np.abs(found).max() > 0.1


def test_nobodys_gradient_depends_on_who_else_is_there() -> None:
    """Each sum is the sum of what patients give alone: to the last bits of 64."""
    toy, (codes, weight) = _Toy(), _toy_batch(23)
    add_up = patient_sums.gradient_sum(toy, 0.05)
    alone = [add_up(codes[p : p + 1], weight[p : p + 1]) for p in range(23)]
    np.testing.assert_allclose(add_up(codes, weight), np.sum(alone, axis=0), rtol=0, atol=1e-14)


# --- R1 ----------------------------------------------------------------------------------------


def test_slopes_along_directions_are_r1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over one direction a pixel, slopes have the size and the gradient of the penalty itself.

    Without kinks: R1 jumps where a unit is switched on, and differences see jumps as slopes.
    """
    monkeypatch.setattr(image_gan, "leaky_relu", lambda x, slope: nn.functional.silu(x))
    study = image_study(generator={**SPECS[3], "slope_penalty": 2.0})
    generator = build_generator(study)
    assert isinstance(generator, ImageGanGenerator)
    codes, _ = image_batch(study, 1, 1)
    images = generator._codes.images(codes, torch.float32)
    condition = generator._codes.encoded(images.label, images.position)
    pixels = images.pixels.requires_grad_(True)
    (slope,) = torch.autograd.grad(
        generator.module.critic(pixels, condition).sum(), pixels, create_graph=True
    )
    exact = slope.square().sum()
    one_pixel_each = torch.eye(256).view(1, 256, 1, 16, 16)
    monkeypatch.setattr(
        torch, "randn", lambda *shape: one_pixel_each if len(shape) == 1 else torch.zeros(shape)
    )
    rows, weight = codes.expand(1, 256, -1), torch.ones(1, 256)
    with_it = generator.loss(rows, weight)
    generator._settings = generator._settings.model_copy(update={"slope_penalty": 0.0})
    found = (with_it - generator.loss(rows, weight)).sum()
    assert found.item() == pytest.approx(exact.item(), rel=1e-2)
    expected, gradient = _gradient(generator, exact), _gradient(generator, found)
    assert np.linalg.norm(gradient - expected) < 0.01 * np.linalg.norm(expected)
