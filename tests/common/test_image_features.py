"""The public encoder: the same numbers everywhere, near for altered copies, far for others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pratique_common.canonical import file_sha256
from pratique_common.errors import InvalidFileError
from pratique_common.images.encoder_net import GRID_BITS, LARGEST, embedded, weight_shapes
from pratique_common.images.features import ENCODERS, FeatureEncoder, low_level, weights_path
from pratique_common.images.priors import PRIORS
from pratique_common.images.spec import FEATURE_DECIMALS, FEATURE_LIMIT
from tests.phantom_images import PRIOR, Images, UInt8Array, altered, hospital

NUM_IMAGES, NUM_COPIED = 500, 250
Float64Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return FeatureEncoder.of(PRIOR)


@pytest.fixture(scope="module")
def images() -> Images:
    return hospital(NUM_IMAGES, seed=1, most_slices=1)


@pytest.fixture(scope="module")
def features(encoder: FeatureEncoder, images: Images) -> Float64Array:
    return encoder.features(images.pixels)


def _random_encoder() -> FeatureEncoder:
    """The same network with weights that nobody trained."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape)
        if name.startswith("scale")
        else torch.randn(shape, generator=generator) / max(1, np.prod(shape[1:])) ** 0.5
        for name, shape in weight_shapes().items()
    }
    constants = {
        "mean": torch.zeros(32), "whitening": torch.eye(32) * 32**0.5, "alike": torch.ones(32),
    }  # fmt: skip
    return FeatureEncoder({name: w.half() for name, w in {**weights, **constants}.items()})


def _found_again(originals: Float64Array, copies: Float64Array) -> float:
    """Return how often a copy is nearer to its original than to any other image."""
    apart = np.linalg.norm(copies[:, None] - originals[None], axis=2)
    return float((apart.argmin(1) == np.arange(len(copies))).mean())


@pytest.mark.parametrize("prior", ENCODERS)
def test_shipped_weights_are_those_that_were_published(prior: str) -> None:
    assert file_sha256(weights_path(prior)) == ENCODERS[prior]
    assert weights_path(prior).stat().st_size < 400_000
    assert prior in PRIORS


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "brain_mri.safetensors"
    content = bytearray(weights_path(PRIOR).read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for sha256, problem in ((ENCODERS[PRIOR], "not the weights"), (file_sha256(path), None)):
        if problem:
            with pytest.raises(InvalidFileError, match=problem):
                FeatureEncoder.load(path, sha256=sha256)
        else:
            FeatureEncoder.load(path, sha256=sha256)  # who changes the hash too, publishes anew
    path.write_bytes(b"something else")
    with pytest.raises(InvalidFileError, match="no weights of an encoder"):
        FeatureEncoder.load(path, sha256=file_sha256(path))
    with pytest.raises(InvalidFileError, match="not the weights"):
        FeatureEncoder.load(tmp_path / "missing", sha256=ENCODERS[PRIOR])


def test_every_prior_has_an_encoder() -> None:
    assert set(ENCODERS) == set(PRIORS)


def test_features_are_in_their_columns_domain(features: Float64Array) -> None:
    assert features.shape == (NUM_IMAGES, 32)
    assert np.abs(features).max() <= FEATURE_LIMIT
    np.testing.assert_array_equal(features, np.round(features, FEATURE_DECIMALS))
    # Standardised on the prior's images, not on these: about 0 and 1.
    assert np.abs(features.mean(0)).max() < 1.5
    assert 0.4 < features.std(0).min() <= features.std(0).max() < 1.6


def test_same_pixels_same_features_whatever_the_batch(
    encoder: FeatureEncoder, images: Images, features: Float64Array
) -> None:
    some = images.pixels[:150]
    alone = np.concatenate([encoder.features(some[i : i + 1]) for i in range(0, 150, 10)])
    np.testing.assert_array_equal(alone, features[:150:10])
    np.testing.assert_array_equal(encoder.features(some[::-1]), features[:150][::-1])
    mirrored = encoder.features(np.flip(some[:40], axis=2))
    np.testing.assert_array_equal(mirrored, features[:40])
    assert encoder.features(some[:0]).shape == (0, 32)


def test_all_sums_are_exact(images: Images) -> None:
    """So the order of adding cannot matter: channels in another order give the same bits."""
    weights = {name: w.double() for name, w in load_file(weights_path(PRIOR)).items()}
    grey = torch.from_numpy(images.pixels[:20, :, :, 0]).double()
    backwards = torch.arange(24).reshape(4, 6).flip(1).flatten()  # inside groups of channels
    other = dict(weights)
    for name in ("convolution.0", "scale.0", "offset.0"):
        other[name] = weights[name][backwards]
    other["convolution.1"] = weights["convolution.1"][:, backwards]
    with torch.no_grad():
        assert (embedded(other, grey) == embedded(weights, grey)).all()
        single = {name: w.float() for name, w in weights.items()}
        others = {name: w.float() for name, w in other.items()}
        assert (embedded(others, grey.float()) != embedded(single, grey.float())).any()
    # Nothing that weights and cut activations allow needs more than 53 bits: products are of
    # multiples of 2⁻²⁴ and, after pooling, 2⁻¹²; squares in norms of multiples of 2⁻¹⁰.
    for name in weight_shapes():
        if weights[name].ndim > 1:
            most = float(weights[name].abs().flatten(1).sum(1).max()) * 2 * LARGEST
            assert most * 2.0 ** (24 + GRID_BITS + 2) < 2.0**53, name
            assert most**2 * 2.0 ** (2 * GRID_BITS) * 6 * 16**2 < 2.0**53, name


def test_altered_copies_are_nearer_than_any_other_image(
    encoder: FeatureEncoder, images: Images, features: Float64Array
) -> None:
    copies = altered(images.pixels[:NUM_COPIED], np.random.default_rng(2))
    assert _found_again(features, encoder.features(copies)) > 0.97
    # Pixels do not see it, and a network that nobody trained sees less.
    raw = [x.reshape(len(x), -1) / 255 for x in (images.pixels, copies)]
    assert _found_again(*raw) < 0.2
    untrained = _random_encoder()
    assert _found_again(untrained.features(images.pixels), untrained.features(copies)) < 0.97


def test_copies_differ_by_a_fraction_of_what_images_differ_by(
    encoder: FeatureEncoder, images: Images, features: Float64Array
) -> None:
    copies = encoder.features(altered(images.pixels[:NUM_COPIED], np.random.default_rng(2)))
    of_copies = np.abs(copies - features[:NUM_COPIED]).mean()
    of_others = np.abs(np.roll(features, 1, axis=0) - features).mean()
    assert of_copies < 0.25 * of_others


@pytest.mark.parametrize(("size_px", "channels"), [(16, 1), (50, 2), (64, 3), (256, 1), (32, 16)])
def test_any_size_and_number_of_channels(
    encoder: FeatureEncoder, size_px: int, channels: int
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, size_px, size_px, channels), np.uint8)
    found = encoder.features(pixels)
    assert found.shape == (3, 32)
    assert np.isfinite(found).all()
    assert encoder.embedding(pixels).shape == (3, 32 + 64 * channels)
    blank = encoder.features(np.zeros_like(pixels))
    assert np.isfinite(blank).all()
    # Which channel comes first is no matter, and twice the same is the same.
    np.testing.assert_array_equal(encoder.features(pixels[..., ::-1]), found)


def test_channels_count_as_one_image_of_unit_deviation(encoder: FeatureEncoder) -> None:
    prior = PRIORS[PRIOR]()
    scenes = prior.draw(np.arange(120) % len(prior.kinds), np.random.default_rng(5))
    pixels = prior.render(scenes, prior.channels, size_px=32).pixels
    assert encoder.features(pixels).std(0).mean() == pytest.approx(1, abs=0.2)
    together, planes = encoder.features_and_planes(pixels)
    np.testing.assert_array_equal(together, encoder.features(pixels))
    each = [encoder.features(pixels[..., [c]]) for c in range(pixels.shape[3])]
    np.testing.assert_array_equal(planes, np.stack(each, axis=1))
    assert planes.std((0, 1)).mean() == pytest.approx(1, abs=0.2)
    pixels[3, ..., 1] %= 8  # shows nothing
    pixels[4, ..., 1] //= 16  # hardly anything: up to 15
    without = encoder.features_and_planes(pixels)[1]
    assert np.isnan(without[3, 1]).all() and np.isnan(without).sum() == 32


def test_a_larger_picture_of_the_same_has_the_same_features(
    encoder: FeatureEncoder, images: Images, features: Float64Array
) -> None:
    larger = images.pixels[:20].repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(encoder.features(larger), features[:20])


def test_embeddings_for_votes_know_left_from_right(
    encoder: FeatureEncoder, images: Images, features: Float64Array
) -> None:
    some, mirrored = images.pixels[:20], np.flip(images.pixels[:20], axis=2)
    found, turned = encoder.embedding(some), encoder.embedding(mirrored)
    np.testing.assert_array_equal(found[:, :32], turned[:, :32])
    assert (np.abs(found - turned).max(1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(found[:, :32], axis=1), 2)
    small = low_level(some)
    assert small.shape == (20, 64)
    assert small.min() >= -1 and small.max() <= 1


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 32, 30, 1)])
def test_other_shapes_are_refused(encoder: FeatureEncoder, shape: tuple[int, ...]) -> None:
    pixels: UInt8Array = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"\(N, H, W, C\)"):
        encoder.features(pixels)
    with pytest.raises(ValueError, match="bytes"):
        encoder.features(np.zeros((4, 32, 32, 1)))  # type: ignore[arg-type]
