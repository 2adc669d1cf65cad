"""Similarity of pairs of images: SSIM, MS-SSIM and PSNR, on grey values of 0 to 255.

Wang et al., "Image quality assessment: from error visibility to structural similarity" (IEEE TIP
2004): a Gaussian window of 11 pixels and deviation 1.5, wholly inside the image, K₁ = .01 and
K₂ = .03. Wang, Simoncelli & Bovik, "Multiscale structural similarity ..." (Asilomar 2003).

Written here and not taken of a library: all of a candidate's pairs with thousands of images are
needed, for which a window is two matrices, and images are often too small for five scales.

Shapes: N pairs, H x W pixels, C channels; channels are measured one by one and averaged.
"""

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

PEAK = 255.0
WINDOW_PX = 11
_SIGMA_PX = 1.5
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, the finest first (2003, section 4)."""


def squared_error(one_NHWC: UInt8Array, other_NHWC: UInt8Array) -> Float64Array:
    """Return the mean squared difference of grey values of each pair, (N,)."""
    gap = one_NHWC.astype(np.float64) - other_NHWC
    return np.asarray(np.mean(gap**2, axis=(1, 2, 3)))


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio of a mean squared error in dB; ∞ where it is 0."""
    return float("inf") if error == 0 else float(10 * np.log10(PEAK**2 / error))


def ssim(one_NHWC: UInt8Array, other_NHWC: UInt8Array) -> Float64Array:
    """Return the structural similarity of each pair, (N,), -1 to 1; equal images have 1.

    Raises:
        ValueError: a side is shorter than the window.
    """
    full_NC, _ = _similarity(_planes(one_NHWC), _planes(other_NHWC))
    return np.asarray(full_NC.mean(1))


def ms_ssim(one_NHWC: UInt8Array, other_NHWC: UInt8Array) -> Float64Array:
    """Return the multi-scale similarity of each pair, (N,), 0 to 1.

    Of the five scales as many are used as the image has windows for, 2 at 32 pixels a side and 3 at
    64, with weights that again add up to one. A negative term counts as 0.
    """
    one, other = _planes(one_NHWC), _planes(other_NHWC)
    num = num_scales(min(one.shape[2:]))
    weights = np.array(SCALE_WEIGHTS[:num]) / sum(SCALE_WEIGHTS[:num])
    product = np.ones(one.shape[:2])
    for scale, weight in enumerate(weights):
        full_NC, contrast_NC = _similarity(one, other)
        last = scale == num - 1
        product *= (full_NC if last else contrast_NC).clip(min=0) ** weight
        if not last:
            one, other = halved(one), halved(other)
    return np.asarray(product.mean(1))


def num_scales(side_px: int) -> int:
    """Return how many scales an image has a whole window at.

    Raises:
        ValueError: not even one.
    """
    if side_px < WINDOW_PX:
        raise ValueError(f"images need {WINDOW_PX} pixels a side or more")
    num = 1
    while num < len(SCALE_WEIGHTS) and side_px // 2**num >= WINDOW_PX:
        num += 1
    return num


def halved(planes_NCHW: Float64Array) -> Float64Array:
    """Return images at half their size, means of 2 x 2 pixels; an odd last one is left out."""
    num, channels, height, width = planes_NCHW.shape
    even = planes_NCHW[:, :, : height // 2 * 2, : width // 2 * 2]
    pairs = even.reshape(num, channels, height // 2, 2, width // 2, 2)
    return np.asarray(pairs.mean((3, 5)))


def window_matrix(side_px: int) -> Float64Array:
    """Return the window at each place it fits along one side, (side - 10, side); rows add to 1."""
    steps = np.arange(WINDOW_PX) - WINDOW_PX // 2
    window = np.exp(-(steps**2) / (2 * _SIGMA_PX**2))
    window /= window.sum()
    matrix = np.zeros((side_px - WINDOW_PX + 1, side_px))
    for place, row in enumerate(matrix):
        row[place : place + WINDOW_PX] = window
    return matrix


def _planes(pixels_NHWC: UInt8Array) -> Float64Array:
    if min(pixels_NHWC.shape[1:3]) < WINDOW_PX:
        raise ValueError(f"images need {WINDOW_PX} pixels a side or more")
    return np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2), np.float64)


def _similarity(
    one_NCHW: Float64Array, other_NCHW: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the mean over windows of SSIM, and of its part without luminance, (N, C) each."""
    down, across = (window_matrix(side) for side in one_NCHW.shape[2:])

    def local(planes: Float64Array) -> Float64Array:
        return np.asarray(down @ planes @ across.T)

    mean, mean_other = local(one_NCHW), local(other_NCHW)
    spread = local(one_NCHW**2) - mean**2
    spread_other = local(other_NCHW**2) - mean_other**2
    joint = local(one_NCHW * other_NCHW) - mean * mean_other
    contrast = (2 * joint + C2) / (spread + spread_other + C2)
    luminance = (2 * mean * mean_other + C1) / (mean**2 + mean_other**2 + C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))
