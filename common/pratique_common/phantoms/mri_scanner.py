"""What a scanner does to an image: receive field, finite k-space, noise, display scale."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.implicit_shapes import Floats

_NUM_BIAS_TERMS = 9


def bias_coefficients(rng: np.random.Generator) -> Floats:
    """Draw the shape of a receive field: coefficients of polynomials of degree 1 to 3."""
    drawn = rng.standard_normal(_NUM_BIAS_TERMS, np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


def receive_field(
    x: Floats, y: Floats, z: Floats, coefficients: Floats, log_amplitude: Floats
) -> Floats:
    """Return gains, about 1, at points in field-of-view units of -1 to 1.

    Args:
        x, y, z: (B, H, W).
        coefficients: (B, 9).
        log_amplitude: (B,).
    """
    terms = np.stack([x, y, z, x * y, y * z, x * x - 0.3, y * y - 0.3, x * y * z, z * z - 0.3])
    shape = np.einsum("tbhw,bt->bhw", terms, coefficients, optimize=True)
    return np.asarray(np.exp(log_amplitude[:, None, None] * 1.5 * shape), np.float32)


def sampling_matrix(size: int, supersampling: int, blur_px: Floats) -> Floats:
    """Return (B, size, size * supersampling): from fine samples to pixels along one axis.

    The discrete Fourier transform keeps the central ``size`` frequencies, weighted by a Gaussian
    point spread of ``blur_px`` pixels (B,): partial volume, and a little Gibbs ringing, as in a
    scanner. Pixel centres are kept: fine sample s lies at (s + 0.5) / supersampling - 0.5.
    """
    frequency, cosine = _fourier_terms(size, supersampling)
    spread = np.exp(-2 * np.square(np.pi * np.asarray(blur_px)[:, None] * frequency))
    matrix = spread.astype(np.float32) @ cosine.reshape(len(frequency), -1)
    return np.asarray(matrix.reshape(-1, size, size * supersampling), np.float32)


@lru_cache(maxsize=8)
def _fourier_terms(size: int, supersampling: int) -> tuple[NDArray[np.float64], Floats]:
    """Return frequencies of at least 0, cycles a pixel, and what each adds to the matrix."""
    frequency = np.arange(size // 2 + 1) / size
    sample = (np.arange(size * supersampling) + 0.5) / supersampling - 0.5
    offset = np.arange(size)[:, None] - sample
    cosine = np.cos(2 * np.pi * frequency[:, None, None] * offset)
    cosine[1 : (size + 1) // 2] *= 2  # with their negative partners, which 0 and Nyquist lack
    return frequency, (cosine / (size * supersampling)).astype(np.float32)


def rician(signal_CHW: Floats, sigma_C: Floats, rng: np.random.Generator) -> Floats:
    """Return the magnitude of a complex signal with Gaussian noise in both channels.

    Gudbjartsson and Patz, Magn Reson Med 1995;34:910-914: in air it is Rayleigh noise of mean
    sigma sqrt(pi / 2).
    """
    noise = rng.standard_normal((2, *signal_CHW.shape), np.float32) * sigma_C[:, None, None]
    return np.asarray(np.hypot(signal_CHW + noise[0], noise[1]), np.float32)


def display_scale(image_CHW: Floats, gamma: float) -> Floats:
    """Return the image in [0, 1], each contrast over its 99.5th percentile, then to the gamma."""
    flat = image_CHW.reshape(len(image_CHW), -1)
    top = np.maximum(np.quantile(flat, 0.995, axis=1).astype(np.float32), 1e-6)
    scaled = np.clip(image_CHW / top.reshape(-1, *[1] * (image_CHW.ndim - 1)), 0, 1)
    return np.asarray(scaled if gamma == 1 else scaled ** np.float32(gamma), np.float32)
