"""A patient has one vote, whatever it has of images, and nobody else's vote hangs on it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.generators.sim_pe import Settings, SimPeGenerator
from pratique_common.schema import TableSchema
from pratique_privacy.canary_sums import canaries_in_step
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.patient_votes import vote_sum

NUM_CANDIDATES = 7


class _ByNumber:
    """Each row votes for its codes: they are different."""

    sum_size = NUM_CANDIDATES

    def votes(self, codes_ND: torch.Tensor) -> np.ndarray:
        return codes_ND.numpy()


@pytest.fixture(scope="module")
def generator() -> SimPeGenerator:
    schema = TableSchema.model_validate(
        {
            "kind": "image",
            "target": "kind",
            "columns": [
                {"name": "kind", "type": "categorical", "categories": ["none", "glioblastoma"]},
                {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 4},
            ],
            "image": {
                "prior": "brain_mri", "size_px": 16, "channels": ["t1ce"], "position": "place",
            },
        }
    )  # fmt: skip
    built = SimPeGenerator(schema, Settings(phantoms=40), 3)
    built.load_state(built.state())
    return built


def rows_of(patients: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and weights of patients' rows; up to four each."""
    codes = torch.zeros(len(patients), 4, len(patients[0][0]), dtype=torch.long)
    weight = torch.zeros(len(patients), 4)
    for number, rows in enumerate(patients):
        codes[number, : len(rows)] = torch.tensor(rows)
        weight[number, : len(rows)] = 1 / len(rows)
    return codes, weight


def images(generator: SimPeGenerator, num: int) -> torch.Tensor:
    return generator.sample(num, torch.Generator().manual_seed(1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, NUM_CANDIDATES - 1), min_size=1, max_size=4), min_size=1))
def test_a_patient_adds_one_vote_in_all(patients: list[list[int]]) -> None:
    codes, weight = rows_of([[[vote] for vote in rows] for rows in patients])
    everybody = vote_sum(_ByNumber(), codes, weight)
    without = vote_sum(_ByNumber(), codes[1:], weight[1:])
    moved = everybody - without
    assert moved.min() >= -1e-9
    assert moved.sum() == pytest.approx(1)
    assert np.linalg.norm(moved) <= 1 + 1e-9
    expected = np.bincount(patients[0], minlength=NUM_CANDIDATES) / len(patients[0])
    np.testing.assert_allclose(moved, expected, atol=1e-9)


THREE_OF_THEM = st.permutations(range(NUM_CANDIDATES)).map(lambda order: list(order[:3]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(THREE_OF_THEM, min_size=1, max_size=4), min_size=1))
def test_three_votes_of_a_row_are_as_long_as_one(patients: list[list[list[int]]]) -> None:
    codes, weight = rows_of(patients)
    moved = vote_sum(_ByNumber(), codes, weight) - vote_sum(_ByNumber(), codes[1:], weight[1:])
    assert moved.min() >= -1e-9
    assert np.linalg.norm(moved) <= 1 + 1e-9
    if len(patients[0]) == 1:
        assert np.linalg.norm(moved) == pytest.approx(1)
        assert sorted(np.flatnonzero(moved > 0.1)) == sorted(patients[0][0])


def test_an_image_votes_for_the_nearest_phantom_of_its_class(generator: SimPeGenerator) -> None:
    shown = generator.render(generator.scenes)
    columns = np.stack([generator.class_of, np.zeros(len(shown), int)], axis=1)
    rows = torch.from_numpy(np.concatenate([columns, shown.reshape(len(shown), -1)], axis=1))
    # A phantom's own image is nearest to itself, and never to one of another class.
    np.testing.assert_array_equal(generator.votes(rows)[:, 0], np.arange(len(shown)))
    rows[:, 0] = 1 - rows[:, 0]
    assert (generator.class_of[generator.votes(rows)[:, 0]] == rows[:, 0].numpy()).all()


def test_a_vote_hangs_on_its_image_alone(generator: SimPeGenerator) -> None:
    rows = images(generator, 33)
    together = generator.votes(rows)
    alone = np.concatenate([generator.votes(row[None]) for row in rows])
    backwards = generator.votes(rows.flip(0))[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_a_patient_s_vote_is_as_long_as_the_bound_at_most(generator: SimPeGenerator) -> None:
    rows = images(generator, 6).view(2, 3, -1)
    weight = torch.tensor([[1 / 3] * 3, [1.0, 0, 0]])
    total = patient_sum(generator, 2.5)(rows, weight)
    assert total.sum() == pytest.approx(2 * 2.5)
    one = patient_sum(generator, 2.5)(rows[:1], weight[:1])
    assert np.linalg.norm(one) <= 2.5 + 1e-12


def test_canaries_vote_through_the_same_code(generator: SimPeGenerator) -> None:
    included = np.array([True, False, True, True])
    found = canaries_in_step(generator, included, 3, 2.5, 1.0)
    np.testing.assert_allclose(found, 2.5 * included)


@pytest.mark.parametrize("state", [[], [1.0] * 41, [float("nan")] * 80, [float("inf")] * 80])
def test_a_state_that_is_none_is_refused(generator: SimPeGenerator, state: list[float]) -> None:
    with pytest.raises(ValueError, match="finite features"):
        generator.load_state(np.array(state, np.float32))


def test_features_of_another_length_are_refused_before_a_record_is_touched(
    generator: SimPeGenerator,
) -> None:
    """What fails on records alone would tell, at no cost, whether a batch has any."""
    before = generator.state()
    for width in (1, 3, len(before) // generator.sum_size + 1):
        with pytest.raises(ValueError, match="finite features"):
            generator.load_state(np.zeros(width * generator.sum_size, np.float32))
    generator.load_state(np.full(len(before), np.finfo(np.float32).max))
    generator.votes(images(generator, 2))
    generator.load_state(before)


def test_chosen_phantoms_of_all_classes_are_mixed(generator: SimPeGenerator) -> None:
    """One of each class was chosen: half of a child's mates are the other class's."""
    before = generator.module.weight.clone()
    chosen = np.array([int(np.flatnonzero(generator.class_of == number)[0]) for number in (0, 1)])
    weight = np.zeros(generator.sum_size)
    weight[chosen] = 1
    generator.keep(generator.scenes, weight)
    crossed: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        true = type(generator.prior).mutated
        patch.setattr(
            type(generator.prior),
            "mutated",
            lambda *args, **more: crossed.append(args[1]) or true(*args, **more),
        )
        generator.images_for(torch.tensor([[1, 0]] * 300), torch.Generator().manual_seed(3))
    (children,), (other, own) = crossed, generator.scenes[chosen].unit
    assert (children.kind == generator.kinds[1]).all()
    assert ((children.unit == own) | (children.unit == other)).all()
    from_other = (children.unit == other).mean(1)
    share = generator.settings.crossed_share
    assert from_other[from_other > 0.1].mean() == pytest.approx(share, abs=0.05)
    assert (from_other > 0.1).mean() == pytest.approx(0.5, abs=0.1)
    generator.keep(generator.scenes, before.numpy())


def test_more_votes_more_children(
    generator: SimPeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmixed = generator.settings.model_copy(update={"crossed_share": 0.0})
    monkeypatch.setattr(generator, "settings", unmixed)
    weight = np.zeros(generator.sum_size)
    chosen = [int(np.flatnonzero(generator.class_of == number)[3]) for number in (0, 1)]
    weight[chosen] = 1
    before = generator.module.weight.clone()
    generator.keep(generator.scenes, weight)
    codes = torch.tensor([[0, 0], [1, 0]] * 10)
    rows, masks = generator.images_for(codes, torch.Generator().manual_seed(2))
    assert rows[:, 0].equal(codes[:, 0])
    assert ((masks > 0).any((1, 2)) == (rows[:, 0].numpy() == 1)).all()
    others = generator.render(generator.scenes)[chosen].reshape(2, -1).astype(float)
    pixels = rows[:, 2:].numpy().astype(float)
    own = np.abs(pixels - others[rows[:, 0]]).mean(1)
    strange = np.abs(pixels - others[1 - rows[:, 0]]).mean(1)
    assert (own < strange).mean() > 0.9
    generator.keep(generator.scenes, before.numpy())
