"""The tree and the copula, fitted to sums of clipped statistics."""

import numpy as np
import pytest
import torch

from pratique_common.encoding import IntArray
from pratique_common.generators.base import CountedGenerator
from pratique_common.generators.build import build_generator
from pratique_common.study import StudySpec
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.strategy import strategy_of
from tests.conftest import small_study

PATIENTS = 20_000
LEVELS = (8, 4, 2)


def _study(name: str) -> StudySpec:
    return small_study(generator={"name": name})


def _codes(rng: np.random.Generator) -> IntArray:
    """A chain: the marker follows age, the disease follows the marker."""
    age = rng.choice(8, PATIENTS, p=np.arange(8, 0, -1) / 36)
    marker = np.where(rng.random(PATIENTS) < 0.8, age // 2, rng.integers(0, 4, PATIENTS))
    disease = (rng.random(PATIENTS) < 0.1 + 0.25 * marker).astype(int)
    return np.stack([age, marker, disease], axis=1)


def _sampled(name: str, codes: IntArray, *, noise: float) -> IntArray:
    study, rng = _study(name), np.random.default_rng(0)
    generator = build_generator(study)
    assert isinstance(generator, CountedGenerator)
    shares = [np.bincount(codes[:, d], minlength=n) / PATIENTS for d, n in enumerate(LEVELS)]
    generator.set_marginals(shares)
    strategy = strategy_of(study, generator, patients=PATIENTS, errors=np.zeros(0))
    add_up = patient_sum(generator, study.training.max_grad_norm)
    exact = add_up(torch.from_numpy(codes[:, None]), torch.ones(len(codes), 1))
    strategy.update(exact + rng.normal(0, noise, exact.size), noise)
    strategy.finish()
    return np.asarray(generator.sample(100_000, torch.Generator().manual_seed(1)).numpy())


def _distance(first: IntArray, second: IntArray, a: int, b: int) -> float:
    tables = [
        np.bincount(rows[:, a] * LEVELS[b] + rows[:, b], minlength=LEVELS[a] * LEVELS[b])
        / len(rows)
        for rows in (first, second)
    ]
    return 0.5 * float(np.abs(tables[0] - tables[1]).sum())


def test_a_tree_learns_a_chain_and_what_follows_from_it() -> None:
    codes = _codes(np.random.default_rng(1))
    drawn = _sampled("tree", codes, noise=1e-3)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert _distance(codes, drawn, a, b) < 0.08
    rng = np.random.default_rng(2)
    shuffled = np.stack([rng.permutation(column) for column in codes.T], axis=1)
    assert _distance(codes, shuffled, 0, 1) > 0.3  # what independent columns would have


def test_a_copula_learns_monotone_dependences() -> None:
    codes = _codes(np.random.default_rng(1))
    drawn = _sampled("copula", codes, noise=1e-3)
    for a, b in ((0, 1), (1, 2)):
        real, synthetic = (np.corrcoef(rows[:, a], rows[:, b])[0, 1] for rows in (codes, drawn))
        assert synthetic == pytest.approx(real, abs=0.12)
        assert real > 0.5


@pytest.mark.parametrize("name", ["tree", "copula"])
def test_where_all_is_noise_columns_are_independent(name: str) -> None:
    codes = _codes(np.random.default_rng(1))
    drawn = _sampled(name, codes, noise=1e5)
    correlation = np.corrcoef(drawn.T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.6
    for d, levels in enumerate(LEVELS):
        shares = [np.bincount(rows[:, d], minlength=levels) / len(rows) for rows in (codes, drawn)]
        assert 0.5 * np.abs(shares[0] - shares[1]).sum() < 0.02
