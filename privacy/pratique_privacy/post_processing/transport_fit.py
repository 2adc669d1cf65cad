"""From noised moments of images to the maps that phantoms are moved by: at no further cost.

Shapes: M phantoms, P pixels, k components, L levels of the target.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pratique_common.generators.image_codes import draw_columns
from pratique_common.generators.image_transport import ImageTransportGenerator, moment_size
from pratique_common.study import StudySpec
from pratique_privacy.patient_moments import MEAN, PRODUCT, clipped, moments_of

Float64Array = NDArray[np.float64]

_PHANTOMS = 4_096
_RADIUS = 1.0
"""Of the ball that coordinates are clipped to, squared, in mean squared lengths of phantoms: images
far out must not decide (Fréchet distance on films 2.5; with 1.5 it was 2.7, with 3.0 3.1)."""

_LEAST_KNOWN = 0.5
"""Of the length of a mean's noise, where coordinates are at most 1 long: beyond, a class's moments
are not looked at, and its phantoms move as those of all."""

_DEVIATIONS = 2.0
"""Of χ² by which a gap must be beyond what noise gives, as in ``moments_fit``."""

_LEAST_STRETCH, _MOST_STRETCH = 0.1, 4.0
"""Of a map: a direction along which images hardly vary is not noise made large, nor is one lost."""


@dataclass(frozen=True)
class _Images:
    """How images of a class lie, or of all: mean (k,), covariance (k, k), and their deviations."""

    mean_k: Float64Array
    covariance_kk: Float64Array
    unsure: Float64Array
    num: float

    @classmethod
    def of_phantoms(cls, coordinates_Mk: Float64Array) -> "_Images":
        """They are a sample."""
        num, k = coordinates_Mk.shape
        covariance_kk = np.cov(coordinates_Mk.T, bias=True)
        variance = float(np.trace(covariance_kk)) / k
        unsure = np.array([sqrt(variance / num), variance / sqrt(num)])
        return cls(coordinates_Mk.mean(0), covariance_kk, unsure, num)

    @classmethod
    def of_patients(cls, total_M: Float64Array, k: int, noise: float) -> "_Images | None":
        """Return None where noise hides a class."""
        count, sums_k, products_kk = moments_of(total_M, k)
        of_mean, of_product = noise / (np.array([MEAN, PRODUCT]) * max(count, noise))
        if of_mean * sqrt(k) > _LEAST_KNOWN:
            return None
        mean_k = sums_k / count
        # A noised mean times itself has noise in it twice.
        square_kk = np.outer(mean_k, mean_k) - of_mean**2 * np.eye(k)
        unsure = np.array([of_mean, of_product / sqrt(2)])
        return cls(mean_k, products_kk / count - square_kk, unsure, count)


def _pooled(images: Sequence[_Images], share: Float64Array) -> _Images:
    """Return what classes have in common: covariances are within classes."""
    return _Images(
        share @ [each.mean_k for each in images],
        np.tensordot(share, [each.covariance_kk for each in images], 1),
        np.sqrt(np.square(share) @ np.square([each.unsure for each in images])),
        sum(each.num for each in images),
    )


class TransportFit:
    """Chooses directions from phantoms, and maps from what patients' images are along them."""

    def __init__(self, study: StudySpec, generator: ImageTransportGenerator) -> None:
        """Aim at the phantoms that are kept now: directions in which these vary most.

        Coordinates have a variance of 1 over k·``_RADIUS`` each.
        """
        self._generator = generator
        digest = hashlib.sha256(f"{study.digest} transport".encode()).digest()
        seed = int.from_bytes(digest[:4])
        rng, k = torch.Generator().manual_seed(seed), generator.components
        codes = draw_columns(generator.marginals, _PHANTOMS, rng)
        (target,) = generator.shown
        codes[:, target] = torch.arange(_PHANTOMS) % generator.num_classes  # rare ones as well
        rows, _ = generator.first.images_for(codes, rng)
        grey_MP = rows[:, -generator.first.num_pixels :].double().numpy()
        found = PCA(k, svd_solver="auto", random_state=seed).fit(grey_MP)
        unit_k1 = np.sqrt(np.maximum(found.explained_variance_, 1))[:, None] * sqrt(_RADIUS * k)
        directions_kP = found.components_ / unit_k1
        origin_k = directions_kP @ found.mean_
        state = np.concatenate([directions_kP.ravel(), origin_k])
        generator.load_state(state.astype(np.float32))
        label_M, coordinates_Mk = generator.coordinates(rows)
        short_Mk = clipped(coordinates_Mk)
        self._phantoms = [
            _Images.of_phantoms(short_Mk[label_M == level])
            for level in range(generator.num_classes)
        ]

    def update(self, total: Float64Array, noise: float, *, site_share: float = 1.0) -> None:
        """Take an opened sum of moments, (L·M,); ``site_share`` changes no proportion.

        First comes what all classes lack, which is known best, then what a class still lacks. Both
        are nothing where there is no sign of anything but noise, or of the phantoms' being a
        sample.
        """
        del site_share
        k, levels = self._generator.components, self._generator.num_classes
        parts = total.reshape(levels, moment_size(k))
        patients = [_Images.of_patients(part, k, noise) for part in parts]
        known = [(mine, own) for mine, own in zip(self._phantoms, patients, strict=True) if own]
        shift, turn = np.zeros((levels, k)), np.zeros((levels, k, k))
        if known:
            share = np.array([own.num for _, own in known])
            share /= share.sum()
            of_all = [_pooled(images, share) for images in zip(*known, strict=True)]
            gap_k, map_kk = _gap(*of_all), _map(*of_all)
            for level, (mine, own) in enumerate(zip(self._phantoms, patients, strict=True)):
                gap, whole = gap_k, map_kk
                if own is not None:
                    moved = replace(
                        mine,
                        mean_k=mine.mean_k + gap_k,
                        covariance_kk=map_kk @ mine.covariance_kk @ map_kk,
                    )
                    gap, whole = gap_k + _gap(moved, own), _map(moved, own) @ map_kk
                turn[level] = whole - np.eye(k)
                shift[level] = gap - turn[level] @ mine.mean_k
        self._generator.set_map(shift, turn)

    def finish(self) -> None:
        """Do nothing: the round decided."""


def _gap(one: _Images, other: _Images) -> Float64Array:
    return shrunk(other.mean_k - one.mean_k, hypot(one.unsure[0], other.unsure[0]))


def _map(one: _Images, other: _Images) -> Float64Array:
    wider_kk = other.covariance_kk - one.covariance_kk
    found = shrunk(wider_kk, hypot(one.unsure[1], other.unsure[1]))
    return transport(one.covariance_kk, one.covariance_kk + found)


def shrunk(noised: Float64Array, noise: float) -> Float64Array:
    """Return noised numbers nearer to 0 (James & Stein 1961), 0 where they are no sign of anything.

    Args:
        noised: a vector, or a symmetric matrix, of which half the numbers follow from the others.
        noise: deviation of each number; of a matrix, off the diagonal, and √2 times that on it.
    """
    k = len(noised)
    free = k if noised.ndim == 1 else k * (k + 1) // 2
    of_noise = noised.ndim * noise**2  # a number of a matrix stands in it twice
    length = float(np.square(noised).sum())
    if length <= (free + _DEVIATIONS * sqrt(2 * free)) * of_noise:
        return np.zeros_like(noised)
    return noised * (1 - (free - 2) * of_noise / length)


def transport(one_kk: Float64Array, other_kk: Float64Array) -> Float64Array:
    """Return the symmetric map A that makes covariance A·one·A what other is, moving least.

    It is one^(-½) (one^½ other one^½)^½ one^(-½); stretches are within ``_LEAST_STRETCH`` and
    ``_MOST_STRETCH``, also where other has negative eigenvalues, as noised ones have.
    """
    root, back = _power(one_kk, 0.5), _power(one_kk, -0.5)
    values_k, vectors_kk = np.linalg.eigh(back @ other_kk @ back)
    stretched = (vectors_kk * values_k.clip(_LEAST_STRETCH**2, _MOST_STRETCH**2)) @ vectors_kk.T
    within_kk = root @ stretched @ root
    return np.asarray(back @ _power(root @ within_kk @ root, 0.5) @ back)


def _power(covariance_kk: Float64Array, power: float) -> Float64Array:
    values_k, vectors_kk = np.linalg.eigh(covariance_kk)
    least = max(float(values_k.max()) * 1e-9, 1e-300)
    return np.asarray((vectors_kk * np.maximum(values_k, least) ** power) @ vectors_kk.T)
