"""Fitting the pairwise generator to noised statistics: post-processing, at no cost of privacy.

Empirical Bayes. The two-way statistics of a pair of columns are a small matrix Y = X + noise, with
X those of the population: the noise is the mechanism's, and that of having drawn these patients and
no others, both known. To follow the patients closer than the population would help nobody but who
asks whether one of them took part (ADR 6). A Gaussian prior on X with one scale t a pair makes the
posterior mean a Wiener filter, and t is what makes Y likeliest (type-II maximum likelihood): pairs
that show nothing are shrunk to independence, and nothing is selected on data. The prior's variance
of a cell grows with the 1.5th power of its levels' marginal variances, and neighbouring bins of
ordered columns are correlated. Both follow from experiments on Adult and Diabetes-130 (ADR 6).

Simulated moments. The weights are those whose own synthetic patients, clipped as real ones, have
the filtered statistics: a damped Newton iteration, in the filter's eigenbasis, on samples of its
own. So clipping, however frequent, biases nothing.

Shapes: D columns, C = all levels of all columns.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pratique_common.generators.pairs import ONE_WAY_WEIGHT
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.study import StudySpec
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.post_processing.level_shares import correlation, ordered_levels
from pratique_privacy.post_processing.pair_totals import PairTotals

Float64Array = NDArray[np.float64]

_PRIOR_POWER = 1.5
_LEAST_VARIANCE = 0.005
"""Marginal variance below which a level is treated as one of this: its weights stay bounded."""

_CORRELATION_BINS, _OWN_SHARE = 2.0, 0.3
"""Correlation of bins i and j of an ordered column: exp(-|i - j| / 2), with .3 of a bin's own."""

_SCALES = np.concatenate([[0.0], np.logspace(-4, 6, 81)])
"""Candidates for t, as ratio of the prior's largest variance to the noise's."""

_SCHEDULE = ((40, 8_192, 0.3), (30, 16_384, 0.15), (30, 32_768, 0.15))
"""Iterations, synthetic patients in each, and step. The last part's weights are averaged. On Adult
at ε = 10, where it matters most, three times the time brought a two-way distance of .0087 to
.0080."""

_SIMULATED_A_PATIENT, _LEAST_SIMULATED = 2, 1_024
"""More synthetic ones than this would only lower a sampling error that is below the patients'."""

_MOMENTUM = 0.8
_BIAS_PRECISION = 0.01  # weak prior that keeps logits of levels nobody has from drifting


class PairwiseFit:
    """Collects noised sums of statistics and fits the generator to them."""

    def __init__(
        self,
        study: StudySpec,
        generator: PairwiseGenerator,
        *,
        patients: float,
        errors: Float64Array,
    ) -> None:
        """Take the histogram round's results.

        Args:
            study: names columns and their kinds.
            generator: with noised one-way marginals set.
            patients: noised estimate of the number of members.
            errors: deviations of the marginals, times patients, (C,).
        """
        self._study, self._generator = study, generator
        self._patients, self._errors_C = max(1.0, patients), errors
        self._totals = PairTotals(study, generator)

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take one noised sum of statistics; see ``PairTotals.add``."""
        self._totals.add(total, noise, site_share=site_share)

    def finish(self) -> None:
        """Fit the generator to all sums that were taken."""
        generator, layout = self._generator, self._generator.layout
        one_way_C, pairs_CC = self._totals.split()
        rng = torch.Generator().manual_seed(_seed(self._totals.mean))
        p_C = generator.centre
        bound, weights_D, size = layout.bound(p_C), layout.weights(p_C), self._patients
        noise_C, noise_CC = self._totals.split_noise()

        v_C = (p_C * (1 - p_C)).clip(min=_LEAST_VARIANCE)
        prior = _Prior(self._study, generator, v_C)
        # Of a sum of clipped statistics over patients who are drawn at random, were columns
        # independent.
        drawing_CC = size / bound**2 * prior.rotated_variance(p_C * (1 - p_C))
        gain_CC = prior.gain(pairs_CC, noise_CC**2 + drawing_CC)
        # How statistics answer to weights and biases, were columns independent.
        pair_slope_CC = size * np.outer(v_C, v_C) / bound
        bias_slope_C = ONE_WAY_WEIGHT * size * v_C / bound
        count_slope_C = size * v_C
        bias_precision_C = (
            _BIAS_PRECISION + (bias_slope_C / noise_C) ** 2 + (count_slope_C / self._errors_C) ** 2
        )

        first_bias_C = generator.module.bias.detach().double().numpy().copy()
        bias_C, weight_CC = first_bias_C.copy(), np.zeros_like(pairs_CC)
        bias_step_C, weight_step_CC = np.zeros_like(bias_C), np.zeros_like(weight_CC)
        averages: list[tuple[Float64Array, Float64Array]] = []
        enough = max(_LEAST_SIMULATED, int(_SIMULATED_A_PATIENT * size))
        for part, (iterations, most, step) in enumerate(_SCHEDULE):
            num_patients = min(most, enough)
            for _ in range(iterations):
                _set_weights(generator, bias_C, weight_CC)
                codes, weight = generator.sample_patients(num_patients, rng)
                simulated = clipped_pair_sum(layout, p_C, codes, weight)
                found_C, found_CC = layout.split(simulated * (size / num_patients), weights_D)
                counts_C = _histogram(codes, weight, layout.num_levels) * (size / num_patients)
                # Weights as statistics: what they would add to those of independent columns.
                present_CC = prior.rotate((weight_CC + weight_CC.T) * pair_slope_CC)
                wanted_CC = gain_CC * prior.rotate(pairs_CC - found_CC)
                change_CC = prior.rotate_back((wanted_CC - present_CC) / (1 + gain_CC))
                change_C = (
                    bias_slope_C * (one_way_C - found_C) / noise_C**2
                    + count_slope_C * (size * p_C - counts_C) / self._errors_C**2
                    - _BIAS_PRECISION * (bias_C - first_bias_C)
                ) / bias_precision_C
                towards = 1 - _MOMENTUM
                weight_step_CC = _MOMENTUM * weight_step_CC + towards * prior.later(
                    change_CC / pair_slope_CC
                )
                bias_step_C = _MOMENTUM * bias_step_C + towards * change_C
                weight_CC = weight_CC + step * weight_step_CC
                bias_C = bias_C + step * bias_step_C
                if part == len(_SCHEDULE) - 1:
                    averages.append((bias_C, weight_CC))
        biases, weights = zip(*averages, strict=True)
        _set_weights(generator, np.mean(biases, axis=0), np.mean(weights, axis=0))


class _Prior:
    """The prior's covariance of two-way statistics: a Kronecker product for each pair."""

    def __init__(self, study: StudySpec, generator: PairwiseGenerator, v_C: Float64Array) -> None:
        layout = generator.layout
        self._slices = [
            slice(int(a), int(b)) for a, b in zip(layout.offsets, layout.offsets[1:], strict=False)
        ]
        position = np.argsort(generator.order)
        later_DD = position[:, None] > position[None, :]
        column_of_cell = np.repeat(np.arange(len(self._slices)), layout.num_levels)
        self._later_CC = later_DD[column_of_cell][:, column_of_cell]
        self._vectors_CC = np.zeros((layout.num_cells,) * 2)
        self._values_C = np.zeros(layout.num_cells)
        for column, cells in zip(study.data.trained.columns, self._slices, strict=True):
            scale = v_C[cells] ** (_PRIOR_POWER / 2)
            near = correlation(
                len(scale), ordered_levels(column), length=_CORRELATION_BINS, own=_OWN_SHARE
            )
            covariance = scale[:, None] * near * scale[None, :]
            values, self._vectors_CC[cells, cells] = np.linalg.eigh(covariance)
            self._values_C[cells] = values.clip(min=0)

    def rotate(self, matrix_CC: Float64Array) -> Float64Array:
        """Return a matrix in the eigenbasis."""
        return np.asarray(self._vectors_CC.T @ matrix_CC @ self._vectors_CC, np.float64)

    def rotate_back(self, matrix_CC: Float64Array) -> Float64Array:
        """Return a matrix from the eigenbasis."""
        return np.asarray(self._vectors_CC @ matrix_CC @ self._vectors_CC.T, np.float64)

    def later(self, matrix_CC: Float64Array) -> Float64Array:
        """Return the entries whose row's column comes after its column's column in the order."""
        return np.where(self._later_CC, matrix_CC, 0.0)

    def rotated_variance(self, variance_C: Float64Array) -> Float64Array:
        """Return the variances (C, C) in the eigenbasis of products of independent levels."""
        rotated_C = (self._vectors_CC**2).T @ variance_C
        return np.outer(rotated_C, rotated_C)

    def gain(self, pairs_CC: Float64Array, variance_CC: Float64Array) -> Float64Array:
        """Return prior variance over noise variance in the eigenbasis: (C, C), 0 where t is 0."""
        energy_CC = self.rotate(pairs_CC) ** 2 / variance_CC
        gain_CC = np.zeros_like(energy_CC)
        for a, rows in enumerate(self._slices):
            for columns in self._slices[a + 1 :]:
                shape = np.outer(self._values_C[rows], self._values_C[columns])
                shape /= variance_CC[rows, columns]
                shape /= shape.max()
                scale = _likeliest_scale(shape, energy_CC[rows, columns])
                gain_CC[rows, columns] = scale * shape
                gain_CC[columns, rows] = scale * shape.T
        return gain_CC


def _likeliest_scale(shape: Float64Array, energy: Float64Array) -> float:
    """Return t that maximises the likelihood of energies ~ (1 + t shape) χ²₁."""
    variance = 1 + _SCALES[:, None] * shape.ravel()
    return float(_SCALES[np.argmin((np.log(variance) + energy.ravel() / variance).sum(1))])


def _set_weights(
    generator: PairwiseGenerator, bias_C: Float64Array, weight_CC: Float64Array
) -> None:
    """Set weights for centred inputs: logits = bias + weight @ (one-hot - marginals)."""
    with torch.no_grad():
        generator.module.weight.copy_(torch.from_numpy(weight_CC))
        generator.module.bias.copy_(torch.from_numpy(bias_C - weight_CC @ generator.centre))


def _histogram(
    codes_BKD: NDArray[np.int64], weight_BK: Float64Array, num_levels: Sequence[int]
) -> Float64Array:
    counted_BK = weight_BK > 0
    codes_ND, weight_N = codes_BKD[counted_BK], weight_BK[counted_BK]
    parts = (np.bincount(codes_ND[:, d], weight_N, n) for d, n in enumerate(num_levels))
    return np.concatenate(list(parts))


def _seed(measured: Float64Array) -> int:
    """Return a seed that follows from what was measured: the fit can be repeated."""
    return int.from_bytes(hashlib.sha256(measured.tobytes()).digest()[:7])
