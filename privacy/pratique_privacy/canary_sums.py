"""What a site's canaries add to its sums: through the code that real patients go through.

Each kind of sum gets patients that touch one reserved direction alone, far beyond the bound, with
several rows where the study allows it. What clips, samples and counts patients does so with them;
only the layer or layout is one of reserved coordinates. Of networks of images it is a linear layer,
too: norms of their convolutions are tested against explicit gradients instead. The last step, from
the direction to one coordinate, keeps lengths.

Shapes: I canaries, K rows each, D columns, S sections of a sum.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.generators.base import (
    CountedGenerator,
    Generator,
    MeasuredGenerator,
    VotedGenerator,
)
from pratique_common.generators.pairs import PairLayout
from pratique_privacy.patient_moments import COUNT, MEAN, PRODUCT
from pratique_privacy.patient_sums import (
    CPU,
    counted_sum,
    gradient_sum,
    measured_sum,
    sampled_sum,
    voted_sum,
)

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MOST_ROWS = 8
"""Of a canary: enough to show that rows count where patients should."""

_LENGTH = 1e3
"""Of a canary's gradient, times ``max_grad_norm``, and coordinate: clipping must shorten both."""

LevelCounts = Callable[[Tensor, Tensor, list[int]], list[Float64Array]]
"""From codes (B, K, D), row weights (B, K) and levels of each column to a histogram a column."""


def canary_rows(max_rows_per_patient: int) -> int:
    """Return K."""
    return min(max_rows_per_patient, _MOST_ROWS)


def canaries_in_histograms(
    included: BoolArray,
    columns: list[int],
    max_rows_per_patient: int,
    counts: Sequence[LevelCounts],
) -> Float64Array:
    """Return what canaries add to the histogram round, (S, I): √D each in a section of D columns.

    Args:
        included: (I,), which of them are there.
        columns: D of each section.
        max_rows_per_patient: of the study.
        counts: what patients' rows are counted by in each section.
    """
    num = included.size
    sums = []
    for num_columns, count in zip(columns, counts, strict=False):
        codes_IKD, weight_IK = _patients(included, max_rows_per_patient)
        histograms = count(codes_IKD.repeat(1, 1, num_columns), weight_IK, [num] * num_columns)
        sums.append(np.sum(histograms, axis=0) / np.sqrt(num_columns))
    return np.stack(sums)


def canaries_in_step(
    generator: Generator,
    included: BoolArray,
    max_rows_per_patient: int,
    max_grad_norm: float,
    sample_rate: float,
    *,
    device: torch.device = CPU,
) -> Float64Array:
    """Return what canaries add to a round, (I,): the clipping bound, if the round's coins say so.

    Args:
        generator: its kind decides which code clips.
        included: (I,), which of them are there.
        max_rows_per_patient, max_grad_norm, sample_rate: of the study.
        device: where patients' gradients are computed.
    """
    codes_IK1, weight_IK = _patients(included, max_rows_per_patient)
    num = included.size
    if isinstance(generator, VotedGenerator):
        ballot = _ReservedBallot(num, generator.num_votes)
        add_up = voted_sum(ballot, max_grad_norm)
        total = sampled_sum(add_up, codes_IK1, weight_IK, sample_rate=sample_rate)
        return ballot.folded(total)
    if isinstance(generator, MeasuredGenerator):
        add_up = measured_sum(_ReservedClasses(num), max_grad_norm)
        total = sampled_sum(add_up, codes_IK1, weight_IK, sample_rate=sample_rate)
        return np.asarray(total.reshape(num, 3) @ [COUNT, MEAN, PRODUCT], np.float64)
    if not isinstance(generator, CountedGenerator):
        layer = _ReservedLayer(num, _LENGTH * max_grad_norm)
        add_up = gradient_sum(layer, max_grad_norm, device=device)
        return sampled_sum(add_up, codes_IK1, weight_IK, sample_rate=sample_rate)
    layout = _ReservedLayout(num)
    add_up = counted_sum(layout, lambda: layout.centre, max_grad_norm)
    codes_IKC = nn.functional.one_hot(codes_IK1[..., 0], num)
    total = sampled_sum(add_up, codes_IKC, weight_IK, sample_rate=sample_rate)
    return np.asarray((total[1::2] - total[::2]) / np.sqrt(2), np.float64)


def _patients(included: BoolArray, max_rows_per_patient: int) -> tuple[Tensor, Tensor]:
    """Return canaries that are there as patients: their numbers as codes (B, K, 1), row weights."""
    rows = canary_rows(max_rows_per_patient)
    number = torch.from_numpy(np.flatnonzero(included))
    codes = number[:, None, None].expand(-1, rows, 1).contiguous()
    return codes, torch.full((number.numel(), rows), 1 / rows)


class _ReservedLayer:
    """A linear layer with a weight a canary: its gradient is the canary's number as one-hot."""

    block_rows = None

    def __init__(self, num_canaries: int, length: float) -> None:
        self.module = nn.Linear(num_canaries, 1, bias=False)
        self.sum_size = num_canaries
        self._length = length

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return the loss of each canary, (B,)."""
        one_hot_BKI = nn.functional.one_hot(codes_BKD[..., 0], self.sum_size).to(weight_BK)
        out_BK: Tensor = self.module(one_hot_BKI)[..., 0]
        return self._length * (out_BK * weight_BK).sum(1)


class _ReservedBallot:
    """Candidates for each canary, for whom it alone votes: as many as a patient votes for."""

    def __init__(self, num_canaries: int, num_votes: int) -> None:
        self.sum_size, self._num_votes = num_canaries * num_votes, num_votes

    def votes(self, codes_ND: Tensor) -> NDArray[np.int64]:
        """Return the canaries' own candidates, (N, V)."""
        return codes_ND[:, :1].numpy() * self._num_votes + np.arange(self._num_votes)

    def folded(self, total: Float64Array) -> Float64Array:
        """Return what each canary's candidates got, as one number of the same length, (I,)."""
        return np.asarray(total.reshape(-1, self._num_votes).sum(1) / np.sqrt(self._num_votes))


class _ReservedClasses:
    """A class for each canary, with one coordinate."""

    def __init__(self, num_canaries: int) -> None:
        self.num_classes = num_canaries

    def coordinates(self, codes_ND: Tensor) -> tuple[NDArray[np.int64], Float64Array]:
        """Return the canaries' numbers, and where they lie: far out."""
        number_N = codes_ND[:, 0].numpy()
        return number_N, np.full((len(number_N), 1), _LENGTH)


class _ReservedLayout(PairLayout):
    """A column of two levels for each canary, of which all but its own always have the first."""

    def __init__(self, num_canaries: int) -> None:
        self.num_levels = (2,) * num_canaries
        self.num_now, self.lags, self.pairs, self._target = num_canaries, [], [], None
        self.offsets = np.arange(0, 2 * num_canaries + 1, 2)
        self.num_cells = self.size = 2 * num_canaries
        self._upper = np.zeros((self.num_cells,) * 2, bool)
        self.centre = np.tile([1.0, 0.0], num_canaries)
