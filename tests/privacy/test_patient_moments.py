"""A patient moves the sum of moments by at most 1, whatever directions somebody chooses."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.generators.build import build_generator
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.image_transport import ImageTransportGenerator, moment_size
from pratique_privacy.canary_sums import canaries_in_step
from pratique_privacy.patient_moments import COUNT, MEAN, PRODUCT, moment_sum, moments_of
from pratique_privacy.patient_sums import patient_sum
from tests.small_images import image_batch, image_study

K = 5
STUDY = image_study(
    generator={"name": "image_chain", "components": K, "moments": {"phantoms": 40}},
    training={"rounds": 3},
)


class _Told:
    """The first code of a row is its class, the others are its coordinates, in tenths."""

    num_classes = 3

    def coordinates(self, codes_ND: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return codes_ND[:, 0].numpy(), codes_ND[:, 1:].numpy() / 10


def transport() -> ImageTransportGenerator:
    generator = build_generator(STUDY)
    assert isinstance(generator, ImageChainGenerator)
    return generator.transport


ROW = st.tuples(st.integers(0, 2), *[st.integers(-40, 40)] * K).map(list)
PATIENTS = st.lists(st.lists(ROW, min_size=1, max_size=4), min_size=1, max_size=6)


def batch(patients: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.zeros(len(patients), 4, K + 1, dtype=torch.long)
    weight = torch.zeros(len(patients), 4)
    for number, rows in enumerate(patients):
        codes[number, : len(rows)] = torch.tensor(rows)
        weight[number, : len(rows)] = 1 / len(rows)
    return codes, weight


@settings(max_examples=100, deadline=None)
@given(PATIENTS)
def test_a_patient_adds_1_at_most(patients: list[list[list[int]]]) -> None:
    codes, weight = batch(patients)
    moved = moment_sum(_Told(), codes, weight) - moment_sum(_Told(), codes[1:], weight[1:])
    assert np.linalg.norm(moved) <= 1 + 1e-12
    np.testing.assert_allclose(moved, moment_sum(_Told(), codes[:1], weight[:1]), atol=1e-12)
    if len(patients[0]) == 1 and np.linalg.norm(patients[0][0][1:]) >= 10:
        assert np.linalg.norm(moved) == pytest.approx(1)  # all of what it may


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-4, 4), min_size=K, max_size=K), min_size=1, max_size=9))
def test_means_and_products_are_what_was_added_up(coordinates: list[list[int]]) -> None:
    """Short ones, which nothing clips: here of one class."""
    codes, weight = batch([[[1, *row]] for row in coordinates])
    total = moment_sum(_Told(), codes, weight).reshape(3, moment_size(K))
    assert not total[[0, 2]].any()
    count, sums_k, products_kk = moments_of(total[1], K)
    exact = np.array(coordinates) / 10
    assert count == pytest.approx(len(exact))
    np.testing.assert_allclose(sums_k, exact.sum(0), atol=1e-12)
    np.testing.assert_allclose(products_kk, exact.T @ exact, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_coordinates_hang_on_their_image_alone_in_every_bit(scale: float) -> None:
    """Also along directions of large numbers that cancel, where rounding would be all there is."""
    generator, rng = transport(), np.random.default_rng(0)
    directions = rng.choice([-1.0, 1.0], (K, generator.first.num_pixels))
    directions[:, 1::2] = -directions[:, ::2] * (1 + rng.normal(0, 1e-7, directions[:, ::2].shape))
    state = np.concatenate([directions.ravel() * scale, np.zeros(K)]).clip(-1, 1)
    generator.load_state(state.astype(np.float32))
    codes = image_batch(STUDY, 130, 1)[0][:, 0]
    _, together = generator.coordinates(codes)
    _, reversed_ = generator.coordinates(codes.flip(0))
    np.testing.assert_array_equal(together, reversed_[::-1])
    for rows in (slice(0, 1), slice(3, 10), slice(60, 130)):
        np.testing.assert_array_equal(generator.coordinates(codes[rows])[1], together[rows])


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_images_go_through_the_same_code(factor: float) -> None:
    generator = transport()
    size = generator.components * generator.first.num_pixels
    generator.load_state(np.full(size + K, 0.01, np.float32))
    codes, weight = image_batch(STUDY, 6, 3)
    add_up = patient_sum(generator, factor)
    moved = add_up(codes, weight) - add_up(codes[1:], weight[1:])
    assert moved.shape == (generator.sum_size,)
    assert 0 < np.linalg.norm(moved) <= factor * (1 + 1e-12)


def test_canaries_are_measured_by_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    included = np.array([True, False, True])
    found = canaries_in_step(transport(), included, 4, 0.5, 1.0)
    np.testing.assert_allclose(found, [0.5, 0, 0.5])
    unclipped: Any = lambda coordinates: coordinates  # noqa: E731
    monkeypatch.setattr("pratique_privacy.patient_moments.clipped", unclipped)
    assert canaries_in_step(transport(), included, 4, 0.5, 1.0).max() > 1e5


def test_shares_of_a_row_have_length_1() -> None:
    assert np.hypot(np.hypot(COUNT, MEAN), PRODUCT) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("number", "words"),
    [(np.nan, "finite"), (np.inf, "finite"), (1.5, "beyond"), (None, "expected")],
)
def test_a_state_that_is_none_is_refused(number: float | None, words: str) -> None:
    generator = transport()
    state = np.zeros(generator.components * generator.first.num_pixels + K, np.float32)
    if number is None:
        state = state[1:]
    else:
        state[3] = number
    with pytest.raises(ValueError, match=words):
        generator.load_state(state)
