import multiprocessing
import random

import numpy as np
import pytest
import torch
from scipy import stats

from pratique_privacy import noise


def test_gaussian_has_the_stated_distribution() -> None:
    draws = noise.gaussian(200_000, 3.0)
    assert stats.kstest(draws / 3.0, "norm").pvalue > 1e-6
    assert abs(draws.std() / 3.0 - 1) < 0.01


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.25, 12.0])
def test_discrete_gaussian_has_the_stated_distribution(sigma: float) -> None:
    draws = noise.discrete_gaussian(6_000, noise.representable_sigma(sigma))
    reach = int(4 * sigma) + 2
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
    expected = len(draws) * weights / weights.sum()
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=len(support))
    often = expected >= 8
    statistic = ((observed[often] - expected[often]) ** 2 / expected[often]).sum()
    assert stats.chi2.sf(statistic, often.sum() - 1) > 1e-6


def test_discrete_gaussian_refuses_a_sigma_off_its_grid() -> None:
    for sigma in (0.0, -1.0, 1 / 3):
        with pytest.raises(ValueError, match="sigma"):
            noise.discrete_gaussian(1, sigma)
    assert noise.representable_sigma(1 / 3) >= 1 / 3


def test_poisson_sampling_is_independent_with_the_stated_rate() -> None:
    batches = np.array([noise.poisson_sample(1_000, 0.3) for _ in range(200)])
    assert abs(batches.mean() - 0.3) < 0.01
    sizes = batches.sum(1)
    assert 0.5 < sizes.var() / (1_000 * 0.3 * 0.7) < 1.7  # binomial, not a fixed batch size
    assert not (batches[0] == batches[1]).all()
    assert noise.poisson_sample(100, 1.0).all()


def test_seeds_have_no_power_over_noise() -> None:
    def draw() -> list[float]:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return [*noise.gaussian(3, 1.0), *noise.discrete_gaussian(3, 64.0)]

    assert draw() != draw()


def _draw_in_child(queue: "multiprocessing.Queue[list[float]]") -> None:
    queue.put(noise.gaussian(4, 1.0).tolist())


def test_forked_processes_never_share_noise() -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[float]] = context.Queue()
    children = [context.Process(target=_draw_in_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    drawn = [tuple(queue.get(timeout=30)) for _ in children]
    for child in children:
        child.join()
    assert len(set(drawn)) == 3


def test_released_sums_lie_on_a_public_grid() -> None:
    total = np.array([0.0, 1.0, 1e6])
    released = noise.noised_on_grid(total, sigma=2.0)
    assert released.dtype == np.int64
    read = released * noise.grid_step(2.0)
    assert (np.abs(read - total) < 2.0 * 8).all()
