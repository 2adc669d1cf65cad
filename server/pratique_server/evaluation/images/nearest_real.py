"""Are synthetic images nearer to the images they were trained on than to others of the kind?

For each synthetic image the SSIM of the most similar image of as many training patients as
held-out ones. If nothing was copied, it could as well be the other way round: patients are told
apart by chance again and again, and what the difference then spreads by is its interval. A warning
and not an audit: what it does not see may be copied all the same.

Shapes: M synthetic images, N real ones, H x W pixels, C channels.
"""

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.spec import IMAGE
from pratique_server.evaluation.images.similarity import C1, C2, window_matrix
from pratique_server.evaluation.rows import Rows, with_interval

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

MOST = 400
"""Synthetic images, and real ones of each kind; of more, so many are taken at random."""

SIDE_PX = 32
"""Larger images are made smaller first: that of a copy stays one, and the search stays short."""

_RELABELLINGS = 200  # their deviation then has a relative error of 5 %


def nearest_difference(
    synthetic: Rows, members: Rows, holdout: Rows, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the mean of (nearest of members - nearest of hold-out) in SSIM, and its interval.

    The interval is 95 % of what chance alone gives around the value: without 0 in it, the images
    know their training patients. NaN where a table has no rows.
    """
    num = min(MOST, members.num_patients, holdout.num_patients)
    if num == 0 or not len(synthetic.owner):
        return with_interval(float("nan"), [])
    shown = rng.permutation(len(synthetic.owner))[:MOST]
    real = [_of_patients(rows, num, rng) for rows in (members, holdout)]
    pixels = np.concatenate([rows.columns[IMAGE] for rows in real])
    owner_N = np.concatenate([real[0].owner, num + real[1].owner])
    similarity_MN = ssim_matrix(synthetic.columns[IMAGE][shown], pixels)

    def difference(first_P: NDArray[np.bool_]) -> float:
        inside_N = first_P[owner_N]
        nearest = similarity_MN[:, inside_N].max(1) - similarity_MN[:, ~inside_N].max(1)
        return float(nearest.mean())

    is_member_P = np.arange(2 * num) < num
    chance = [difference(rng.permutation(is_member_P)) for _ in range(_RELABELLINGS)]
    return with_interval(difference(is_member_P), chance, least=-2.0, most=2.0)


def ssim_matrix(one_MHWC: UInt8Array, other_NHWC: UInt8Array) -> Float32Array:
    """Return the SSIM of every pair, (M, N), as in ``similarity``, at 32 to 63 pixels a side."""
    one, other = _small(one_MHWC), _small(other_NHWC)
    down, across = (window_matrix(side).astype(np.float32) for side in one.shape[2:])

    def local(planes: Float32Array) -> Float32Array:
        return np.asarray(down @ (planes @ across.T))

    mean_M, mean_N = local(one), local(other)
    spread_M, spread_N = (
        local(planes**2) - mean**2 for planes, mean in ((one, mean_M), (other, mean_N))
    )
    found = np.empty((len(one), len(other)), np.float32)
    for m in range(len(one)):
        means = mean_M[m] * mean_N
        joint = local(one[m] * other) - means
        contrast = (2 * joint + np.float32(C2)) / (spread_M[m] + spread_N + np.float32(C2))
        luminance = (2 * means + np.float32(C1)) / (mean_M[m] ** 2 + mean_N**2 + np.float32(C1))
        found[m] = (luminance * contrast).mean((1, 2, 3))
    return found


def _small(pixels_NHWC: UInt8Array) -> Float32Array:
    """Return planes (N, C, h, w), means of squares of pixels; what is over is left out."""
    num, height, width, channels = pixels_NHWC.shape
    step = max(1, min(height, width) // SIDE_PX)
    rows, columns = height // step, width // step
    whole = pixels_NHWC[:, : rows * step, : columns * step].reshape(
        num, rows, step, columns, step, channels
    )
    return np.ascontiguousarray(whole.mean((2, 4), dtype=np.float32).transpose(0, 3, 1, 2))


def _of_patients(rows: Rows, num: int, rng: np.random.Generator) -> Rows:
    """Return images of some patients: all, or so many of each that ``MOST`` remain."""
    order = rng.permutation(len(rows.owner))
    owner = rows.owner[order]
    counts = np.bincount(owner)
    rank = np.empty(len(owner), np.int64)
    rank[np.argsort(owner, kind="stable")] = np.arange(len(owner)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    few = order[rank < max(1, MOST // num)]
    inside = np.zeros(len(order), bool)
    inside[few] = True
    return rows.take(inside & np.isin(rows.owner, rng.permutation(rows.num_patients)[:num]))
