"""Diversity: how alike two images of one class are.

A generator that collapsed draws the same image again and again; two of them then have a higher
multi-scale similarity than two real ones (Odena, Olah & Shlens, ICML 2017, section 4.2).

Shapes: P pairs.
"""

import numpy as np
from numpy.typing import NDArray

from pratique_server.evaluation.images.image_usefulness import Labelled
from pratique_server.evaluation.images.similarity import ms_ssim
from pratique_server.evaluation.rows import RESAMPLES

Float64Array = NDArray[np.float64]

PAIRS = 200
"""Of each class. Similarities have deviations of about .1, so their mean has one of .007."""

_BLOCK = 32  # pairs at a time


def similarity_within_classes(
    images: Labelled, rng: np.random.Generator
) -> tuple[float, list[float]]:
    """Return the mean MS-SSIM of two images of one class, and the same on resamples of patients.

    A pair is of two patients; classes count the same, those with one patient not at all.
    """
    pairs_P2, class_P = _pairs(images, rng)
    if not len(pairs_P2):
        return float("nan"), []
    first, second = pairs_P2.T
    similarity_P = np.concatenate(
        [
            ms_ssim(images.pixels[first[part]], images.pixels[second[part]])
            for part in np.array_split(np.arange(len(first)), -(-len(first) // _BLOCK))
        ]
    )

    def mean(weight_N: Float64Array) -> float:
        weight_P = weight_N[first] * weight_N[second]
        total = np.bincount(class_P, weight_P, images.num_classes)
        of_class = np.bincount(class_P, weight_P * similarity_P, images.num_classes)
        known = total > 0
        return float(np.mean(of_class[known] / total[known])) if known.any() else float("nan")

    rows = images.rows
    return mean(rows.weight), [mean(rows.resampled(rng)) for _ in range(RESAMPLES)]


def _pairs(
    images: Labelled, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of each pair, (P, 2), and its class, (P,)."""
    pairs, classes = [], []
    for number in range(images.num_classes):
        rows = np.flatnonzero(images.label == number)
        if len(rows) < 2:
            continue
        drawn = rng.choice(rows, (PAIRS, 2))
        drawn = drawn[images.rows.owner[drawn[:, 0]] != images.rows.owner[drawn[:, 1]]]
        pairs.append(drawn)
        classes.append(np.full(len(drawn), number))
    if not pairs:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    return np.concatenate(pairs).astype(np.int64), np.concatenate(classes).astype(np.int64)
