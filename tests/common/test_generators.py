"""What every generator must do; a new entry of TABLE_GENERATORS is picked up here."""

import numpy as np
import pytest
import torch

from pratique_common.errors import InvalidFileError
from pratique_common.generators import TABLE_GENERATORS
from pratique_common.generators.base import CountedGenerator, GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import trainable
from pratique_common.study import StudySpec
from tests.conftest import rounds_of, small_study


def study_of(name: str) -> StudySpec:
    return small_study(generator={"name": name}, training={"rounds": rounds_of(name)})


TRAINED = [
    name
    for name in sorted(TABLE_GENERATORS)
    if isinstance(build_generator(study_of(name)), GradientGenerator)
]
"""The others are fitted: tests/server/test_pairwise_fit.py, test_simple_fits.py."""

LIKELY = {"autoregressive": (60, 0.95), "diffusion": (200, 0.9), "vae": (300, 0.9)}
"""Generators whose loss alone trains them: steps, and how often a law of the data then holds. The
adversarial one also needs a coordinator: tests/server/test_adversarial_fit.py."""


@pytest.fixture(params=sorted(TABLE_GENERATORS))
def study(request: pytest.FixtureRequest) -> StudySpec:
    return study_of(str(request.param))


def _codes(study: StudySpec, patients: int, rows: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.stack(
        [torch.randint(0, c.num_levels, (patients, rows), generator=rng)
         for c in study.data.columns], dim=-1,
    )  # fmt: skip


def test_the_initial_state_follows_from_the_study_alone(study: StudySpec) -> None:
    first, second = (build_generator(study).state() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = build_generator(study.model_copy(update={"name": "another"}))
    random = isinstance(other, GradientGenerator)  # the others start without any weight
    assert (other.state() != first).any() == random


def test_a_generator_is_trained_or_fitted_or_needs_histograms_alone(study: StudySpec) -> None:
    generator = build_generator(study)
    kinds = (
        isinstance(generator, GradientGenerator),
        isinstance(generator, CountedGenerator),
        generator.sum_size == 0,
    )
    assert sum(kinds) == 1


def test_rounds_must_fit_the_generator(study: StudySpec) -> None:
    rounds = 0 if build_generator(study).sum_size else 3
    wrong = study.model_copy(
        update={"training": study.training.model_copy(update={"rounds": rounds})}
    )
    with pytest.raises(InvalidFileError, match=r"training\.rounds"):
        build_generator(wrong)


@pytest.mark.parametrize("name", TRAINED)
def test_one_loss_a_patient(name: str) -> None:
    study = study_of(name)
    generator = build_generator(study)
    assert isinstance(generator, GradientGenerator)
    codes = _codes(study, 6, 2)
    others = _codes(study, 6, 2).flip(0)
    others[2] = codes[2]
    losses = []
    for batch in (codes, others):
        torch.manual_seed(0)  # a loss may draw
        losses.append(generator.loss(batch, torch.full((6, 2), 0.5)))
    assert losses[0].shape == (6,)
    assert torch.isfinite(losses[0]).all()
    assert losses[0][2].item() == pytest.approx(losses[1][2].item(), rel=1e-5)
    assert losses[0][1].item() != losses[1][1].item()


@pytest.mark.parametrize("name", TRAINED)
def test_a_site_with_the_state_computes_the_coordinators_loss(name: str) -> None:
    """Marginals reach a site only within the state."""
    study = study_of(name)
    coordinator, site = build_generator(study), build_generator(study)
    rng = np.random.default_rng(1)
    coordinator.set_marginals([rng.dirichlet(np.ones(c.num_levels)) for c in study.data.columns])
    site.load_state(coordinator.state())
    codes, losses = _codes(study, 50, 1), []
    for generator in (coordinator, site):
        assert isinstance(generator, GradientGenerator)
        torch.manual_seed(0)
        losses.append(generator.loss(codes, torch.ones(50, 1)).detach().numpy())
    np.testing.assert_array_equal(*losses)


def test_noise_that_is_no_distribution_is_refused() -> None:
    generator = build_generator(study_of("diffusion"))
    state, size = generator.state(), generator.sum_size
    for wrong in (state[:-1], state[:size], np.append(state, np.float32(0))):
        with pytest.raises(ValueError, match="expected"):
            generator.load_state(wrong)
    for value in (-0.5, 2.0, np.nan, np.inf):
        changed = state.copy()
        changed[size] = value
        with pytest.raises(ValueError, match="expected"):
            generator.load_state(changed)


def test_samples_stay_in_the_domain_and_repeat_with_the_seed(study: StudySpec) -> None:
    generator = build_generator(study)
    drawn = [generator.sample(500, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert drawn[0].shape == (500, len(study.data.columns))
    for d, column in enumerate(study.data.columns):
        assert drawn[0][:, d].min() >= 0
        assert drawn[0][:, d].max() < column.num_levels
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_marginals_set_the_start(study: StudySpec) -> None:
    generator = build_generator(study)
    rng = np.random.default_rng(1)
    wanted = [rng.dirichlet(np.ones(c.num_levels)) for c in study.data.columns]
    generator.set_marginals(wanted)
    drawn = generator.sample(20_000, torch.Generator().manual_seed(3)).numpy()
    for d, marginal in enumerate(wanted):
        found = np.bincount(drawn[:, d], minlength=len(marginal)) / len(drawn)
        assert 0.5 * np.abs(found - marginal).sum() < 0.15


@pytest.mark.parametrize("name", sorted(LIKELY))
def test_training_learns_a_dependence(name: str) -> None:
    """Without noise: after some steps the target depends on age as in the data, no longer 0."""
    steps, least = LIKELY[name]
    torch.manual_seed(0)
    generator = build_generator(study_of(name))
    assert isinstance(generator, GradientGenerator)
    rng = np.random.default_rng(2)
    age = rng.integers(0, 8, 2_000)
    codes = np.stack([age, rng.integers(0, 4, 2_000), (age >= 4).astype(int)], axis=1)
    batch = torch.from_numpy(codes)[:, None, :]
    optimizer = torch.optim.Adam(
        trainable(generator.module), lr=0.05 if name == "autoregressive" else 0.01
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = generator.loss(batch, torch.ones(2_000, 1)).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    drawn = generator.sample(4_000, torch.Generator().manual_seed(4)).numpy()
    assert ((drawn[:, 0] >= 4) == (drawn[:, 2] == 1)).mean() > least


def test_states_make_the_round_trip_and_wrong_ones_are_refused(study: StudySpec) -> None:
    generator = build_generator(study)
    other = build_generator(study.model_copy(update={"name": "another"}))
    rng = np.random.default_rng(1)
    other.set_marginals([rng.dirichlet(np.ones(c.num_levels)) for c in study.data.columns])
    vector = other.state()
    assert (vector != generator.state()).any()
    generator.load_state(vector)
    np.testing.assert_array_equal(generator.state(), vector)
    for wrong in (vector[:-1], np.full_like(vector, np.inf), np.full_like(vector, np.nan)):
        with pytest.raises(ValueError, match="expected"):
            generator.load_state(wrong)
    np.testing.assert_array_equal(generator.state(), vector)


@pytest.mark.parametrize(
    "generator", [{"name": "magic"}, {"depth": 3}, {"name": "autoregressive", "hidden_units": 1}]
)
def test_unknown_generators_and_settings_are_invalid_files(generator: dict[str, object]) -> None:
    with pytest.raises(InvalidFileError, match=r"study\.toml: generator"):
        build_generator(small_study(generator=generator), source="study.toml")
