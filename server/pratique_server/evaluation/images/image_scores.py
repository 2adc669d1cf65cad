"""How well chances of classes tell what images show, with weights: balanced accuracy and AUC.

Shapes: N images, K classes.
"""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]


def balanced_accuracy(label_N: IntArray, chance_NK: Float64Array, weight_N: Float64Array) -> float:
    """Return the mean over classes of the share that is named rightly; NaN for one class only."""
    total = np.bincount(label_N, weight_N, chance_NK.shape[1])
    right = np.bincount(
        label_N, weight_N * (chance_NK.argmax(1) == label_N), minlength=chance_NK.shape[1]
    )
    known = total > 0
    if known.sum() < 2:
        return float("nan")
    return float(np.mean(right[known] / total[known]))


def accuracy(label_N: IntArray, chance_NK: Float64Array, weight_N: Float64Array) -> float:
    """Return the share of images that is named rightly."""
    if weight_N.sum() <= 0:
        return float("nan")
    return float(np.average(chance_NK.argmax(1) == label_N, weights=weight_N))


class MacroAuc:
    """Mean over classes of the AUC of one class against all others (one-vs-rest).

    Ranks are taken once, then each set of weights costs one pass: intervals need many.
    """

    def __init__(self, label_N: IntArray, chance_NK: Float64Array) -> None:
        self._label_N, self._num_classes = label_N, chance_NK.shape[1]
        self._rank_KN = [np.unique(chance_N, return_inverse=True)[1] for chance_N in chance_NK.T]

    def __call__(self, weight_N: Float64Array) -> float:
        """Return the mean over the classes that are there; NaN for one class only."""
        found = []
        for number, rank_N in enumerate(self._rank_KN):
            inside = self._label_N == number
            positive = np.bincount(rank_N, weight_N * inside)
            negative = np.bincount(rank_N, weight_N * ~inside)
            pairs = positive.sum() * negative.sum()
            if pairs > 0:
                below = np.cumsum(negative) - negative / 2  # a tie is half right
                found.append(float(positive @ below / pairs))
        return float(np.mean(found)) if found else float("nan")
