from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.generators.build import build_generator
from pratique_common.generators.pairs import ONE_WAY_WEIGHT, TARGET_SHARE, PairLayout
from pratique_privacy import pair_sums
from pratique_privacy.pair_sums import clipped_pair_sum, kept_share
from pratique_privacy.patient_sums import patient_sum, sampled_sum
from tests.conftest import small_study

LEVELS = (3, 5, 2, 4)


def _layout(**more: Any) -> PairLayout:
    columns = [
        {"name": f"c{d}", "type": "categorical", "categories": [str(k) for k in range(n)]}
        for d, n in enumerate(LEVELS)
    ]
    data: dict[str, Any] = {"kind": "table", "patient_id": "p", "max_rows_per_patient": 3,
                            "columns": columns, "target": "c2", **more}  # fmt: skip
    return PairLayout(small_study(data=data).data)


LAYOUT = _layout()
VISITS = _layout(visits={"order_by": "day", "fixed": ["c0"], "remembered": ["c1", "c3"]})


def _marginals(
    rng: np.random.Generator, concentration: float = 1.0, layout: PairLayout = LAYOUT
) -> np.ndarray[Any, Any]:
    return np.concatenate([rng.dirichlet(np.full(n, concentration)) for n in layout.num_levels])


def _batch(
    rng: np.random.Generator, patients: int, rows: int, layout: PairLayout = LAYOUT
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    levels = layout.num_levels
    codes = np.stack([rng.integers(0, n, (patients, rows)) for n in levels], axis=-1)
    count = rng.integers(1, rows + 1, (patients, 1))
    return codes, (np.arange(rows) < count) / count


def _statistics(
    codes_D: np.ndarray[Any, Any], p_C: np.ndarray[Any, Any], layout: PairLayout
) -> np.ndarray[Any, Any]:
    """By hand, one row: w (o - p) and the outer products of all measured pairs of columns."""
    centred = -p_C.copy()
    centred[layout.offsets[:-1] + codes_D] += 1
    parts = [centred[a:b] for a, b in zip(layout.offsets, layout.offsets[1:], strict=False)]
    matrix = np.zeros((len(p_C), len(p_C)))
    for a in range(len(parts)):
        for b in range(a + 1, len(parts)):
            if max(a, b) > 5 and (a, b) not in ((1, 6), (3, 7)):
                continue  # of the visit before: with its own column only
            rows = slice(layout.offsets[a], layout.offsets[a + 1])
            columns = slice(layout.offsets[b], layout.offsets[b + 1])
            matrix[rows, columns] = np.outer(parts[a], parts[b])
    return layout.join(ONE_WAY_WEIGHT * centred, matrix, layout.weights(p_C))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("concentration", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("layout", [LAYOUT, VISITS])
def test_equals_explicit_clipping_a_patient(
    rows: int, concentration: float, layout: PairLayout
) -> None:
    rng = np.random.default_rng(rows)
    p_C = _marginals(rng, concentration, layout)
    codes, weight = _batch(rng, 40, rows, layout)
    bound, expected, clipped = layout.bound(p_C), np.zeros(layout.size), 0
    for patient in range(40):
        vector = np.zeros(layout.size)
        for w, c in zip(weight[patient], codes[patient], strict=True):
            vector += w * _statistics(c, p_C, layout)
        norm = np.linalg.norm(vector)
        clipped += norm > bound
        expected += vector / max(norm, bound)
    assert clipped > 0
    np.testing.assert_allclose(clipped_pair_sum(layout, p_C, codes, weight), expected, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 3), kind=st.sampled_from("random ends one"))
def test_no_marginals_let_one_patient_count_for_more(seed: int, rows: int, kind: str) -> None:
    """Whatever a coordinator sends: removing one patient moves the sum by one at most."""
    rng = np.random.default_rng(seed)
    p_C = _marginals(rng, 0.1)
    if kind == "ends":
        p_C = rng.integers(0, 2, p_C.size).astype(float)  # no distributions at all
    elif kind == "one":
        p_C = np.concatenate([np.eye(n)[0] for n in LEVELS])
    codes, weight = _batch(rng, 12, rows)
    everybody = clipped_pair_sum(LAYOUT, p_C, codes, weight)
    assert np.isfinite(everybody).all()
    for patient in range(3):
        others = np.arange(12) != patient
        without = clipped_pair_sum(LAYOUT, p_C, codes[others], weight[others])
        assert np.linalg.norm(everybody - without) <= 1 + 1e-9


def test_rows_that_pad_mean_nothing_and_an_empty_batch_is_zero() -> None:
    rng = np.random.default_rng(5)
    p_C, (codes, weight) = _marginals(rng), _batch(rng, 10, 3)
    changed = np.where(weight[..., None] == 0, 0, codes)
    np.testing.assert_array_equal(
        clipped_pair_sum(LAYOUT, p_C, codes, weight),
        clipped_pair_sum(LAYOUT, p_C, changed, weight),
    )
    assert not clipped_pair_sum(LAYOUT, p_C, codes[:0], weight[:0]).any()


def test_vectors_split_into_a_symmetric_matrix_and_join_again() -> None:
    vector = np.random.default_rng(0).normal(size=LAYOUT.size)
    weights = np.array([1.0, 1.0, 3.0, 1.0])
    one_way, matrix = LAYOUT.split(vector, weights)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(LAYOUT.join(one_way, matrix, weights), vector)
    assert LAYOUT.size == sum(LEVELS) + 3 * 5 + 3 * 2 + 3 * 4 + 5 * 2 + 5 * 4 + 2 * 4


def _share_of_target(layout: PairLayout, p_C: np.ndarray[Any, Any]) -> float:
    """By hand: what pairs with column 2 have of the expected squared norm of all pairs."""
    spread = layout.weights(p_C) ** 2 * [1 - (p**2).sum() for p in layout.by_column(p_C)]
    pairs = {(a, b): spread[a] * spread[b] for a, b in layout.pairs}
    return float(sum(s for pair, s in pairs.items() if 2 in pair) / sum(pairs.values()))


@pytest.mark.parametrize("layout", [LAYOUT, VISITS])
def test_pairs_with_the_target_have_their_share_of_the_norm(layout: PairLayout) -> None:
    p_C = _marginals(np.random.default_rng(2), 5.0, layout)
    p_C[layout.offsets[2] : layout.offsets[3]] = 0.95, 0.05
    weights = layout.weights(p_C)
    assert weights[2] > 1
    assert (np.delete(weights, 2) == 1).all()
    assert _share_of_target(layout, p_C) == pytest.approx(TARGET_SHARE)
    p_C[layout.offsets[2] : layout.offsets[3]] = 1.0, 0.0  # nothing to learn: a bounded weight
    assert layout.weights(p_C)[2] <= 8
    no_target = _layout(target=None)
    assert (no_target.weights(p_C[: no_target.num_cells]) == 1).all()


def test_a_site_adds_up_what_its_generator_asks_for() -> None:
    study = small_study(training={"max_grad_norm": 2.5})
    generator = build_generator(study)
    codes = torch.stack(
        [torch.randint(0, c.num_levels, (60, 1)) for c in study.data.columns], dim=-1
    )
    add_up = patient_sum(generator, study.training.max_grad_norm)
    total = add_up(codes, torch.ones(60, 1))
    assert total.shape == (generator.sum_size,)
    one = add_up(codes[:1], torch.ones(1, 1))
    assert 0 < np.linalg.norm(one) <= 2.5 * (1 + 1e-9)
    every = sampled_sum(add_up, codes, torch.ones(60, 1), sample_rate=1.0)
    np.testing.assert_array_equal(every, total)
    assert not sampled_sum(add_up, codes, torch.ones(60, 1), sample_rate=1e-12).any()


def test_blocks_of_patients_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    codes, weight = _batch(rng, 50, 3)
    marginals = _marginals(rng)
    whole = clipped_pair_sum(LAYOUT, marginals, codes, weight)
    monkeypatch.setattr(pair_sums, "_BLOCK_ROWS", 21)
    blocks = clipped_pair_sum(LAYOUT, marginals, codes, weight)
    np.testing.assert_allclose(blocks, whole, atol=1e-12)


class _Wide(PairLayout):
    """The layout with a bound that nothing reaches."""

    def __init__(self) -> None:
        self.__dict__.update(LAYOUT.__dict__)

    def bound(self, marginals_C: np.ndarray[Any, Any]) -> float:
        return 1e6


def test_what_clipping_leaves_of_independent_columns() -> None:
    rng = np.random.default_rng(4)
    marginals = _marginals(rng)
    codes = np.stack([rng.choice(len(p), 2_000, p=p) for p in LAYOUT.by_column(marginals)], axis=1)
    norms = [
        1e6 * np.linalg.norm(clipped_pair_sum(_Wide(), marginals, row[None, None], np.ones((1, 1))))
        for row in codes
    ]
    kept = np.minimum(1, LAYOUT.bound(marginals) / np.array(norms))
    assert 0.5 < kept.mean() < 0.99
    assert kept_share(LAYOUT, marginals) == pytest.approx(kept.mean(), abs=0.02)
