import numpy as np

from pratique_privacy.sampling import poisson_sample


def test_poisson_sampling_is_independent_with_the_stated_rate() -> None:
    batches = np.array([poisson_sample(1_000, 0.3) for _ in range(200)])
    assert abs(batches.mean() - 0.3) < 0.01
    sizes = batches.sum(1)
    assert 0.5 < sizes.var() / (1_000 * 0.3 * 0.7) < 1.7  # binomial, not a fixed batch size
    assert not (batches[0] == batches[1]).all()
    assert poisson_sample(100, 1.0).all()
    assert poisson_sample(0, 0.5).size == 0
