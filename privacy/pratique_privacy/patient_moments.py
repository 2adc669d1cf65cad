"""The sum of patients' moments: means and products of clipped coordinates, class by class.

Shapes: B patients, K rows a patient (padded), N rows, D codes of a row, k coordinates, L classes,
M = ``moment_size(k)`` numbers of a class.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.generators.image_transport import moment_size

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

COUNT, MEAN, PRODUCT = np.sqrt([0.1, 0.3, 0.6]).tolist()
"""What a row of length 1 adds, in L2: squares sum to 1. Products are most, and noise hides them
first; the count only has to be better known than means are."""

_BLOCK_ROWS = 512
"""What is looked at together: memory stays flat in the number of patients."""

_ROUNDED_UP = 1 + 1e-12


class Measured(Protocol):
    """What rows are measured along."""

    @property
    def num_classes(self) -> int:
        """L."""

    def coordinates(self, codes_ND: Tensor) -> tuple[IntArray, Float64Array]:
        """Return each row's class, (N,), and coordinates, (N, k), from that row alone in every bit.

        If they hung on who else is there, directions could be chosen that make one patient's
        presence change the coordinates of many.
        """


def moment_sum(measured: Measured, codes_BKD: Tensor, weight_BK: Tensor) -> Float64Array:
    """Return the sum of all patients' moments, (L·M,): each adds at most 1 in L2.

    A patient's are its rows' mean.

    Args:
        measured: gives classes and coordinates.
        codes_BKD: rows; those that pad have weight 0 and add nothing.
        weight_BK: of rows; only whether they are above 0 counts.
    """
    counted_BK = weight_BK.numpy() > 0
    share_BK = counted_BK / np.maximum(counted_BK.sum(1, keepdims=True), 1)
    patient, row = np.nonzero(counted_BK)
    total_LM: Float64Array | None = None
    for start in range(0, max(1, len(patient)), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        label_N, coordinates_Nk = measured.coordinates(codes_BKD[patient[part], row[part]])
        if total_LM is None:
            total_LM = np.zeros((measured.num_classes, moment_size(coordinates_Nk.shape[1])))
        moments_NM = share_BK[patient[part], row[part], None] * row_moments(coordinates_Nk)
        np.add.at(total_LM, label_N, moments_NM)
    assert total_LM is not None
    return total_LM.ravel()


def clipped(coordinates_Nk: Float64Array) -> Float64Array:
    """Return coordinates shortened to a length of 1 at most."""
    length_N1 = np.sqrt(np.square(coordinates_Nk).sum(1, keepdims=True))
    return np.asarray(coordinates_Nk / np.maximum(length_N1 * _ROUNDED_UP, 1))


def row_moments(coordinates_Nk: Float64Array) -> Float64Array:
    """Return what rows add, (N, M), at most 1 in L2: a constant, means, products."""
    short_Nk = clipped(coordinates_Nk)
    one, other = np.triu_indices(short_Nk.shape[1])
    twice = np.where(one == other, 1.0, np.sqrt(2))  # as long as the whole symmetric matrix
    products = short_Nk[:, one] * short_Nk[:, other] * twice
    constant_N1 = np.full((len(short_Nk), 1), COUNT)
    return np.hstack([constant_N1, MEAN * short_Nk, PRODUCT * products])


def moments_of(total_M: Float64Array, components: int) -> tuple[float, Float64Array, Float64Array]:
    """Return the number of patients, and sums of coordinates (k,) and products (k, k) of a class.

    Args:
        total_M: the class's part of a sum, noised or not.
        components: k.
    """
    one, other = np.triu_indices(components)
    products_kk = np.zeros((components, components))
    products_kk[one, other] = total_M[1 + components :] / PRODUCT
    products_kk /= np.where(np.eye(components, dtype=bool), 1, np.sqrt(2))
    products_kk = np.triu(products_kk) + np.triu(products_kk, 1).T
    return float(total_M[0] / COUNT), total_M[1 : 1 + components] / MEAN, products_kk
