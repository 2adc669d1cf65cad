"""What a detector and its processing make of transmitted x-rays: scatter, noise, display."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pratique_common.phantoms.implicit_shapes import Floats

SCATTER_REACH = 0.22
"""Standard deviation of the spread of scattered radiation, in sides of the image: an estimate."""

_DARKEST, _BRIGHTEST = 0.01, 0.995
"""Percentiles of the body that are shown black and white."""


def pixel_matrix(size: int, supersampling: int, blur_px: Floats) -> Floats:
    """Return (B, size, size * supersampling): from fine samples to pixels along one axis.

    A pixel averages what falls on it, after a Gaussian point spread of ``blur_px`` pixels (B,).
    """
    edge = np.arange(size * supersampling + 1) / supersampling
    spread = np.maximum(np.asarray(blur_px, np.float64), 1e-3)[:, None, None]
    centre = np.arange(size)[:, None] + 0.5
    # A box of one pixel under a Gaussian, as seen from the middle of each fine sample.
    sample = (edge[1:] + edge[:-1]) / 2 - centre
    weight = ndtr((sample + 0.5) / spread) - ndtr((sample - 0.5) / spread)
    return np.asarray(weight / weight.sum(axis=2, keepdims=True), np.float32)


def smooth_matrix(size: int, reach: float) -> Floats:
    """Return (size, size): a Gaussian average along one axis; ``reach`` is in sides of the image.

    At the edges it averages what there is.
    """
    place = (np.arange(size) + 0.5) / size
    weight = np.exp(-np.square(place[:, None] - place) / (2 * reach**2))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float32)


def with_scatter(primary: Floats, ratio: Floats) -> Floats:
    """Return primary and scattered radiation, (B, H, W), of shares ``primary`` that got through.

    Scatter is ``ratio`` (B, 1, 1) times a smooth image of primary radiation, of which nothing
    comes from where nothing was in the beam.
    """
    matrix = smooth_matrix(primary.shape[-1], SCATTER_REACH)
    source = primary * (1 - primary)
    return np.asarray(primary + ratio * (matrix @ source @ matrix.T), np.float32)


def heel(size: int, amplitude: Floats, direction_rad: Floats) -> Floats:
    """Return exposures, (B, size, size), about 1: they fall off towards the anode.

    ``amplitude`` and ``direction_rad`` are (B, 1, 1).
    """
    step = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1)[None]
    slope = np.cos(direction_rad) * step[:, None, :] + np.sin(direction_rad) * step[:, :, None]
    return np.asarray(np.exp(amplitude * slope), np.float32)


def with_noise(exposure: Floats, noise: Floats, rngs: list[np.random.Generator]) -> Floats:
    """Return exposures with quantum noise, whose variance is proportional to the exposure.

    ``noise`` (B, 1, 1) is its standard deviation over the exposure, where that is the mean.
    """
    drawn = np.stack([rng.standard_normal(exposure.shape[1:], np.float32) for rng in rngs])
    mean = exposure.mean(axis=(1, 2), keepdims=True)
    noisy = exposure + noise * np.sqrt(exposure * mean) * drawn
    return np.asarray(np.maximum(noisy, 1e-4 * mean), np.float32)


def displayed(
    exposure: Floats,
    body: NDArray[np.bool_],
    *,
    equalised: Floats,
    film: Floats,
    contrast: Floats,
    brightness: Floats,
    gamma: Floats,
) -> Floats:
    """Return the image in [0, 1], bone white: logarithm, equalisation, window, gamma.

    Args:
        exposure: (B, H, W), positive.
        body: (B, H, W), pixels that set the window.
        equalised: (B, 1, 1), share of slow variation that is removed, as digital systems do.
        film: (B, 1, 1), exponent of the curve's toe: thick parts differ less than thin ones, as on
            film and on digital displays that imitate it; 1 is linear.
        contrast, brightness: (B, 1, 1), of the window; 1 and 0 fill the range.
        gamma: (B, 1, 1).
    """
    density = -np.log(exposure)
    matrix = smooth_matrix(density.shape[-1], 0.15)
    density -= equalised * (matrix @ density @ matrix.T)
    scaled = np.empty_like(density)
    for index, (image, inside) in enumerate(zip(density, body, strict=True)):
        shown = image[inside] if inside.any() else image.ravel()
        low, high = np.quantile(shown, (_DARKEST, _BRIGHTEST))
        scaled[index] = (image - low) / max(high - low, 1e-6)
    scaled = 1 - (1 - np.clip(scaled, 0, 1)) ** film
    scaled = np.clip(0.5 + contrast * (scaled - 0.5) + brightness, 0, 1)
    return np.asarray(scaled**gamma, np.float32)
