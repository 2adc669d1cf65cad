"""Volumes of image_diffusion: slices of one finding that agree with their neighbours."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pratique_common.generators.build import build_generator
from pratique_common.generators.image_codes import draw_columns
from pratique_common.generators.image_diffusion import (
    SHARED_NOISE,
    ImageDiffusionGenerator,
    volume_positions,
)
from pratique_common.images.prior_codes import prior_codes
from tests.small_images import image_study

SLICES = 10
SPEC = {"name": "image_diffusion", "base_channels": 8, "trained": "all", "steps": 6}


def volumes_of(
    generator: ImageDiffusionGenerator,
    num: int,
    slices: int,
    rng: torch.Generator,
    *,
    shared: float = SHARED_NOISE,
) -> Tensor:
    codes = draw_columns(generator.marginals, num, rng)
    return generator.volumes_for(codes, slices, rng, shared=shared)


def untrained(**image: Any) -> ImageDiffusionGenerator:
    data = image_study().model_dump(mode="json")["data"]
    data["image"] |= image
    generator = build_generator(image_study(data=data, generator=SPEC))
    assert isinstance(generator, ImageDiffusionGenerator)
    return generator


@pytest.fixture(scope="module")
def pretrained() -> ImageDiffusionGenerator:
    """A network that has seen phantoms for some dozen steps."""
    generator, study = untrained(), image_study()
    codes = torch.from_numpy(prior_codes(study.data, 160, np.random.default_rng(0))).long()
    optimizer = torch.optim.Adam(generator.module.unet.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(50):
        batch = codes[torch.randint(len(codes), (16,)), None]
        optimizer.zero_grad()
        torch.autograd.backward(generator.loss(batch, torch.ones(16, 1)).mean())
        optimizer.step()
    return generator


def slices_of(rows: Tensor) -> Tensor:
    """Return grey values (volumes, slices, pixels)."""
    return rows[:, 3:].view(-1, SLICES, 256).double()


def test_neighbours_agree_where_they_begin_from_shared_noise(
    pretrained: ImageDiffusionGenerator,
) -> None:
    apart, between = {}, {}
    for shared in (0.0, 0.5, SHARED_NOISE, 1.0):
        rng = torch.Generator().manual_seed(1)
        grey = slices_of(volumes_of(pretrained, 6, SLICES, rng, shared=shared))
        apart[shared] = grey.diff(dim=1).abs().mean().item()
        between[shared] = (grey.roll(1, dims=0) - grey).abs().mean().item()
    assert apart[1.0] < apart[SHARED_NOISE] < apart[0.5] < apart[0.0]
    assert apart[SHARED_NOISE] < 0.4 * apart[0.0]
    # Two slices without anything in common differ like slices of two volumes.
    assert apart[0.0] == pytest.approx(between[0.0], rel=0.15)
    # Volumes are still different ones.
    assert between[1.0] == pytest.approx(between[0.0], rel=0.2)


def test_rows_of_a_volume_have_its_columns_at_places_of_their_own() -> None:
    generator = untrained()
    columns = torch.tensor([[2, 3, 4], [0, 1, 0]])  # age, kind, and a place that does not count
    rows = generator.volumes_for(columns, SLICES, torch.Generator().manual_seed(0))
    assert rows.shape == (2 * SLICES, 3 + 256)
    assert rows.dtype == torch.int64
    assert rows[:, :2].tolist() == [[2, 3]] * SLICES + [[0, 1]] * SLICES
    assert rows[:, 2].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] * 2
    assert ((rows[:, 3:] >= 0) & (rows[:, 3:] <= 255)).all()
    assert columns.tolist() == [[2, 3, 4], [0, 1, 0]]
    np.testing.assert_allclose(volume_positions(4), [0.125, 0.375, 0.625, 0.875])
    # A volume follows from its columns and the generator's state, however many come after it.
    alone = generator.volumes_for(columns[:1], SLICES, torch.Generator().manual_seed(0))
    assert (alone == rows[:SLICES]).all()
    generator.set_marginals([np.eye(4)[1], np.eye(4)[2], np.eye(5)[0]])
    drawn = volumes_of(generator, 2, 3, torch.Generator().manual_seed(0))
    assert drawn[:, :3].tolist() == [[1, 2, 0], [1, 2, 2], [1, 2, 4]] * 2


def test_slices_of_one_bin_are_not_copies_of_each_other(
    pretrained: ImageDiffusionGenerator,
) -> None:
    rng = torch.Generator().manual_seed(2)
    grey = slices_of(volumes_of(pretrained, 2, SLICES, rng, shared=1.0))
    assert (grey.diff(dim=1).abs().amax(dim=2) > 0).all()


def test_volumes_of_stacks_have_all_planes() -> None:
    found = volumes_of(untrained(neighbours=1), 1, 4, torch.Generator().manual_seed(0))
    assert found.shape == (4, 3 + 3 * 256)


def test_what_is_no_volume_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    for shared in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            volumes_of(untrained(), 1, 2, rng, shared=shared)
    with pytest.raises(ValueError, match="names no position"):
        volumes_of(untrained(position=None), 1, 2, rng)
