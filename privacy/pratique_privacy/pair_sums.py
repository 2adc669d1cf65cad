"""The clipped sum of patients' one- and two-way statistics: the sensitive half of a counted round.

Shapes: B patients, K rows a patient (padded), N rows, D columns, C = all levels, P =
``PairLayout.size``. A patient's statistics are the weighted mean of its rows'. Their norm has a
closed form, so that clipping is exact and no patient's vector is ever built.
"""

import numpy as np
from numpy.typing import NDArray

from pratique_common.generators.pairs import ONE_WAY_WEIGHT, PairLayout

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BLOCK_ROWS = 65_536  # memory stays flat in the number of patients


def clipped_pair_sum(
    layout: PairLayout,
    marginals_C: Float64Array,
    codes_BKD: IntArray,
    weight_BK: Float64Array,
) -> Float64Array:
    """Return Σ over patients of their statistics, over the bound and clipped to norm 1, (P,).

    The result is as sensitive as the records: add noise before anything else is done with it.

    Args:
        layout: of the study's schema.
        marginals_C: public; at these statistics are centred.
        codes_BKD: the batch; it may be empty, which gives zeros.
        weight_BK: weights of a patient's rows, summing to one; 0 for rows that pad, at the end.
    """
    counts_CC = np.zeros((layout.num_cells,) * 2)
    s_C, total = np.zeros(layout.num_cells), 0.0
    size = max(1, _BLOCK_ROWS // max(1, codes_BKD.shape[1]))
    for start in range(0, len(codes_BKD), size):
        block = slice(start, start + size)
        part_BKD = codes_BKD[block].astype(np.int64)
        norm_B = _norms(layout, marginals_C, part_BKD + layout.offsets[:-1], weight_BK[block])
        scaled_BK = weight_BK[block] / np.maximum(norm_B, layout.bound(marginals_C))[:, None]
        counted_BK = scaled_BK > 0
        weight_N, codes_ND = scaled_BK[counted_BK], part_BKD[counted_BK]
        counts_CC += _weighted_counts(layout, codes_ND, weight_N)
        levels = enumerate(layout.num_levels)
        s_C += np.concatenate([np.bincount(codes_ND[:, d], weight_N, num) for d, num in levels])
        total += weight_N.sum()
    # Σ w (o - p)(o - p)ᵀ = Σ w o oᵀ - s pᵀ - p sᵀ + p pᵀ Σ w with s = Σ w o.
    p_C = marginals_C
    centred_CC = counts_CC - np.outer(s_C, p_C) - np.outer(p_C, s_C) + total * np.outer(p_C, p_C)
    one_way_C = ONE_WAY_WEIGHT * (s_C - total * p_C)
    return layout.join(one_way_C, centred_CC, layout.weights(p_C))


def _weighted_counts(
    layout: PairLayout, codes_ND: IntArray, weight_N: Float64Array
) -> Float64Array:
    """Return weighted counts of levels that occur together, (C, C): blocks above the diagonal."""
    counts_CC = np.zeros((layout.num_cells,) * 2)
    levels, offsets = layout.num_levels, layout.offsets
    for a, b in layout.pairs:
        both = codes_ND[:, a] * levels[b] + codes_ND[:, b]
        block = np.bincount(both, weight_N, levels[a] * levels[b])
        rows, columns = slice(offsets[a], offsets[a + 1]), slice(offsets[b], offsets[b + 1])
        counts_CC[rows, columns] = block.reshape(levels[a], levels[b])
    return counts_CC


def _norms(
    layout: PairLayout, marginals_C: Float64Array, cells_BKD: IntArray, weight_BK: Float64Array
) -> Float64Array:
    """Return the norm of each patient's statistics, (B,).

    ‖Σ_k w_k φ(x_k)‖² = Σ_kl w_k w_l ⟨φ(x_k), φ(x_l)⟩. With s_a(k, l) = v_a² ⟨o_ka - p_a, o_la -
    p_a⟩ the inner product is u² Σ_a s_a + Σ_{a<b} s_a s_b, u the one-way weight, v the columns'
    weights, the last sum over the measured pairs.
    """
    weights_D = layout.weights(marginals_C)
    squares_D = np.array([(p**2).sum() for p in layout.by_column(marginals_C)])
    # Few patients have many rows: with those first, a pair of rows is a slice of patients.
    counts_B: IntArray = (weight_BK > 0).sum(axis=1, dtype=np.int64)
    most_first = np.argsort(-counts_B, kind="stable")
    counts_B, weight_BK = counts_B[most_first], weight_BK[most_first]
    cells_BKD = cells_BKD[most_first]
    squared_B = np.zeros(len(cells_BKD))
    for other in range(int(counts_B.max(initial=0))):
        here = slice(int(np.searchsorted(-counts_B, -other)))  # those with more rows than that
        p_BD = marginals_C[cells_BKD[here, other]]
        for k in range(other + 1):
            same_BD = cells_BKD[here, k] == cells_BKD[here, other]
            s_BD = same_BD - marginals_C[cells_BKD[here, k]] - p_BD + squares_D
            s_BD *= weights_D**2
            inner_B = ONE_WAY_WEIGHT**2 * s_BD.sum(1) + layout.over_pairs(s_BD)
            both_B = weight_BK[here, k] * weight_BK[here, other]
            squared_B[here] += (1 if k == other else 2) * both_B * inner_B
    norm_B = np.empty(len(cells_BKD))
    norm_B[most_first] = np.sqrt(squared_B.clip(min=0))
    return norm_B


def kept_share(layout: PairLayout, marginals_C: Float64Array, *, num_rows: int = 4_096) -> float:
    """Return what clipping leaves on average of a row with independent columns: 0 to 1.

    A function of public marginals: rows are simulated, with a fixed seed.
    """
    rng = np.random.default_rng(0)
    codes = [rng.choice(len(p), num_rows, p=p / p.sum()) for p in layout.by_column(marginals_C)]
    cells = np.stack(codes, axis=1)[:, None, :] + layout.offsets[:-1]
    norm = _norms(layout, marginals_C, cells, np.ones((num_rows, 1)))
    return float(np.mean(np.minimum(1.0, layout.bound(marginals_C) / np.maximum(norm, 1e-12))))
