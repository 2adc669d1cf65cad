"""Material for tests of image metrics: shapes that are quick to draw, and a stand-in encoder."""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pratique_common.images.spec import IMAGE
from pratique_server.evaluation.rows import Rows

UInt8Array = NDArray[np.uint8]
SIDE = 16
LEVELS = ("left", "right")


def drawn(num: int, rng: np.random.Generator) -> tuple[UInt8Array, NDArray[np.int64]]:
    """Return images (N, 16, 16, 1) of a bright spot on smooth noise, and its side, 0 or 1."""
    label = rng.integers(2, size=num)
    noise = gaussian_filter(rng.normal(size=(num, SIDE, SIDE)), (0, 1.5, 1.5))
    pixels = 110 + 40 * noise / noise.std()
    y = rng.integers(4, 12, num)
    x = rng.integers(2, 6, num) + 8 * label
    rows, columns = np.mgrid[:SIDE, :SIDE]
    spot = np.hypot(rows - y[:, None, None], columns - x[:, None, None]) < 2.5
    pixels += 90 * spot
    return pixels.clip(0, 255).round().astype(np.uint8)[..., None], label


def image_rows(pixels: UInt8Array, label: NDArray[np.int64] | None = None) -> Rows:
    """Return images of one patient each."""
    columns = {IMAGE: pixels}
    if label is not None:
        columns |= {"side": np.array(LEVELS, object)[label]}
    return Rows(columns, np.arange(len(pixels)), np.ones(len(pixels)))


def noisy(pixels: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Return copies with a little noise."""
    return (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)


def thumbnails(pixels: UInt8Array) -> NDArray[np.float64]:
    """Return 32 fixed random projections of thumbnails of 8 x 8, (N, 32)."""
    num, side, _, channels = pixels.shape
    small = pixels.reshape(num, 8, side // 8, 8, side // 8, channels).mean((2, 4)).reshape(num, -1)
    projection = np.random.default_rng(0).normal(size=(small.shape[1], 32)) / 8
    return np.asarray((small - 110) / 40 @ projection)


class Tiny(nn.Module):
    """Sees mean grey values, twice as large when asked for features."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        means = x.to(torch.float32).mean((2, 3))
        return 2 * means if return_features else means


def saved(module: nn.Module, path: Path) -> str:
    """Write a network as TorchScript and return the file's hash."""
    sink = io.BytesIO()
    torch.jit.save(torch.jit.script(module), sink)
    path.write_bytes(sink.getvalue())
    return hashlib.sha256(sink.getvalue()).hexdigest()
