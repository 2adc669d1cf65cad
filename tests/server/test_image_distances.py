"""Distances, reaches and similarities of images against values that are known."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pratique_common.errors import InvalidFileError, UsageError
from pratique_server.evaluation.images import feature_files
from pratique_server.evaluation.images.diversity import similarity_within_classes
from pratique_server.evaluation.images.feature_files import FileEncoder
from pratique_server.evaluation.images.frechet import (
    Moments,
    Seen,
    distance_name,
    extrapolated_distance,
    frechet_distance,
)
from pratique_server.evaluation.images.image_scores import MacroAuc, balanced_accuracy
from pratique_server.evaluation.images.image_usefulness import Labelled
from pratique_server.evaluation.images.nearest_real import nearest_difference, ssim_matrix
from pratique_server.evaluation.images.precision_recall import reaches
from pratique_server.evaluation.images.similarity import (
    SCALE_WEIGHTS,
    ms_ssim,
    num_scales,
    psnr,
    squared_error,
    ssim,
)
from pratique_server.evaluation.rows import Rows
from tests.server.image_rows import Tiny, drawn, image_rows, noisy, saved

ROTATED = np.array([[2.0, 0.6], [0.6, 1.0]])


def moments(mean: list[float], covariance: np.ndarray, num: int = 50) -> Moments:
    """The sums that images with such a mean and unbiased covariance have."""
    centre = np.array(mean)
    products = (num - 1) * covariance + num * np.outer(centre, centre)
    return Moments(float(num), num * centre, products)


def test_distance_of_known_normal_distributions() -> None:
    # Diagonal: |µ|² + Σ (σ₁ - σ₂)² = 9 + 16 + 1 + 4.
    one = moments([0, 0], np.diag([1.0, 9.0]))
    other = moments([3, 4], np.diag([4.0, 1.0]))
    assert frechet_distance(one, other) == pytest.approx(30)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # Not diagonal together: against the matrix root of the definition.
    turned = moments([1, 0], ROTATED)
    root = sqrtm(np.diag([1.0, 9.0]) @ ROTATED).real
    expected = 1 + np.trace(np.diag([1.0, 9.0]) + ROTATED - 2 * root)
    assert frechet_distance(one, turned) == pytest.approx(expected)
    assert frechet_distance(turned, one) == pytest.approx(expected)


def test_sums_of_sites_add_up_to_those_of_all_images() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (90, 4))
    whole, parts = Moments.of(features), [Moments.of(part) for part in np.split(features, 3)]
    together = parts[0] + parts[1] + parts[2]
    assert frechet_distance(whole, together) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(together.covariance, np.cov(features.T))
    # Noise may make of a covariance what is none: the distance stays one.
    broken = Moments(90, whole.total, whole.products - 400 * np.eye(4))
    assert np.linalg.eigvalsh(broken.covariance).min() < 0
    assert 0 < frechet_distance(whole, broken) < np.inf
    assert np.isnan(frechet_distance(whole, Moments.of(features[:1])))


def test_extrapolation_takes_the_bias_of_small_sets_away() -> None:
    rng = np.random.default_rng(1)

    def seen(num: int, centre: float) -> Seen:
        features = rng.normal(centre, 1, (num, 8))
        return Seen(Rows({}, np.arange(num), np.ones(num)), features)

    plain, endless = [], []
    for _ in range(6):
        one, other = seen(150, 0), seen(150, 0)
        plain.append(frechet_distance(one.moments(), other.moments()))
        endless.append(extrapolated_distance(one, other, rng))
    assert np.mean(plain) > 0.15  # of one distribution: all of it is bias
    assert abs(np.mean(endless)) < 0.04
    apart = [extrapolated_distance(seen(150, 0), seen(150, 0.5), rng) for _ in range(6)]
    assert np.mean(apart) == pytest.approx(8 * 0.25, abs=0.3)
    assert np.isnan(extrapolated_distance(seen(60, 0), seen(60, 0), rng))


def test_a_distance_is_named_by_its_features() -> None:
    assert distance_name("phantom")[0] == "fd_phantom"
    assert distance_name("site")[0] == "fd_site"
    assert distance_name("file")[0] == "fd_file"
    assert "FID" not in "".join(distance_name("file"))
    assert distance_name("file", inception=True)[0] == "fid"
    with pytest.raises(ValueError, match="from a file"):
        distance_name("phantom", inception=True)


class _Map(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_weights_of_a_file_are_used_only_with_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.pt"
    digest = saved(Tiny(), path)
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    encoder = FileEncoder.load(path, digest.upper())
    np.testing.assert_allclose(encoder(pixels), [[7.5] * 3, [23.5] * 3])
    assert not encoder.inception
    with pytest.raises(InvalidFileError, match="not the one that was given"):
        FileEncoder.load(path, "0" * 64)
    with pytest.raises(UsageError, match="not 2"):
        encoder(np.zeros((1, 4, 4, 2), np.uint8))
    # Only the hash makes an Inception of it, whose features are asked for by name.
    monkeypatch.setattr(feature_files, "INCEPTION_SHA256", digest)
    assert encoder.inception
    np.testing.assert_allclose(encoder(pixels), [[15] * 3, [47] * 3])
    with pytest.raises(UsageError, match="does not return features"):
        FileEncoder.load(path, saved(_Map(), path))(pixels)
    path.write_bytes(b"no network")
    with pytest.raises(InvalidFileError, match="not a TorchScript file"):
        FileEncoder.load(path, hashlib.sha256(b"no network").hexdigest())


def test_reaches_of_equal_and_of_disjoint_sets() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(200, 3))
    same, far = reaches(points, points), reaches(points, points + 100)
    assert same.precise.all() and same.recalled.all() and same.covered.all()
    assert not (far.precise.any() or far.recalled.any() or far.covered.any())
    alike = reaches(points, rng.normal(size=(200, 3)))
    assert alike.density.mean() == pytest.approx(1, abs=0.15)
    # Half of one distribution: precise, and only half recalled.
    sides = rng.normal(size=(400, 2)) + np.where(np.arange(400) < 200, 0, 50)[:, None]
    half = reaches(sides, rng.normal(size=(400, 2)))
    assert half.precise.mean() > 0.9
    assert half.recalled.mean() == pytest.approx(0.5, abs=0.05)
    assert half.covered.mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="more than 5"):
        reaches(points[:5], points)


def test_reaches_by_hand() -> None:
    # On a line, k = 1: reaches of 0, 1, 3 are 1, 1, 2; of 4, 9, 10 are 5, 1, 1.
    found = reaches(np.array([[0.0], [1], [3]]), np.array([[4.0], [9], [10]]), k=1)
    assert found.precise.tolist() == [True, False, False]  # 4 is within 2 of 3
    assert found.density.tolist() == [1, 0, 0]
    assert found.recalled.tolist() == [True, True, True]  # all within 5 of 4
    assert found.covered.tolist() == [False, False, True]


def test_similarity_by_hand() -> None:
    flat = np.full((2, 16, 16, 1), 100, np.uint8)
    bright = np.full((2, 16, 16, 1), 200, np.uint8)
    # No contrast: luminance is left, (2ab + C₁) / (a² + b² + C₁) with C₁ = 2.55².
    assert ssim(flat, bright) == pytest.approx([40_006.5025 / 50_006.5025] * 2)
    assert ssim(flat, flat) == pytest.approx([1, 1])
    assert squared_error(flat, flat + np.uint8(2)).tolist() == [4, 4]
    assert psnr(1.0) == pytest.approx(48.1308036087)  # 20 log₁₀ 255
    assert psnr(0.0) == np.inf
    # One window alone, by the definition.
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 256, (2, 1, 11, 11, 1), dtype=np.uint8)
    steps = np.arange(11) - 5
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / 4.5)
    window /= window.sum()
    x, y = one[0, ..., 0].astype(float), other[0, ..., 0].astype(float)
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
    joint = (window * (x - mx) * (y - my)).sum()
    contrast = (2 * joint + 58.5225) / (vx + vy + 58.5225)
    luminance = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
    assert ssim(one, other) == pytest.approx([contrast * luminance])
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(one[:, :10], other[:, :10])


def test_similarity_over_scales() -> None:
    assert [num_scales(side) for side in (11, 21, 22, 43, 44, 176, 512)] == [1, 1, 2, 2, 3, 5, 5]
    flat = np.full((1, 32, 32, 1), 100, np.uint8)
    bright = np.full((1, 32, 32, 1), 200, np.uint8)
    # Two scales; luminance counts at the last one only.
    weight = SCALE_WEIGHTS[1] / (SCALE_WEIGHTS[0] + SCALE_WEIGHTS[1])
    assert ms_ssim(flat, bright) == pytest.approx([(40_006.5025 / 50_006.5025) ** weight])
    pixels, _ = drawn(4, np.random.default_rng(4))
    large = np.kron(pixels, np.ones((1, 4, 4, 1), np.uint8))
    assert ms_ssim(large, large) == pytest.approx([1] * 4)
    assert (ms_ssim(large, 255 - large) == 0).all()  # against each other: a negative term is 0


def test_the_search_sees_what_pairs_have() -> None:
    rng = np.random.default_rng(5)
    one, other = drawn(3, rng)[0], drawn(5, rng)[0]
    expected = [ssim(np.repeat(image[None], 5, 0), other) for image in one]
    np.testing.assert_allclose(ssim_matrix(one, other), expected, atol=1e-5)
    # Larger images are made smaller by whole steps first.
    large = np.kron(other, np.ones((1, 4, 4, 1), np.uint8))
    small = np.kron(other, np.ones((1, 2, 2, 1), np.uint8))
    np.testing.assert_allclose(ssim_matrix(large, large), ssim_matrix(small, small), atol=1e-5)


def test_a_copier_is_nearer_to_its_training_images_and_an_honest_one_is_not() -> None:
    rng = np.random.default_rng(6)
    train, holdout, fresh = (drawn(80, rng)[0] for _ in range(3))
    members, others = image_rows(train), image_rows(holdout)
    honest = nearest_difference(image_rows(fresh), members, others, rng)
    copied = nearest_difference(image_rows(noisy(train, rng)), members, others, rng)
    assert honest[1] < 0 < honest[2]
    assert copied[1] > 0.1
    few = np.concatenate([noisy(train[:12], rng), fresh[:68]])  # 15 % are copies
    assert nearest_difference(image_rows(few), members, others, rng)[1] > 0
    # Two images a patient, of which all are copied.
    twice = Rows(members.columns, np.arange(80) // 2, np.full(80, 0.5))
    assert nearest_difference(image_rows(noisy(train, rng)), twice, others, rng)[1] > 0.1
    nothing = image_rows(fresh).take(np.zeros(80, bool))
    assert np.isnan(nearest_difference(nothing, members, others, rng)[0])


def test_a_collapsed_generator_is_not_diverse() -> None:
    rng = np.random.default_rng(7)
    pixels, label = drawn(200, rng)
    few = np.concatenate([np.flatnonzero(label == side)[:3] for side in (0, 1)])
    again = np.tile(few, 30)

    def diversity(pixels: np.ndarray, label: np.ndarray) -> tuple[float, float]:
        images = Labelled(image_rows(pixels), label, 2)
        value, resamples = similarity_within_classes(images, rng)
        return value, float(np.std(resamples))

    real, spread = diversity(pixels, label)
    other, _ = diversity(*drawn(200, rng))
    collapsed, _ = diversity(noisy(pixels[again], rng), label[again])
    assert abs(real - other) < 5 * spread
    assert collapsed > real + 10 * spread
    alone = similarity_within_classes(Labelled(image_rows(pixels[:1]), label[:1], 2), rng)
    assert np.isnan(alone[0])


def test_scores_with_weights() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(3, size=300)
    chance = rng.dirichlet([1, 1, 1], 300).round(2) + 0.2 * np.eye(3)[label]
    weight = rng.integers(0, 3, 300).astype(float)
    expected = [roc_auc_score(label == k, chance[:, k], sample_weight=weight) for k in range(3)]
    assert MacroAuc(label, chance)(weight) == pytest.approx(np.mean(expected))
    one = np.zeros(4, np.int64)
    assert np.isnan(MacroAuc(one, np.full((4, 3), 1 / 3))(np.ones(4)))
    # By hand: class 0 rightly in 1 of 2, class 1 in weight 3 of 4.
    named = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])
    shown, heavy = np.array([0, 0, 1, 1]), np.array([1.0, 1, 3, 1])
    assert balanced_accuracy(shown, named, heavy) == pytest.approx((0.5 + 0.75) / 2)
    assert np.isnan(balanced_accuracy(one, named, heavy))
