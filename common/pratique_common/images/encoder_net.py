"""The public encoder's network, so written that every machine computes the same numbers.

Weights are 16-bit floats, that is multiples of 2⁻²⁴, and activations are rounded to multiples of
2⁻¹⁰: all sums of products are exact in 64 bits, whatever the order in which a processor adds them.
What is not a sum (differences, products, quotients, square roots) is rounded alike everywhere.

An image is moved so that its centre of mass is in the middle, and brought to mean 0 and deviation
1: so shifts, brightness and contrast are gone before the first layer. Means over an image and its
mirror images do not change if it is mirrored.

Shapes: N images of one channel, S = ``SIZE_PX``, E = ``EMBEDDING_SIZE``.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pratique_common.images.spec import NUM_FEATURES

SIZE_PX = 32
EMBEDDING_SIZE = NUM_FEATURES

_LAYERS = ((24, 5, 2), (48, 3, 2), (48, 3, 1), (64, 3, 1))
"""Channels, kernel and stride of convolutions."""

_GROUPS = 4
_POOLED_PX = 4
_HIDDEN = 64

LARGEST = 16.0
"""Activations are cut here: it bounds the sums, and is never reached by what is normal."""

GRID_BITS = 10
EMBEDDING_GRID_BITS = 16
_DARKEST = 5.0
"""Added to an image's deviation, of 255 grey levels: noise alone is not made an image."""

_EPSILON = 2.0**-10
_MIRRORED = ((), (2,), (1,), (1, 2))

Weights = Mapping[str, Tensor]


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 1
    for number, (channels, kernel, _) in enumerate(_LAYERS):
        shapes[f"convolution.{number}"] = (channels, before, kernel, kernel)
        shapes[f"scale.{number}"] = shapes[f"offset.{number}"] = (channels,)
        before = channels
    shapes["hidden"] = (_HIDDEN, before * _POOLED_PX**2)
    shapes["hidden.offset"] = (_HIDDEN,)
    shapes["embedding"] = (EMBEDDING_SIZE, _HIDDEN)
    return shapes


def embedded(weights: Weights, image_NSS: Tensor) -> Tensor:
    """Return embeddings (N, E) of images, grey levels of 0 to 255.

    In 64 bits they are exact, as said above; in 32 bits, for training, nothing is rounded.
    """
    x = _standardised(_centred(image_NSS))[:, None]
    for number, (_, kernel, stride) in enumerate(_LAYERS):
        x = F.conv2d(x, weights[f"convolution.{number}"], stride=stride, padding=kernel // 2)
        x = _group_normed(on_grid(x), weights[f"scale.{number}"], weights[f"offset.{number}"])
        x = on_grid(x.clamp(0, LARGEST))
    x = F.avg_pool2d(x, x.shape[2] // _POOLED_PX).flatten(1)
    x = F.linear(x, weights["hidden"], weights["hidden.offset"])
    x = F.linear(on_grid(x.clamp(0, LARGEST)), weights["embedding"])
    return on_grid(x, EMBEDDING_GRID_BITS)


def embedded_either_way(weights: Weights, image_NSS: Tensor) -> Tensor:
    """Return the mean of the embeddings of images and their mirror images, of length 1: (N, E)."""
    views = [image_NSS.flip(axes) if axes else image_NSS for axes in _MIRRORED]
    total = torch.stack([embedded(weights, view) for view in views]).mean(0)
    total = on_grid(total, EMBEDDING_GRID_BITS)
    return total / (total.square().sum(1, keepdim=True) + _EPSILON**2).sqrt()


def on_grid(x: Tensor, bits: int = GRID_BITS) -> Tensor:
    """Return multiples of 2 to the power of -``bits``; what is in 32 bits stays as it is."""
    if x.dtype != torch.float64:
        return x
    return (x * 2.0**bits).round() / 2.0**bits


def _centred(image_NSS: Tensor) -> Tensor:
    """Return images moved by parts of pixels, edges repeated: the centre of mass in the middle.

    Of what is brighter than half the image's mean, so that dim background has no weight.
    """
    mass = (image_NSS - image_NSS.mean((1, 2), keepdim=True) / 2).clamp(min=0)
    total = mass.sum((1, 2)) + _EPSILON
    middle = (SIZE_PX - 1) / 2
    place = torch.arange(SIZE_PX, dtype=image_NSS.dtype) - middle

    def moving(along: int) -> Tensor:
        """Return a matrix (N, S, S) that moves rows or columns; linear between two pixels."""
        centre = (mass.sum(3 - along) * place).sum(1) / total
        source = (place + centre[:, None]).clamp(-middle, middle)
        return on_grid((1 - (source[:, :, None] - place).abs()).clamp(min=0))

    return on_grid(moving(1) @ image_NSS @ moving(2).transpose(1, 2))


def _standardised(image_NSS: Tensor) -> Tensor:
    mean, deviation = _moments(image_NSS.flatten(1))
    return on_grid((image_NSS - mean[..., None]) / (deviation[..., None] + _DARKEST))


def _group_normed(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Normalise groups of channels (Wu & He 2018, "Group normalization", ECCV)."""
    if x.dtype != torch.float64:
        return F.group_norm(x, _GROUPS, scale, offset, _EPSILON**2)  # the same, faster
    grouped = x.reshape(len(x), _GROUPS, -1)
    mean, deviation = _moments(grouped)
    normed = ((grouped - mean) / deviation).reshape(x.shape)
    return normed * scale[:, None, None] + offset[:, None, None]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the last axis, which stays with length 1."""
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return mean, (variance.clamp(min=0) + _EPSILON**2).sqrt()
