"""Neighbouring slices as channels: from a study through priors and generators to a release."""

from typing import Any

import numpy as np
import pytest
import torch

from pratique_common.errors import InvalidFileError
from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.images.features import FeatureEncoder
from pratique_common.images.prior_codes import prior_codes
from pratique_common.images.priors import PRIORS
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.released_copies import (
    ARCHIVE,
    CSV,
    PARQUET,
    check_copies,
    image_archive,
    table_csv,
)
from pratique_common.tables import parquet_bytes, to_arrow
from pratique_common.words import study_in_words
from tests.common.test_image_generators import VARIANTS
from tests.small_images import image_batch, image_study

AROUND = (-5.0, 0.0, 5.0)


def test_planes_are_named_channel_by_channel_from_the_lowest() -> None:
    image = ImageSpec(prior="brain_mri", size_px=16, channels=("t1", "t2"), neighbours=2,
                      gap_mm=2.5)  # fmt: skip
    assert image.offsets_mm == (-5, -2.5, 0, 2.5, 5)
    assert image.planes[:5] == ("t1 -5 mm", "t1 -2.5 mm", "t1", "t1 +2.5 mm", "t1 +5 mm")
    assert [name.split()[0] for name in image.planes] == ["t1"] * 5 + ["t2"] * 5
    assert image.shape == (16, 16, 10)
    assert image.num_pixels == 2560
    alone = image.model_copy(update={"neighbours": 0})
    assert (alone.planes, alone.offsets_mm) == (("t1", "t2"), (0.0,))


def test_who_approves_reads_of_neighbours() -> None:
    def line(neighbours: int) -> str:
        (found,) = (each for each in study_in_words(image_study(neighbours=neighbours))
                    if each.startswith("Each row has an image"))  # fmt: skip
        return found

    assert "t1ce, of each the slice and 2 more on either side, 5 mm apart; " in line(2)
    assert "t1ce; generators" in line(0)


def test_a_prior_renders_planes_around_the_slice_that_it_renders_anyhow() -> None:
    prior = PRIORS["brain_mri"]()
    scenes = prior.draw(np.arange(12) % len(prior.kinds), np.random.default_rng(0))
    names = ("flair", "t1")
    alone = prior.render(scenes, names, size_px=16)
    around = prior.render(scenes, names, size_px=16, offsets_mm=AROUND)
    assert around.pixels.shape == (12, 16, 16, 6)
    np.testing.assert_array_equal(around.pixels[..., [1, 4]], alone.pixels)
    np.testing.assert_array_equal(around.mask, alone.mask)
    np.testing.assert_array_equal(around.position, alone.position)
    grey = around.pixels[..., :3].astype(float)
    below, above = (np.abs(grey[..., each] - grey[..., 1]).mean() for each in (0, 2))
    others = np.abs(np.roll(grey, 1, axis=0) - grey).mean()
    assert 0 < max(below, above) < others / 2


def test_a_film_has_no_planes() -> None:
    prior = PRIORS["chest_xray"]()
    scenes = prior.draw(np.zeros(1, int), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no slices beside it"):
        prior.render(scenes, ("xray",), size_px=16, offsets_mm=AROUND)
    study = image_study(neighbours=1).model_dump(mode="json")["data"]
    kinds = list(prior.kinds)
    study["columns"][1]["categories"] = kinds
    study["image"] |= {"prior": "chest_xray", "channels": ["xray"]}
    with pytest.raises(InvalidFileError, match=r"data\.image\.neighbours: .*'chest_xray' has no "):
        build_generator(image_study(data=study))


def test_features_of_planes_stay_in_their_columns_domain() -> None:
    prior = PRIORS["brain_mri"]()
    scenes = prior.draw(np.arange(60) % len(prior.kinds), np.random.default_rng(5))
    pixels = prior.render(scenes, ("t1ce",), size_px=32, offsets_mm=AROUND).pixels
    features = FeatureEncoder.of("brain_mri").features(pixels)
    # Slices are more alike than contrasts, by which the encoder was standardised.
    assert features.std(0).mean() == pytest.approx(1.1, abs=0.3)
    assert (np.abs(features) == 4).mean() < 0.01


@pytest.mark.parametrize("spec", VARIANTS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_networks_learn_and_make_planes(spec: dict[str, Any]) -> None:
    study = image_study(neighbours=1, channels=("t1", "t2"), generator=spec)
    generator = build_generator(study)
    assert isinstance(generator, GradientGenerator)
    codes, weight = image_batch(study, 3, 2)
    assert codes.shape[2] == 3 + 16 * 16 * 6
    assert torch.isfinite(generator.loss(codes, weight)).all()
    drawn = generator.sample(2, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, codes.shape[2])


def test_votes_and_refined_phantoms_have_planes_and_the_middle_one_s_mask() -> None:
    votes = {"phantoms": 40}
    network = {"base_channels": 8, "trained": "all", "steps": 2}
    chained = {"name": "image_chain", "vote_rounds": 1, "moments": votes, "network": network}
    study = image_study(neighbours=1, generator=chained, training={"rounds": 3})
    chain = build_generator(study)
    assert isinstance(chain, ImageChainGenerator)
    codes, masks = chain.images_for(
        torch.zeros(4, 3, dtype=torch.long), torch.Generator().manual_seed(0)
    )
    assert (codes.shape, masks.shape) == ((4, 3 + 16 * 16 * 3), (4, 16, 16))
    ballot = build_generator(image_study(neighbours=1, generator={"name": "sim_pe", **votes}))
    alone = build_generator(image_study(generator={"name": "sim_pe", **votes}))
    assert isinstance(ballot, SimPeGenerator) and isinstance(alone, SimPeGenerator)
    np.testing.assert_array_equal(ballot.render(alone.scenes)[..., [1]], alone.render(alone.scenes))
    ballot.load_state(ballot.state())
    own = torch.from_numpy(ballot.render(ballot.scenes)[:5].reshape(5, -1)).long()
    label = torch.from_numpy(ballot.class_of[:5])
    rows = torch.cat([torch.zeros(5, 1).long(), label[:, None], torch.zeros(5, 1).long(), own], 1)
    assert ballot.votes(rows)[:, 0].tolist() == [0, 1, 2, 3, 4]  # each is its own nearest


def test_a_release_holds_all_planes() -> None:
    schema = image_study(neighbours=1).data
    codes = prior_codes(schema, 4, np.random.default_rng(0))
    assert schema.image is not None
    pixels = codes[:, 3:].astype(np.uint8).reshape(4, *schema.image.shape)
    kinds = np.array(["none", "meningioma"] * 2, object)
    columns = {"age": np.full(4, 50.0), "kind": kinds, "place": np.full(4, 0.5), IMAGE: pixels}
    table = to_arrow(columns, schema)
    archive = image_archive(table, schema.image, np.zeros((4, 16, 16), np.uint8))
    contents = {PARQUET: parquet_bytes(table), CSV: table_csv(table), ARCHIVE: archive}
    check_copies(contents, schema)
