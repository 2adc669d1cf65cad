"""What the histogram round tells: marginals, and heaps inside bins."""

import numpy as np
import pytest

from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins, sub_edges
from pratique_privacy.post_processing.heaps import heap_threshold, with_heaps
from pratique_privacy.post_processing.one_way import OneWay, smoothed
from tests.conftest import small_study

STUDY = small_study()
WORK: dict[str, object] = {
    "kind": "table",
    "columns": [
        {"name": "hours", "type": "numeric", "lower": 0, "upper": 96, "bins": 6, "integer": True},
        {"name": "weight", "type": "numeric", "lower": 40, "upper": 140, "bins": 5, "decimals": 1},
    ],
}


def _marginals(counts: list[list[float]]) -> list[np.ndarray]:  # type: ignore[type-arg]
    total = np.concatenate([np.array(c, float) for c in counts])
    return OneWay.of(STUDY, total, [1.0]).marginals


def test_marginals_follow_the_counts() -> None:
    age, marker = [100.0] * 8, [300.0, 200.0, 200.0, 100.0]
    found = _marginals([age, marker, [745, 55]])
    np.testing.assert_allclose(found[0], np.full(8, 1 / 8), atol=1e-3)
    np.testing.assert_allclose(found[2], [745 / 800, 55 / 800], atol=1e-3)
    noisy = _marginals([age, marker, [815, -15]])
    np.testing.assert_allclose(noisy[2], [1.0, 0.0], atol=1e-3)
    assert all(m.sum() == pytest.approx(1) and (m >= 0).all() for m in noisy)
    assert (smoothed(noisy[2], STUDY) > 0).all()


def test_marginals_of_pure_noise_are_still_distributions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        for marginal in OneWay.of(STUDY, rng.normal(0, 1e3, 14), [1e3]).marginals:
            assert marginal.sum() == pytest.approx(1)
            assert (marginal >= 0).all()


def _within(study: StudySpec, columns: dict[str, np.ndarray], noise: float) -> OneWay:  # type: ignore[type-arg]
    """Return what a round tells of rows, at this noise a count."""
    rng = np.random.default_rng(5)
    ones = np.ones(len(columns["hours"]))
    levels = [
        np.histogram(columns[c.name], c.bin_edges())[0]  # type: ignore[union-attr]
        for c in study.data.columns
    ]
    exact = np.concatenate([*levels, SubBins(study.data.columns).count(columns, ones)])
    return OneWay.of(study, exact + rng.normal(0, noise, exact.size), [noise, noise])


def test_heaps_are_found_and_noise_makes_none() -> None:
    """Half work 40 hours; of the others nothing stands out, and 100 patients of noise add none."""
    study, rng = small_study(data=WORK), np.random.default_rng(3)
    rows = 30_000
    hours = np.where(rng.random(rows) < 0.5, 40, rng.integers(0, 97, rows)).astype(float)
    columns = {"hours": hours, "weight": rng.uniform(40, 140, rows)}
    finer = SubBins(study.data.columns)
    told = _within(study, columns, noise=100.0)
    assert told.patients == pytest.approx(rows, rel=0.05)
    assert told.within is not None
    by_bin = finer.by_bin(told.within)
    for bins in by_bin.values():
        for shares in bins:
            assert shares.sum() == pytest.approx(1, abs=1e-5)
            assert (shares >= 0).all()
    heap = by_bin["hours"][2]  # 32 to 47
    assert heap[8] == pytest.approx(
        (hours == 40).sum() / ((hours >= 32) & (hours < 48)).sum(), abs=0.05
    )
    assert (np.delete(heap, 8) < 0.05).all()
    smooth = _within(study, columns, noise=1e6).within  # nothing can be seen: the curve is left
    assert smooth is not None
    widths = {c.name: [np.diff(edges) for edges in sub_edges(c)] for c in finer.columns}
    dense = {
        when: {name: [each / width for each, width in zip(bins, widths[name], strict=True)]
               for name, bins in finer.by_bin(vector).items()}
        for when, vector in {"told": told.within, "smooth": smooth}.items()
    }  # fmt: skip
    flat = [*dense["told"]["hours"][:2], *dense["told"]["hours"][3:], *dense["told"]["weight"]]
    assert np.mean([shares.max() / shares.mean() for shares in flat]) < 1.5
    for bins in dense["smooth"].values():
        assert all(
            np.diff(np.diff(np.log(shares.clip(min=1e-9)))).max() < 1 for shares in bins[1:-1]
        )


def test_the_threshold_follows_how_much_heaps() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, 500)
    assert 4 < heap_threshold(noise) < 5  # one false heap in 15,000 halvings or fewer
    some, many = noise.copy(), noise.copy()
    some[:10] *= 30
    many[:200] *= 30
    assert 2 < heap_threshold(many) < heap_threshold(some) < heap_threshold(noise)
    assert np.isfinite(heap_threshold(np.array([1e6])))


def test_shares_stay_shares_whatever_the_curve() -> None:
    rng = np.random.default_rng(9)
    for _ in range(300):
        size = int(rng.integers(1, 33))
        smooth = rng.dirichlet(np.full(size, 0.5))
        if size > 1:
            smooth[size // 2 :] *= 10.0 ** -rng.integers(0, 25)
        counts = smooth * 1e4 + rng.normal(0, 10, size)
        (shares,) = with_heaps([smooth / smooth.sum()], [counts], np.array([1e4]), 10.0)
        assert ((shares >= 0) & (shares <= 1)).all()
        assert shares.sum() == pytest.approx(1)
