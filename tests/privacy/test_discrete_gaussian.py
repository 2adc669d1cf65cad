import multiprocessing
import random

import numpy as np
import pytest
import torch
from scipy import stats

from pratique_privacy import discrete_gaussian as module
from pratique_privacy.discrete_gaussian import MAX_LOG2_SIGMA, discrete_gaussian


@pytest.mark.parametrize("log2_sigma", [0, 1, 3, 5])
def test_every_integer_has_its_stated_probability(log2_sigma: int) -> None:
    """χ² against exp(-x² / 2σ²), cell by cell, with a check that a wrong σ would be seen."""
    sigma = 2.0**log2_sigma
    draws = discrete_gaussian(200_000, log2_sigma)
    reach = int(5 * sigma) + 1
    support = np.arange(-reach, reach + 1)
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=len(support))

    def p_value(assumed: float) -> float:
        weights = np.exp(-(support.astype(float) ** 2) / (2 * assumed**2))
        expected = len(draws) * weights / weights.sum()
        often = expected >= 8
        statistic = ((observed[often] - expected[often]) ** 2 / expected[often]).sum()
        return float(stats.chi2.sf(statistic, often.sum() - 1))

    assert p_value(sigma) > 1e-6
    assert p_value(1.03 * sigma) < 1e-6


@pytest.mark.parametrize("log2_sigma", [8, 16, MAX_LOG2_SIGMA])
def test_wide_draws_follow_the_normal_curve(log2_sigma: int) -> None:
    draws = discrete_gaussian(100_000, log2_sigma)
    standard = draws / 2.0**log2_sigma
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, draws.size) / 2.0**log2_sigma
    assert stats.kstest(standard + jitter, "norm").pvalue > 1e-6
    assert abs(standard.std() - 1) < 0.02
    assert abs((standard**4).mean() - 3) < 0.25
    low_bits = np.bincount(draws & 15, minlength=16)
    assert stats.chisquare(low_bits).pvalue > 1e-6  # no pattern that rounding a float would leave
    assert abs(np.corrcoef(standard[1:], standard[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize(("numerator", "log2_denominator"), [(0, 3), (3, 3), (8, 3), (21, 3)])
def test_bernoulli_exp_has_its_probability(numerator: int, log2_denominator: int) -> None:
    size = 100_000
    successes = module._bernoulli_exp(np.full(size, numerator, np.uint64), log2_denominator).sum()
    expected = np.exp(-numerator / 2**log2_denominator)
    assert abs(successes / size - expected) < 5 * np.sqrt(expected * (1 - expected) / size) + 1e-9


def test_one_in_k_is_exact_for_a_k_that_divides_no_power_of_two() -> None:
    assert abs(module._one_in(3, 90_000).mean() - 1 / 3) < 0.01


@pytest.mark.parametrize("log2_sigma", [-1, MAX_LOG2_SIGMA + 1])
def test_widths_that_would_overflow_are_refused(log2_sigma: int) -> None:
    with pytest.raises(ValueError, match="log2_sigma"):
        discrete_gaussian(1, log2_sigma)


def test_seeds_have_no_power_over_noise() -> None:
    def draw() -> list[int]:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return discrete_gaussian(4, 16).tolist()

    assert draw() != draw()


def _draw_in_child(queue: "multiprocessing.Queue[list[int]]") -> None:
    queue.put(discrete_gaussian(4, 16).tolist())


def test_forked_processes_never_share_noise() -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[int]] = context.Queue()
    children = [context.Process(target=_draw_in_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    drawn = [tuple(queue.get(timeout=30)) for _ in children]
    for child in children:
        child.join()
    assert len(set(drawn)) == 3
