"""How near synthetic images are to the real ones that they stand for, one by one.

Only for pairs: a reconstruction, a translation from one contrast to another, a restoration. SSIM
and PSNR of images that have nothing to do with each other say nothing of their quality.

Shapes: N pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.spec import IMAGE
from pratique_server.evaluation.images.similarity import ms_ssim, psnr, squared_error, ssim
from pratique_server.evaluation.rows import Measure, Rows, bootstrap, with_interval

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST = 2_000
"""Pairs; of more, so many are taken at random."""

_BLOCK = 64  # pairs at a time


class _Score(NamedTuple):
    id: str
    title: str
    of_pairs: Callable[[UInt8Array, UInt8Array], Float64Array]
    of_mean: Callable[[float], float]
    limits: tuple[float, float]


_SCORES = (
    _Score("paired_ssim", "SSIM of each image and its original", ssim, float, (-1, 1)),
    _Score("paired_ms_ssim", "MS-SSIM of each image and its original", ms_ssim, float, (0, 1)),
    _Score(
        "paired_psnr",
        "PSNR of images beside their originals in dB, of the mean squared error",
        squared_error,
        psnr,
        (0, np.inf),
    ),
)


def paired_measures(
    synthetic: UInt8Array, originals: Rows, rng: np.random.Generator
) -> list[Measure]:
    """Return similarities of pairs; every patient counts once.

    Their floor is the same with the pairs broken: each image beside another patient's original.

    Args:
        synthetic: pixels, (N, H, W, C).
        originals: real rows, (N,): what the synthetic image in the same place stands for.
        rng: chooses among many.
    """
    chosen = rng.permutation(len(synthetic))[:MOST]
    made, real = synthetic[chosen], originals.columns[IMAGE][chosen]
    _, owner = np.unique(originals.owner[chosen], return_inverse=True)
    rows = Rows({}, owner.astype(np.int64), originals.weight[chosen])
    strangers = _strangers(rows.owner)
    return [_measure(score, made, real, rows, strangers, rng) for score in _SCORES]


def _measure(
    score: _Score,
    made: UInt8Array,
    real: UInt8Array,
    rows: Rows,
    strangers: IntArray | None,
    rng: np.random.Generator,
) -> Measure:
    def figure(score_N: Float64Array, weight_N: Float64Array) -> float:
        total = weight_N.sum()
        return score.of_mean(float(weight_N @ score_N / total)) if total else float("nan")

    found_N = _in_blocks(score, made, real)
    resamples = bootstrap(lambda weight_N: figure(found_N, weight_N), rows, rng)
    least, most = score.limits
    value, lower, upper = with_interval(
        figure(found_N, rows.weight), resamples, least=least, most=most
    )
    broken = None
    if strangers is not None:
        broken = figure(_in_blocks(score, made, real[strangers]), rows.weight)
    return Measure(
        id=score.id,
        title=score.title,
        value=value,
        lower=lower,
        upper=upper,
        baseline=broken,
        baseline_title="beside another patient's original",
    )


def _in_blocks(score: _Score, made: UInt8Array, real: UInt8Array) -> Float64Array:
    starts = range(0, len(made), _BLOCK)
    return np.concatenate(
        [score.of_pairs(made[i : i + _BLOCK], real[i : i + _BLOCK]) for i in starts]
    )


def _strangers(owner: IntArray) -> IntArray | None:
    """Return for each row the place of another patient's, each place once; None if none can be."""
    most = int(np.bincount(owner).max())
    if 2 * most > len(owner):
        return None
    order = np.argsort(owner, kind="stable")
    strangers = np.empty_like(order)
    strangers[order] = np.roll(order, most)
    return strangers
