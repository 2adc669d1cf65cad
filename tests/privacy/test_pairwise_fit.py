import numpy as np
import pytest
import torch

from pratique_common.encoding import IntArray
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.study import StudySpec
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.one_way import OneWay, smoothed
from pratique_privacy.post_processing.pairwise_fit import PairwiseFit
from tests.conftest import small_study

STUDY = small_study()
LEVELS = [column.num_levels for column in STUDY.data.columns]
PATIENTS = 5_000


def _codes(rng: np.random.Generator) -> IntArray:
    """The target is likelier with age, the marker's last bin with the target: no deterministic."""
    age = rng.choice(8, PATIENTS, p=np.arange(8, 0, -1) / 36)
    disease = (rng.random(PATIENTS) < 0.05 + 0.1 * age).astype(int)
    marker = np.where(rng.random(PATIENTS) < 0.6, 3 * disease, rng.integers(0, 4, PATIENTS))
    return np.stack([age, marker, disease], axis=1)


def _fitted(codes: IntArray, *, noise: float, rounds: int = 1, seed: int = 0) -> PairwiseGenerator:
    """Fit as a coordinator does; ``noise`` is a multiplier, of histograms and rounds alike."""
    rng = np.random.default_rng(seed)
    generator = build_generator(STUDY)
    assert isinstance(generator, PairwiseGenerator)
    counts = [np.bincount(codes[:, d], minlength=n) for d, n in enumerate(LEVELS)]
    deviation = max(noise, 1e-3) * 3**0.5
    total = np.concatenate(counts) + rng.normal(0, deviation, sum(LEVELS))
    one_way = OneWay.of(STUDY, total, [deviation])
    generator.set_marginals([smoothed(m, STUDY) for m in one_way.marginals])
    fit = PairwiseFit(STUDY, generator, patients=one_way.patients, errors=one_way.errors)
    add_up = patient_sum(generator, STUDY.training.max_grad_norm)
    exact = add_up(torch.from_numpy(codes[:, None]), torch.ones(len(codes), 1))
    for _ in range(rounds):
        each = max(noise, 1e-3) * rounds**0.5
        fit.update(exact + rng.normal(0, each, exact.size), each)
    fit.finish()
    return generator


def _distance(codes: IntArray, generator: PairwiseGenerator, a: int, b: int) -> float:
    drawn = generator.sample(200_000, torch.Generator().manual_seed(9)).numpy()
    tables = [
        np.bincount(rows[:, a] * LEVELS[b] + rows[:, b], minlength=LEVELS[a] * LEVELS[b])
        / len(rows)
        for rows in (codes, drawn)
    ]
    return 0.5 * float(np.abs(tables[0] - tables[1]).sum())


def test_without_noise_all_two_way_marginals_are_learnt() -> None:
    codes = _codes(np.random.default_rng(1))
    generator = _fitted(codes, noise=0.0)
    independent = build_generator(STUDY)
    assert isinstance(independent, PairwiseGenerator)
    independent.set_marginals(
        [np.bincount(codes[:, d], minlength=n) / PATIENTS for d, n in enumerate(LEVELS)]
    )
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert _distance(codes, generator, a, b) < 0.012
    assert _distance(codes, independent, 0, 2) > 0.1


def test_noise_shrinks_towards_independence_and_not_into_nonsense() -> None:
    """At the noise of ε = 1 most is kept; at a hundred times it nothing but the marginals is."""
    codes = _codes(np.random.default_rng(1))
    assert _distance(codes, _fitted(codes, noise=4.0), 1, 2) < 0.04
    rng = np.random.default_rng(2)
    shuffled = np.stack([rng.permutation(codes[:, d]) for d in range(3)], axis=1)
    generator = _fitted(shuffled, noise=4.0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert _distance(shuffled, generator, a, b) < 0.03
    drowned = _fitted(codes, noise=400.0).module.weight.detach().abs().max().item()
    assert drowned < _fitted(codes, noise=4.0).module.weight.detach().abs().max().item()


def test_rounds_are_averaged() -> None:
    """Four rounds with twice the noise know as much as one; a lost one costs its share only."""
    codes = _codes(np.random.default_rng(1))
    one = [_distance(codes, _fitted(codes, noise=6.0, seed=s), 1, 2) for s in range(3)]
    four = [_distance(codes, _fitted(codes, noise=6.0, rounds=4, seed=s), 1, 2) for s in range(3)]
    assert np.mean(four) == pytest.approx(np.mean(one), abs=0.02)


def test_the_fit_can_be_repeated_and_follows_the_order() -> None:
    codes = _codes(np.random.default_rng(1))
    first, second = (_fitted(codes, noise=3.0).module for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    # The target comes first: nothing points at it.
    assert not first.weight[-2:].any()
    assert first.weight[:, -2:].any()


def test_ordered_levels_lend_each_other_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dependence that is smooth in age, smoothing over bins beats none, on average."""
    columns = [
        {"name": "age", "type": "numeric", "lower": 20, "upper": 100, "bins": 24},
        {"name": "marker", "type": "categorical", "categories": ["a"]},
        {"name": "disease", "type": "categorical", "categories": ["no", "yes"]},
    ]
    data = {"kind": "table", "target": "disease", "columns": columns}
    wide = small_study(data=data)
    rng = np.random.default_rng(3)
    age = rng.integers(0, 24, PATIENTS)
    disease = (rng.random(PATIENTS) < 0.1 + 0.03 * age).astype(int)
    codes = np.stack([age, np.zeros(PATIENTS, int), disease], axis=1)

    def mean_distance(own_share: float) -> float:
        monkeypatch.setattr("pratique_privacy.post_processing.pairwise_fit._OWN_SHARE", own_share)
        with monkeypatch.context() as patch:
            patch.setattr(f"{__name__}.STUDY", wide)
            patch.setattr(f"{__name__}.LEVELS", [24, 1, 2])
            return float(
                np.mean(
                    [_distance(codes, _fitted(codes, noise=15.0, seed=s), 0, 2) for s in range(4)]
                )
            )

    assert mean_distance(0.3) < 0.95 * mean_distance(1.0)


def test_a_sum_that_lacks_a_site_counts_only_while_there_is_no_fuller_one() -> None:
    generator = build_generator(STUDY)
    assert isinstance(generator, PairwiseGenerator)
    fit = PairwiseFit(STUDY, generator, patients=100.0, errors=np.ones(sum(LEVELS)))
    ones = np.ones(generator.sum_size)
    fit.update(3 * ones, 1.0, site_share=0.75)
    assert fit._totals.mean[0] == pytest.approx(4.0)
    fit.update(8 * ones, 1.0)
    fit.update(3 * ones, 1.0, site_share=0.75)
    fit.update(6 * ones, 1.0)
    assert fit._totals.mean[0] == pytest.approx(7.0)
    assert fit._totals.noise**-2 == pytest.approx(2.0)


def test_studies_of_sampled_rounds_are_scaled_back() -> None:
    """A Poisson rate of one half halves the sum and, relative to it, doubles the noise."""
    half: StudySpec = small_study(training={"sample_rate": 0.5})
    generator = build_generator(half)
    assert isinstance(generator, PairwiseGenerator)
    fit = PairwiseFit(half, generator, patients=100.0, errors=np.ones(1))
    fit.update(np.full(generator.sum_size, 3.0), 2.0)
    assert fit._totals.mean[0] == pytest.approx(6.0)
    assert fit._totals.noise == pytest.approx(4.0)
