"""What a public encoder sees in images: the numbers in which the audit compares them.

An encoder was trained on phantoms of one prior (``benchmarks/train_image_encoder.py``). An altered
copy of an image (mirrored, moved, noisy, brighter) has nearly its features, another image has not.
All machines compute the same features: see ``encoder_net``.

Shapes: N images, H = W = any size, C channels, E = 32 features.
"""

import hashlib
from functools import lru_cache
from math import sqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pratique_common.errors import InvalidFileError
from pratique_common.images.encoder_net import (
    EMBEDDING_SIZE,
    SIZE_PX,
    Weights,
    embedded_either_way,
    on_grid,
    weight_shapes,
)
from pratique_common.images.spec import FEATURE_DECIMALS, FEATURE_LIMIT

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

ENCODERS: dict[str, str] = {
    "brain_mri": "b0a5cd9d8751121332792781eafdb85781307fb3730df05ab7fd4de6cb3c6a1d",
    "chest_xray": "65d0e76399501898dd54bc2d82b2f9f4e7707b26bad1d2854537347318126886",
}
"""Prior → SHA-256 of its encoder's weights: a new one is one command and one line here."""

UNIT_GRID_BITS = 20
"""Embeddings of length 1, and what standardises them, are multiples of 2⁻²⁰."""

_LEAST_RANGE = 8  # of grey values, 0 to 255: with less a reader sees nothing
_BATCH_IMAGES = 128  # times channels: bounds memory
_THUMBNAIL_PX = 8
_FEATURES_LENGTH, _THUMBNAIL_SCALE = 2.0, 0.25
"""What weighs how much in an embedding: layout and contrast beside what is shown."""


def weights_path(prior: str) -> Path:
    """Return where a prior's weights lie."""
    return Path(__file__).with_name("weights") / f"{prior}.safetensors"


class FeatureEncoder:
    """Maps images to features; has no state but public weights."""

    def __init__(self, weights: Weights) -> None:
        """Take weights of ``encoder_net``, and the constants that standardise embeddings.

        Args:
            weights: as in ``weight_shapes``, with ``mean`` (E,) and ``whitening`` (E, E) of the
                prior's images of one channel, and ``alike`` (E,), the mean correlation of a
                feature between two channels of one image.
        """
        self._weights = {name: tensor.double() for name, tensor in weights.items()}

    @staticmethod
    @lru_cache(maxsize=4)
    def of(prior: str) -> "FeatureEncoder":
        """Return the encoder of a prior.

        Raises:
            InvalidFileError: its weights are not those that were published.
        """
        return FeatureEncoder.load(weights_path(prior), sha256=ENCODERS[prior])

    @staticmethod
    def load(path: Path, *, sha256: str) -> "FeatureEncoder":
        """Return the encoder in a file.

        Raises:
            InvalidFileError: no such file, or another one.
        """
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidFileError(
                path,
                problem="these are not the weights of the public encoder",
                remedy="install this version of Pratique again",
            )
        try:
            weights = load(content)
        except SafetensorError:
            weights = {}
        wanted = weight_shapes() | constant_shapes()
        if {name: tuple(tensor.shape) for name, tensor in weights.items()} != wanted:
            raise InvalidFileError(
                path, problem="no weights of an encoder", remedy="train one for this version"
            )
        return FeatureEncoder(weights)

    def features(self, pixels: UInt8Array) -> Float64Array:
        """Return the features of images, (N, E).

        Standardised on the prior's images, within ± ``FEATURE_LIMIT``, rounded. Channels are
        embedded each by itself and their mean is taken, so that any number of them gives as many
        features; what a mean of channels varies less by is made good.

        Args:
            pixels: (N, H, W, C).

        Raises:
            ValueError: other shapes or types.
        """
        return self.features_and_planes(pixels)[0]

    def features_and_planes(self, pixels: UInt8Array) -> tuple[Float64Array, Float64Array]:
        """Return the features of images, (N, E), and those of each channel alone, (N, C, E).

        A channel that shows nothing has none (NaN): blank images are all alike.

        Raises:
            ValueError: as ``features``.
        """
        checked = _checked(pixels)
        num_channels = checked.shape[3]
        planes = np.empty((len(checked), num_channels, EMBEDDING_SIZE))
        features = np.empty((len(checked), EMBEDDING_SIZE))
        per_batch = max(1, _BATCH_IMAGES // num_channels)
        for start in range(0, len(checked), per_batch):
            rows = slice(start, start + per_batch)
            with torch.no_grad():
                unit = unit_embeddings(self._weights, checked[rows])
                features[rows] = self._standardised(
                    on_grid(unit.mean(1), UNIT_GRID_BITS), num_channels
                )
                planes[rows] = self._standardised(unit, 1)
        planes[np.ptp(checked, axis=(1, 2)) < _LEAST_RANGE] = np.nan
        return features, planes

    def embedding(self, pixels: UInt8Array) -> Float64Array:
        """Return numbers in which near images look alike, for votes: (N, E + 64 C).

        Features of length 2, and a thumbnail of the image, which knows left from right.
        """
        features = self.features(pixels)
        length = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
        small = low_level(pixels) * (_THUMBNAIL_SCALE / sqrt(pixels.shape[3]))
        return np.concatenate([features * (_FEATURES_LENGTH / length), small], axis=1)

    def _standardised(self, embeddings: Tensor, num_channels: int) -> Float64Array:
        """Return embeddings, (..., E), of which each is a mean of so many channels."""
        whitened = (embeddings - self._weights["mean"]) @ self._weights["whitening"].T
        variance = (1 + (num_channels - 1) * self._weights["alike"]) / num_channels
        standardised = (whitened / variance.sqrt()).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
        return np.asarray(np.round(standardised.numpy(), FEATURE_DECIMALS), np.float64)


def constant_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of what standardises embeddings, by name."""
    size = EMBEDDING_SIZE
    return {"mean": (size,), "whitening": (size, size), "alike": (size,)}


def unit_embeddings(weights: Weights, pixels: UInt8Array) -> Tensor:
    """Return embeddings of length 1 of each channel of images (N, H, W, C): (N, C, E), exact."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    images = images.reshape(-1, 1, *images.shape[2:])
    if images.shape[2] != SIZE_PX:
        images = on_grid(F.interpolate(images, size=(SIZE_PX, SIZE_PX), mode="area"))
    unit = on_grid(embedded_either_way(weights, images[:, 0]), UNIT_GRID_BITS)
    return unit.reshape(len(pixels), -1, EMBEDDING_SIZE)


def embedding_size(num_planes: int) -> int:
    """Return how many numbers ``FeatureEncoder.embedding`` gives of an image."""
    return EMBEDDING_SIZE + num_planes * _THUMBNAIL_PX**2


def low_level(pixels: UInt8Array) -> Float64Array:
    """Return thumbnails of 8 x 8 pixels of every channel, from -1 to 1: (N, 64 C)."""
    images = torch.from_numpy(_checked(pixels)).permute(0, 3, 1, 2).double()
    small = F.interpolate(images, size=(_THUMBNAIL_PX, _THUMBNAIL_PX), mode="area")
    return np.asarray(small.flatten(1).numpy() / 127.5 - 1)


def _checked(pixels: UInt8Array) -> UInt8Array:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2]:
        raise ValueError("images are bytes of shape (N, H, W, C), as high as wide")
    return np.array(pixels, order="C")  # a copy: torch takes no strides below 0
