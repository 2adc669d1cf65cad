"""Trust factors of a worked example, and a segmenter that learns what it is shown."""

import numpy as np
import pytest

from pratique_server.evaluation.images.segmenter import Segmenter, SegmenterTraining
from pratique_server.evaluation.images.trust_factors import dice, paired_factors, trust_factors

REAL = np.array([[0.8, 0.6, 0.4], [0.6, 0.8, 0.8]])
SYNTHETIC = np.array([[0.8, 0.6, 0.4], [0.6, 0.8, 0.4]])


def test_factors_by_hand() -> None:
    found = trust_factors(REAL)
    assert found.t1_regions == pytest.approx((0.7, 0.7, 0.6))
    assert found.t1 == pytest.approx(2 / 3)
    # Deviations over the two cases are .1, .1, .2.
    assert found.t2_over_cases == pytest.approx(1 - 0.4 / 3)
    # Means are off their mean by 1/30, 1/30, -2/30: variance 6/900/3.
    assert found.t2_over_regions == pytest.approx(1 - np.sqrt(6 / 2_700))
    assert found.t5 == pytest.approx((1 / 7 + 1 / 7 + 1 / 3) / 3)
    pairs = paired_factors(REAL, SYNTHETIC)
    assert pairs.t3 == pytest.approx(2.48 / np.sqrt(2.8 * 2.32))
    assert pairs.t4 == pytest.approx(0.4 / 6)
    same = paired_factors(REAL, REAL)
    assert (same.t3, same.t4) == (pytest.approx(1), 0)


def test_regions_that_a_case_lacks_count_nowhere() -> None:
    some = np.array([[0.8, np.nan, 0.4], [0.6, 0.8, 0.8]])
    assert trust_factors(some).t1_regions == pytest.approx((0.7, 0.8, 0.6))
    assert paired_factors(some, SYNTHETIC).t4 == pytest.approx(0.4 / 5)
    with pytest.raises(ValueError, match="in no case"):
        trust_factors(np.array([[0.5, np.nan, 0.5]]))
    with pytest.raises(ValueError, match="as many real as synthetic"):
        paired_factors(REAL, SYNTHETIC[:1])
    with pytest.raises(ValueError, match="in a pair"):
        paired_factors(np.full((1, 3), np.nan), REAL[:1])
    # Never found, T5 is not defined, and nothing else breaks.
    assert np.isnan(trust_factors(np.zeros((2, 3))).t5)


def test_dice_by_hand() -> None:
    mask, found = np.zeros((2, 2, 4, 4), np.uint8)
    mask[0, :2, :2] = 4
    found[0, :2, 1:3] = 4  # half of four pixels: 2 · 2 / (4 + 4)
    mask[1, 0] = 2
    found[1, 0], found[1, 3] = 2, 1
    scores = dice(found, mask)
    np.testing.assert_allclose(scores, [[0.5, np.nan, np.nan], [np.nan, 1, np.nan]])


def test_segmenter_finds_what_is_bright() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]

    def cases(num: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = rng.integers(4, 12, (2, num, 1, 1))
        from_centre = np.hypot(rows - y, columns - x)
        mask = np.where(from_centre < 2, 4, np.where(from_centre < 4, 2, 0)).astype(np.uint8)
        grey = np.select([mask == 4, mask == 2], [200, 120], 40) + rng.normal(0, 8, mask.shape)
        return grey.clip(0, 255).astype(np.uint8)[..., None], mask

    def fit(steps: int) -> Segmenter:
        training = SegmenterTraining(steps=steps, width=8)
        return Segmenter.fit(pixels, mask, (0, 2, 4), seed=1, training=training)

    pixels, mask = cases(60)
    other, truth = cases(20)
    found = fit(40).masks(other)
    assert set(np.unique(found)) == {0, 2, 4}
    assert np.nanmean(dice(found, truth)) > 0.8
    early = fit(1).masks(other)
    assert np.nanmean(dice(early, truth)) < 0.5
    np.testing.assert_array_equal(early, fit(1).masks(other))  # one seed, one network
