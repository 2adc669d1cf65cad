"""Phantoms are moved to where images lie, and stay where noise is all that sums hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.generators.build import build_generator
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.image_transport import ImageTransportGenerator
from pratique_common.study import StudySpec
from pratique_privacy.patient_moments import clipped, moment_sum
from pratique_privacy.post_processing import transport_fit
from pratique_privacy.post_processing.transport_fit import (
    TransportFit,
    shrunk,
    transport,
)
from tests.small_images import image_study

K, CLASSES, PATIENTS = 12, 4, 1_200


def chain_study(**changes: object) -> StudySpec:
    settings_ = {"name": "image_chain", "components": K, "moments": {"phantoms": 200}}
    return image_study(generator=settings_ | changes, training={"rounds": 3}, rows=1)


@pytest.fixture(autouse=True)
def _fewer_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_fit, "_PHANTOMS", 1_200)


@pytest.fixture(scope="module")
def patients() -> torch.Tensor:
    """Images that no phantom looks like: flat where those are dark, and with a slope."""
    generator = built()
    rows = generator.first.sample(PATIENTS, torch.Generator().manual_seed(11))
    grey = rows[:, -generator.first.num_pixels :].double()
    slope = torch.linspace(0, 40, grey.shape[1])
    size = 1 + 0.5 * torch.randn(len(rows), 1, generator=torch.Generator().manual_seed(2))
    of_class = 12.0 * rows[:, 1:2]  # each class is brighter than the one before
    changed = (0.6 * grey + slope * size + of_class).round().clamp(0, 255)
    rows[:, -generator.first.num_pixels :] = changed.long()
    return rows


def built() -> ImageTransportGenerator:
    generator = build_generator(chain_study())
    assert isinstance(generator, ImageChainGenerator)
    return generator.transport


def fitted(
    patients: torch.Tensor, noise: float, *, silent: bool = False
) -> tuple[ImageTransportGenerator, TransportFit]:
    generator = built()
    fit = TransportFit(chain_study(), generator)
    total = moment_sum(generator, patients[:, None], torch.ones(len(patients), 1))
    drawn = np.random.default_rng(5).normal(0, noise, total.size)
    fit.update(total * (not silent) + drawn, noise)
    return generator, fit


def gaps(generator: ImageTransportGenerator, patients: torch.Tensor, moved: bool) -> np.ndarray:
    """Return how far means and covariances of phantoms are from patients', (classes, 2)."""
    codes = torch.zeros(1_200, 3, dtype=torch.long)
    codes[:, 1] = torch.arange(1_200) % CLASSES
    maker = generator if moved else generator.first
    made, _ = maker.images_for(codes, torch.Generator().manual_seed(7))
    (of_one, one), (of_other, other) = map(generator.coordinates, (made, patients))
    found = []
    for label in range(CLASSES):
        mine, theirs = clipped(one[of_one == label]), clipped(other[of_other == label])
        wide = np.cov(mine.T) - np.cov(theirs.T)
        found.append([np.linalg.norm(mine.mean(0) - theirs.mean(0)), np.linalg.norm(wide)])
    return np.array(found)


@pytest.mark.parametrize("noise", [1e-6, 1.0])
def test_means_and_covariances_become_those_of_patients(
    patients: torch.Tensor, noise: float
) -> None:
    generator, _ = fitted(patients, noise)
    before, after = gaps(generator, patients, moved=False), gaps(generator, patients, moved=True)
    assert (before[:, 0] > 0.3).all()
    assert (after[:, 0] < 0.25 * before[:, 0]).all()
    assert after[:, 1].mean() < (0.4 if noise < 1 else 0.7) * before[:, 1].mean()


def test_noise_alone_moves_no_phantom(patients: torch.Tensor) -> None:
    generator, _ = fitted(patients, 3.0, silent=True)
    rows = generator.first.sample(50, torch.Generator().manual_seed(3))
    assert not generator.module.shift.any()
    torch.testing.assert_close(generator.moved(rows), rows)


def test_patients_like_phantoms_move_none() -> None:
    like = built().first.sample(PATIENTS, torch.Generator().manual_seed(12))
    generator, _ = fitted(like, 1.0)
    rows = generator.first.sample(50, torch.Generator().manual_seed(3))
    assert (generator.moved(rows) - rows).abs().double().mean() < 2  # of 255


def test_columns_masks_and_what_is_seen_stay(patients: torch.Tensor) -> None:
    generator, _ = fitted(patients, 1.0)
    codes = torch.zeros(40, 3, dtype=torch.long)
    codes[:, 1] = torch.arange(40) % CLASSES
    rows, masks = generator.images_for(codes, torch.Generator().manual_seed(4))
    phantoms, of_phantoms = generator.first.images_for(codes, torch.Generator().manual_seed(4))
    np.testing.assert_array_equal(masks, of_phantoms)
    np.testing.assert_array_equal(rows[:, :3], phantoms[:, :3])
    grey, before = rows[:, 3:].double(), phantoms[:, 3:].double()
    assert (grey != before).double().mean() > 0.5
    assert grey.min() >= 0 and grey.max() <= 255
    alike = [np.corrcoef(one, other)[0, 1] for one, other in zip(grey, before, strict=True)]
    assert np.median(alike) > 0.7


def test_the_bundle_draws_the_same_images(patients: torch.Tensor) -> None:
    generator, _ = fitted(patients, 1.0)
    other = built()
    other.module.load_state_dict(generator.module.state_dict())
    rows = generator.first.sample(20, torch.Generator().manual_seed(3))
    torch.testing.assert_close(other.moved(rows), generator.moved(rows))


def _covariance(seed: int, k: int, least: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(k, k)))[0]
    return (vectors * rng.uniform(least, 2, k)) @ vectors.T


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 20))
def test_transport_makes_one_covariance_the_other(seed: int, k: int) -> None:
    one, other = _covariance(seed, k, 0.5), _covariance(seed + 1, k, 0.5)
    found = transport(one, other)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    assert np.linalg.eigvalsh(found).min() > 0
    np.testing.assert_allclose(found @ one @ found, other, atol=1e-8)


def test_transport_bounds_stretches_also_of_negative_eigenvalues() -> None:
    found = np.linalg.eigvalsh(transport(np.eye(3), np.diag([-1.0, 1.0, 1e4])))
    np.testing.assert_allclose(found, [0.1, 1, 4])


@pytest.mark.parametrize("k", [12, 48, 128])
def test_what_noise_alone_makes_is_shrunk_to_nothing(k: int) -> None:
    rng = np.random.default_rng(k)
    vectors = sum(shrunk(rng.normal(0, 0.3, k), 0.3).any() for _ in range(300))
    matrices = sum(shrunk(_noise(rng, k, 0.3), 0.3).any() for _ in range(300))
    assert vectors <= 20 and matrices <= 20  # χ² is two deviations above its mean in 2 to 4 %


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_a_gap_is_nearer_when_shrunk(strength: float) -> None:
    k, noise, rng = 40, 0.1, np.random.default_rng(3)
    exact = {1: strength * rng.normal(0, noise, k), 2: strength * _noise(rng, k, noise)}
    for dimensions, wanted in exact.items():
        errors = []
        for _ in range(50):
            drawn = rng.normal(0, noise, k) if dimensions == 1 else _noise(rng, k, noise)
            found = shrunk(wanted + drawn, noise)
            errors.append([np.square(found - wanted).sum(), np.square(drawn).sum()])
        nearer, before = np.mean(errors, axis=0)
        # The best factor leaves s² / (1 + s²) of the error.
        assert nearer < 1.3 * before * strength**2 / (1 + strength**2)


def _noise(rng: np.random.Generator, k: int, deviation: float) -> np.ndarray:
    drawn = rng.normal(0, deviation, (k, k))
    return (drawn + drawn.T) / np.sqrt(2)
