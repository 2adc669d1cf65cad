import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_privacy import fixed_point
from pratique_privacy.fixed_point import FixedPoint, Section


def form(
    *, size: int = 50, sensitivity: float = 1.0, noise_multiplier: float = 2.0,
    largest: float = 1e4, num_sites: int = 1, num_shares: int = 1,
) -> FixedPoint:  # fmt: skip
    section = Section(
        size=size, sensitivity=sensitivity, noise_multiplier=noise_multiplier, largest=largest
    )
    return FixedPoint(sections=(section,), num_sites=num_sites, num_shares=num_shares)


forms = st.builds(
    form,
    size=st.sampled_from([1, 16, 200, 50_000]),
    sensitivity=st.floats(0.01, 100),
    noise_multiplier=st.floats(0.3, 50),
    largest=st.floats(1, 1e6),
    num_sites=st.integers(10, 100),
    num_shares=st.integers(1, 10),
)


@given(forms)
@settings(max_examples=200, deadline=None)
def test_noise_is_what_was_promised_for_the_rounded_sensitivity(f: FixedPoint) -> None:
    (section,), (step,) = f.sections, f.steps
    rounded = section.sensitivity / step + math.sqrt(section.size)  # in steps, worst case
    counted_on = math.sqrt(f.num_shares) * 2.0**f.log2_sigma
    assert counted_on / rounded == pytest.approx(section.noise_multiplier, rel=1e-9)
    # Rounding costs at most one part in 256 of noise.
    exact = section.noise_multiplier * section.sensitivity / math.sqrt(f.num_shares)
    assert 1 <= f.share_sigmas()[0] / exact <= 1.005


@given(f=forms, data=st.data())
@settings(max_examples=60, deadline=None)
def test_rounding_moves_neighbours_no_further_than_promised(
    f: FixedPoint, data: st.DataObject
) -> None:
    """Adding a patient at the sensitivity: the integers before noise, with cutting at work."""
    (section,), (step,) = f.sections, f.steps
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    base = rng.normal(0, section.largest, section.size)
    patient = rng.normal(size=section.size)
    patient *= section.sensitivity / np.linalg.norm(patient)
    silent = [_whole(f, total) for total in (base, base + patient)]
    distance = np.linalg.norm((silent[1] - silent[0]).astype(float))
    assert distance <= section.sensitivity / step + math.sqrt(section.size) + 1e-6


def _whole(f: FixedPoint, total: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    original = fixed_point.discrete_gaussian
    fixed_point.discrete_gaussian = lambda size, log2_sigma: np.zeros(size, np.int64)  # type: ignore[assignment]
    try:
        words = f.protect(total)
    finally:
        fixed_point.discrete_gaussian = original  # type: ignore[assignment]
    return words.view(f"<i{f.bits // 8}").astype(np.int64)


@given(forms)
@settings(max_examples=60, deadline=None)
def test_the_largest_sum_of_all_sites_cannot_overflow(f: FixedPoint) -> None:
    """Every site at the cut, in the same direction, and noise of 16 deviations from each."""
    huge = np.full(f.size, 1e30)
    cut = int(_whole(f, huge)[0])
    assert f.num_sites * (cut + 16 * 2**f.log2_sigma) < 2 ** (f.bits - 1)
    assert f.read(_ring_sum(f, [huge] * f.num_sites))[0] > 0
    assert f.read(_ring_sum(f, [-huge] * f.num_sites))[0] < 0


def _ring_sum(f: FixedPoint, totals: list[np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    words = np.zeros(f.size, f.word)
    for total in totals:
        words = words + _whole(f, total).astype(f.word)
    return words


def test_planned_sums_are_read_back_within_the_noise() -> None:
    f = form(size=2_000, num_sites=4, num_shares=3, noise_multiplier=1.5)
    rng = np.random.default_rng(1)
    totals = [rng.uniform(-1e4, 1e4, f.size) for _ in range(4)]
    words = np.zeros(f.size, f.word)
    for total in totals:
        words = words + f.protect(total)
    error = f.read(words) - np.sum(totals, axis=0)
    expected = f.share_sigmas()[0] * 2  # four shares
    assert abs(error.std() / expected - 1) < 0.1
    assert abs(error.mean()) < 5 * expected / math.sqrt(f.size)


def test_sections_have_noise_of_their_own() -> None:
    f = FixedPoint(
        sections=(
            Section(size=3_000, sensitivity=1.0, noise_multiplier=1.0, largest=100),
            Section(size=3_000, sensitivity=2.0, noise_multiplier=5.0, largest=100),
        )
    )
    read = f.read(f.protect(np.zeros(6_000)))
    assert abs(read[:3_000].std() - 1) < 0.1
    assert abs(read[3_000:].std() / 10 - 1) < 0.1


def test_short_words_are_used_where_they_suffice() -> None:
    assert form(size=50_000, noise_multiplier=1.5, largest=3_000, num_sites=4).bits == 32
    assert form(size=50_000, noise_multiplier=1.5, largest=3e6, num_sites=4).bits == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_shares": 0}, "noise shares"),
        ({"num_shares": 4, "num_sites": 3}, "noise shares"),
        ({"size": 0}, "coordinates"),
        ({"size": 10**9, "noise_multiplier": 1e6}, "too many"),
        ({"largest": 1e30}, "too large"),
    ],
)
def test_forms_that_cannot_hold_do_not_exist(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form(**change)  # type: ignore[arg-type]


def test_what_is_no_number_is_not_protected() -> None:
    f = form(size=2)
    for total in (np.array([0.0, np.nan]), np.array([np.inf, 0.0]), np.zeros(3)):
        with pytest.raises(ValueError, match="protected"):
            f.protect(total)
    with pytest.raises(ValueError, match="words"):
        f.read(np.zeros(3, f.word))
    with pytest.raises(ValueError, match="words"):
        f.read(np.zeros(2, np.float64))
