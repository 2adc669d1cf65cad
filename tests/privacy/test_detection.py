"""How many copied members a test sees: by the formula, and by trying it."""

import numpy as np
import pytest
from scipy import stats

from pratique_privacy.detection import limit_of_detection
from pratique_privacy.intervals import Positives, excess_p_value

ALPHA = 0.05 / 9


def exact(members: int, controls: int, *, of: tuple[int, int] = (4_000, 1_000)) -> Positives:
    return Positives(members=members, controls=controls, num_members=of[0], num_controls=of[1])


def test_with_noise_it_is_the_designs() -> None:
    # design/audit.md 6: 4,000/1,000 patients, σ 15 and 2.6, α = .05/24: 71 patients at 50 % power.
    counts = Positives(members=0, controls=0, num_members=4000, num_controls=1000,
                       sigma_members=15, sigma_controls=2.6)  # fmt: skip
    half = limit_of_detection(counts, alpha=0.05 / 24, power=0.5)
    nearly_always = limit_of_detection(counts, alpha=0.05 / 24, power=0.9)
    assert half is not None and nearly_always is not None
    assert abs(half - 71) <= 1
    assert nearly_always > 90


def test_where_chance_makes_nobody_positive_all_that_are_must_be_members() -> None:
    found = limit_of_detection(exact(0, 0), alpha=ALPHA, power=0.9)
    fewest = next(k for k in range(100) if stats.hypergeom.pmf(k, 5_000, k, 4_000) <= ALPHA)
    assert found == fewest == 24


@pytest.mark.parametrize("by_chance", [0.002, 0.01, 0.1])
def test_so_many_copies_are_found_nine_times_in_ten_and_fewer_less_often(by_chance: float) -> None:
    counts = exact(round(4_000 * by_chance), round(1_000 * by_chance))
    limit = limit_of_detection(counts, alpha=ALPHA, power=0.9)
    assert limit is not None
    rng = np.random.default_rng(0)

    def power(copies: int) -> float:
        found = [
            excess_p_value(
                exact(
                    copies + rng.binomial(4_000 - copies, by_chance),
                    rng.binomial(1_000, by_chance),
                )
            )
            for _ in range(1_500)
        ]
        return float(np.mean(np.array(found) <= ALPHA))

    assert power(limit) == pytest.approx(0.9, abs=0.04)
    assert power(round(0.8 * limit)) < 0.87


@pytest.mark.parametrize("sigma", [0.0, 500.0])
def test_none_if_not_even_all_members_would_do(sigma: float) -> None:
    counts = Positives(members=0, controls=0, num_members=30, num_controls=2,
                       sigma_members=sigma, sigma_controls=sigma)  # fmt: skip
    assert limit_of_detection(counts, alpha=1e-4, power=0.9) is None


def test_more_than_all_are_never_counted() -> None:
    """A hold-out of one proves something only if nearly all members are copied."""
    found = limit_of_detection(exact(0, 0, of=(3_000, 1)), alpha=ALPHA, power=0.9)
    assert found is not None
    assert 2_900 < found <= 3_000
