"""The histogram round: how much of patients is in each level, bin and sub-bin of every column.

Shapes: P patients, K rows a patient (padded), N rows, D columns, S sub-bins.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pratique_client.patients import Group
from pratique_common.binned_columns import NumericColumn
from pratique_common.encoding import TableEncoder
from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins
from pratique_privacy.canary_sums import LevelCounts

Float64Array = NDArray[np.float64]

_NUMBERS_A_BIN = 16
"""Of a canary's column: whole numbers so few in a bin have a sub-bin each."""


def exact_histograms(
    study: StudySpec, codes_PKD: Tensor, weight_PK: Tensor, group: Group
) -> Float64Array:
    """Return the histogram round's exact sum; a patient's rows share a weight of one.

    Args:
        study: the study.
        codes_PKD: of the group's patients, from ``encode_patients``.
        weight_PK: of their rows.
        group: the same patients' values.
    """
    levels = TableEncoder(study.data.trained).num_levels
    totals = count_levels(codes_PKD, weight_PK, levels)
    finer = count_sub_bins(SubBins(study.data.columns), group.columns, group.patients)
    return np.concatenate([*totals, finer])


def count_levels(codes_PKD: Tensor, weight_PK: Tensor, levels: Sequence[int]) -> list[Float64Array]:
    """Return each column's histogram; a patient's rows share a weight of one."""
    # As 64-bit floats: three 32-bit thirds are more than one.
    counted_PK = weight_PK.numpy() > 0
    weight = (counted_PK / counted_PK.sum(1, keepdims=True)).ravel()
    codes = [codes_PKD[..., d].numpy().ravel() for d in range(len(levels))]
    return [
        np.asarray(np.bincount(code, weight, minlength=num), np.float64)
        for code, num in zip(codes, levels, strict=True)
    ]


def count_sub_bins(
    sub_bins: SubBins, columns: Mapping[str, NDArray[Any]], patients_N: NDArray[Any]
) -> Float64Array:
    """Return the weight in each sub-bin, (S,); a patient's rows share a weight of one."""
    _, owner, rows = np.unique(patients_N.astype(str), return_inverse=True, return_counts=True)
    return sub_bins.count(columns, 1 / rows[owner])


def canary_counts() -> list[LevelCounts]:
    """Return what counts canaries in each section of the round's sum."""
    return [count_levels, _count_as_numbers]


def _count_as_numbers(
    codes_PKD: Tensor, weight_PK: Tensor, levels: Sequence[int]
) -> list[Float64Array]:
    """Return each column's histogram, of codes that are taken for whole numbers."""
    columns = [
        NumericColumn(
            type="numeric",
            name=f"canaries {d}",
            lower=0,
            upper=max(num - 1, 1),
            bins=ceil(num / _NUMBERS_A_BIN),
            integer=True,
        )
        for d, num in enumerate(levels)
    ]
    sub_bins = SubBins(columns)
    row_of_P, row = np.nonzero(weight_PK.numpy())
    values = codes_PKD[row_of_P, row].numpy().astype(np.float64)
    counts = count_sub_bins(
        sub_bins, {column.name: values[:, d] for d, column in enumerate(columns)}, row_of_P
    )
    found = sub_bins.by_bin(counts)
    return [
        np.concatenate(found[column.name])[:num]
        for column, num in zip(columns, levels, strict=True)
    ]
