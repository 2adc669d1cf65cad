"""Counts of what images look like, and phantoms that are made to look alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_common.generators.build import build_generator
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.images.features import FeatureEncoder
from pratique_common.images.spec import IMAGE
from pratique_common.images.statistics import image_statistics, num_statistics
from pratique_common.phantoms.brain_parameters import PARAMETERS, Phantoms
from pratique_privacy import patient_votes
from pratique_privacy.canary_sums import canaries_in_step
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.moments_fit import MomentsFit, weights_for, whole
from tests.small_images import image_study

PHANTOMS = 160
STUDY = image_study(generator={"name": "sim_moments", "phantoms": PHANTOMS, "generations": 5})
GAMMA = PARAMETERS.index("gamma")


@pytest.fixture
def generator() -> SimMomentsGenerator:
    built = build_generator(STUDY)
    assert isinstance(built, SimMomentsGenerator)
    return built


def rows_of(
    generator: SimMomentsGenerator, label_N: np.ndarray, pixels: np.ndarray
) -> torch.Tensor:
    codes = np.zeros((len(label_N), len(STUDY.data.columns)), np.int64)
    codes[:, STUDY.data.names.index(STUDY.data.target or "")] = label_N
    flat = pixels.reshape(len(pixels), -1).astype(np.int64)
    return torch.from_numpy(np.concatenate([codes, flat], axis=1))


# --- what is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [1, 3])
def test_statistics_are_of_each_image_alone_and_of_each_plane(planes: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (130, 16, 16, planes), dtype=np.uint8)  # two batches
    encoder = FeatureEncoder.of("brain_mri")
    together = image_statistics(encoder, pixels)
    assert together.shape == (130, num_statistics(planes))
    alone = np.concatenate([image_statistics(encoder, image[None]) for image in pixels[-9:]])
    np.testing.assert_array_equal(together[-9:], alone)
    np.testing.assert_array_equal(image_statistics(encoder, pixels[::-1])[::-1], together)


@pytest.mark.parametrize("how", ["brighter", "noisier", "blurred", "mirrored", "moved"])
def test_statistics_see_how_an_image_looks(how: str, generator: SimMomentsGenerator) -> None:
    pixels = generator.render(generator.scenes[:30]).astype(float)
    rng = np.random.default_rng(0)
    changed = {
        "brighter": pixels * 1.2,
        "noisier": pixels + rng.normal(0, 12, pixels.shape),
        "blurred": (pixels + np.roll(pixels, 1, 1) + np.roll(pixels, 1, 2)) / 3,
        "mirrored": pixels[:, :, ::-1],
        "moved": np.roll(pixels, 2, 2),
    }[how]
    encoder = FeatureEncoder.of("brain_mri")
    before, after = (
        image_statistics(encoder, each.round().clip(0, 255).astype(np.uint8))
        for each in (pixels, changed)
    )
    moved = np.abs(after - before).mean(0) / before.std(0).clip(1e-9)
    assert moved[32:].max() > 0.3


def test_an_image_is_in_one_cell_of_each_number_of_its_class(
    generator: SimMomentsGenerator,
) -> None:
    generator.load_state(generator.state())
    label = generator.class_of[::7]
    votes = generator.votes(rows_of(generator, label, generator.render(generator.scenes[::7])))
    levels, statistics, bins = generator.cells
    assert votes.shape == (len(label), statistics)
    assert generator.sum_size == levels * statistics * bins
    level, statistic, _ = np.unravel_index(votes, generator.cells)
    assert (level == label[:, None]).all()
    assert (statistic == np.arange(statistics)).all()


def test_as_many_phantoms_lie_in_each_bin(generator: SimMomentsGenerator) -> None:
    generator.load_state(generator.state())
    _, _, bins = generator.cells
    numbers = generator.statistics[:, :32]  # grey levels tie
    found = [np.bincount(of, minlength=bins) for of in generator.bins_of(generator.statistics).T]
    np.testing.assert_allclose(np.array(found[: numbers.shape[1]]), PHANTOMS / bins, atol=2)


@pytest.mark.parametrize("cuts", ["none", "far", "falling", "equal"])
def test_no_cuts_make_a_patient_longer_than_the_bound(
    cuts: str, generator: SimMomentsGenerator
) -> None:
    size = len(generator.state())
    generator.load_state(
        {
            "none": np.zeros(size),
            "far": np.full(size, np.finfo(np.float32).max),
            "falling": np.arange(size, 0, -1.0),
            "equal": np.full(size, 3.0),
        }[cuts].astype(np.float32)
    )
    shown = generator.render(generator.scenes[:6])
    rows = rows_of(generator, np.arange(6) % 3, shown).view(2, 3, -1)
    for weight in ([1 / 3, 1 / 3, 1 / 3], [1.0, 0, 0]):
        one = patient_sum(generator, 2.5)(rows[:1], torch.tensor([weight]))
        assert np.linalg.norm(one) <= 2.5 + 1e-9
    assert np.linalg.norm(one) == pytest.approx(2.5)


@pytest.mark.parametrize("state", [[], [1.0], [float("nan")], [float("inf")]])
def test_a_state_that_is_none_is_refused(
    generator: SimMomentsGenerator, state: list[float]
) -> None:
    wrong = np.array(state * (len(generator.state()) if state != [1.0] else 1), np.float32)
    with pytest.raises(ValueError, match="finite cuts"):
        generator.load_state(wrong)


def test_canaries_vote_through_the_same_code(
    generator: SimMomentsGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    included = np.array([True, False, True, True])
    found = canaries_in_step(generator, included, 3, 2.5, 1.0)
    np.testing.assert_allclose(found, 2.5 * included)
    # They see that a patient's many votes were not made shorter.
    monkeypatch.setattr(patient_votes, "sqrt", lambda _: 1.0)
    longer = canaries_in_step(generator, included, 3, 2.5, 1.0)
    np.testing.assert_allclose(longer, np.sqrt(generator.num_votes) * 2.5 * included)


@pytest.mark.parametrize("neighbours", [0, 1])
def test_every_class_has_its_own_patients(neighbours: int) -> None:
    """Sites hold rows in 8 bits, which positions of cells are too large for."""
    study = image_study(generator={"name": "sim_moments", "phantoms": 40}, neighbours=neighbours)
    generator = build_generator(study)
    assert isinstance(generator, SimMomentsGenerator)
    generator.load_state(generator.state())
    num, shape = 13, (13, 16, 16, 1 + 2 * neighbours)
    kinds = study.data.column("kind").categories  # type: ignore[union-attr]
    columns = {
        "age": np.full(num, 50.0),
        "kind": np.array([kinds[number % 4] for number in range(num)], object),
        "place": np.full(num, 0.5),
        IMAGE: np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
    }
    codes, weight = encode_patients(study, Group(columns, np.arange(num).astype(str)))
    assert codes.dtype == torch.uint8
    total = patient_sum(generator, np.sqrt(generator.num_votes))(codes, weight)
    patients_LS = total.reshape(generator.cells).sum(2)
    np.testing.assert_allclose(
        patients_LS, np.repeat([[4], [3], [3], [3]], patients_LS.shape[1], 1)
    )


# --- what is released ----------------------------------------------------------------------------


def test_descendants_have_the_mean_and_deviation_of_what_is_kept(
    generator: SimMomentsGenerator,
) -> None:
    scenes, weight = generator.scenes, np.zeros(PHANTOMS)
    weight[scenes.unit[:, GAMMA] > 0.6] = 1
    generator.keep(scenes, weight)
    label = np.arange(4_000) % len(generator.kinds)
    found = generator.descendants(label, np.random.default_rng(1))
    np.testing.assert_array_equal(found.kind, generator.kinds[label])
    assert len(np.unique(found.seed)) > 3_900
    chosen = scenes.unit[weight > 0]
    np.testing.assert_allclose(found.unit.mean(0), chosen.mean(0), atol=0.06)
    np.testing.assert_allclose(found.unit.std(0), chosen.std(0), atol=0.06)
    # Each value by itself: nothing goes with gamma any more, and none is a copy.
    along = np.corrcoef(found.unit.T)[GAMMA]
    assert np.abs(np.delete(along, GAMMA)).max() < 0.1
    assert not np.isin(found.unit[:, 0], scenes.unit[:, 0]).any()


def test_half_of_the_values_are_of_the_own_class(generator: SimMomentsGenerator) -> None:
    unit = generator.scenes.unit.copy()
    unit[:] = np.where(generator.class_of[:, None] == 0, 0.2, 0.8)
    generator.keep(replace(generator.scenes, unit=unit), np.ones(PHANTOMS))
    classes = len(generator.kinds)
    found = generator.descendants(np.zeros(3_000, int), np.random.default_rng(1))
    share = generator.settings.own_share
    mean = 0.2 + 0.6 * (1 - share) * (classes - 1) / classes
    assert found.unit.mean() == pytest.approx(mean, abs=0.02)


# --- what is learnt ------------------------------------------------------------------------------


def hospital(generator: SimMomentsGenerator, num: int) -> torch.Tensor:
    """Return rows of dark patients: their gamma is in the last fifth of the prior's range."""
    rng = np.random.default_rng(8)
    label = np.arange(num) % len(generator.kinds)
    drawn = Phantoms.draw(num, rng, kinds=generator.kinds[label])
    unit = drawn.unit.copy()
    unit[:, GAMMA] = rng.uniform(0.8, 1.0, num)
    return rows_of(generator, label, generator.render(replace(drawn, unit=unit)))[:, None]


def released(noise: float, seed: int, *, silent: bool = False) -> np.ndarray:
    """Return the mean of each parameter of what is released, in the unit cube, (P,)."""
    generator, site = build_generator(STUDY), build_generator(STUDY)
    assert isinstance(generator, SimMomentsGenerator)
    rows = hospital(generator, 400)
    rng, fit = np.random.default_rng(seed), MomentsFit(STUDY, generator)
    for _ in range(2):
        site.load_state(generator.state())
        total = patient_sum(site, 1.0)(rows, torch.ones(len(rows), 1))
        total = total * (not silent) + rng.normal(0, noise, total.shape)
        fit.update(total, noise)
    label = np.arange(2_000) % len(generator.kinds)
    return generator.descendants(label, rng).unit.mean(0)


def test_phantoms_become_like_patients() -> None:
    assert released(0.2, seed=4)[GAMMA] > 0.66


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_noise_alone_changes_nothing(seed: int) -> None:
    """160 phantoms are a sample: their means are off by .02, as a deviation."""
    assert np.abs(released(2.0, seed, silent=True) - 0.5).max() < 0.08


def test_draws_follow_from_the_sums() -> None:
    study = image_study(generator={"name": "sim_moments", "phantoms": 40, "generations": 1})
    drawn = []
    for first in (100.0, 100.0, 101.0):
        generator = build_generator(study)
        assert isinstance(generator, SimMomentsGenerator)
        total = np.zeros(generator.sum_size)
        total[:: generator.cells[2]] = first  # nobody but in the first bin
        MomentsFit(study, generator).update(total, 1.0)
        drawn.append(generator.scenes.seed)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).mean() > 0.9


def test_weights_give_what_is_wanted_and_no_more_than_noise_lets_them() -> None:
    rng = np.random.default_rng(2)
    bins = rng.integers(0, 4, (600, 3))
    cells = np.eye(4)[bins].reshape(600, -1)
    wanted = np.tile([0.25] * 4, 3)
    wanted[:4] = [0.1, 0.2, 0.3, 0.4]
    exact = weights_for(cells, wanted, 1e-3)
    assert exact.sum() == pytest.approx(1) and (exact > 0).all()
    np.testing.assert_allclose(exact @ cells, wanted, atol=0.03)
    np.testing.assert_allclose(weights_for(cells, wanted, 1.0), 1 / 600)
    some = weights_for(cells, wanted, 0.05)
    before, after = (np.abs(w @ cells - wanted).sum() for w in (np.full(600, 1 / 600), some))
    assert after < before
    assert 1 / np.square(some).sum() >= 1 / np.square(exact).sum()


@pytest.mark.parametrize("patients", [0, 200])
def test_what_noise_alone_tells_is_not_learnt(patients: int) -> None:
    """With no patient of a class, and with patients who are like the phantoms."""
    rng = np.random.default_rng(3)
    cells = np.eye(8)[rng.integers(0, 8, (800, 58))].reshape(800, -1)
    for _ in range(5):
        noised = patients * cells.mean(0) + rng.normal(0, 2.0, cells.shape[1])
        num = max(noised.sum() / 58, 2.0)
        weights = weights_for(cells, whole(noised.reshape(58, 8) / num), 2.0 / num)
        assert 1 / np.square(weights).sum() > 0.95 * 800


def test_clear_counts_of_far_patients_are_learnt_from_many_phantoms() -> None:
    """Where the first step from equal weights is too long, nothing would be learnt."""
    rng = np.random.default_rng(4)
    place = rng.random((4_000, 1))  # all numbers of an image hang together
    bins = ((place + 0.02 * rng.random((4_000, 20))) * 7.8).astype(int)
    cells = np.eye(8)[bins].reshape(4_000, -1)
    wanted = cells[bins[:, 0] == 7].mean(0)
    weights = weights_for(cells, wanted, 1e-3)
    assert 1_000 <= 1 / np.square(weights).sum() < 2_000
    near, far = (np.abs(w @ cells - wanted).sum() for w in (weights, np.full(4_000, 1 / 4_000)))
    assert near < 0.8 * far


def test_a_quarter_of_the_phantoms_is_always_left() -> None:
    rng = np.random.default_rng(2)
    cells = np.eye(8)[rng.integers(0, 8, (200, 20))].reshape(200, -1)
    far = np.tile(np.eye(8)[0], 20)
    weights = weights_for(cells, far, 1e-3)
    assert 50 <= 1 / np.square(weights).sum() < 200
    assert (weights @ cells)[::8].mean() > cells.mean(0)[::8].mean() + 0.05
