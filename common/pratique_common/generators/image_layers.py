"""Layers of image networks whose first dimension is the patient, as clipping needs it.

A patient's rows, and the noised copies of a row, lie along the second dimension: so everything that
is a patient's makes one gradient (``pratique_privacy.image_gradients``).

What a layer gives for a patient depends in no bit on who else is in a block of the same shape.
Convolutions and normalisations compute image by image. One product of all rows with a matrix would
treat the last ones otherwise, so there is one product a patient; and as libraries also look at
where in memory a matrix begins, every row is as long as a cache line or several.

Shapes: B patients, R rows a patient, C channels, H x W pixels, I inputs, O outputs.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, pad

Layer = TypeVar("Layer", bound=nn.Module)

_LINE = 16  # numbers of 32 bits in 64 bytes


class RowConv2d(nn.Conv2d):
    """A convolution of (B, R, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Return (B, R, O, H', W')."""
        assert isinstance(self.padding, tuple)
        images = input.flatten(0, 1)
        found = conv2d(images, self.weight, self.bias, self.stride, self.padding)
        return _by_patient(found, input)


class RowGroupNorm(nn.GroupNorm):
    """Normalises groups of channels of every image of (B, R, C, H, W) by itself."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Return the input's shape."""
        images = input.flatten(0, 1)
        found = group_norm(images, self.num_groups, self.weight, self.bias, self.eps)
        return _by_patient(found, input)


class RowLinear(nn.Linear):
    """A product of (B, R, I) with a matrix."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Return (B, R, O)."""
        inputs, outputs = -self.in_features % _LINE, -self.out_features % _LINE
        matrix = pad(self.weight, (0, inputs, 0, outputs)).mT.expand(len(input), -1, -1)
        return torch.bmm(pad(input, (0, inputs)), matrix)[..., : self.out_features] + self.bias


def zeroed(layer: Layer) -> Layer:
    """Return the layer with weights and biases of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def doubled(x: Tensor, side: int) -> Tensor:
    """Return every place of (B, R, C, H, W) four times, cut to a side of one less if need be.

    It is a plain expansion, whose gradient is a sum in one order on every device.
    """
    height, width = x.shape[-2:]
    wide = x[..., :, None, :, None].expand(*x.shape[:-2], height, 2, width, 2)
    return wide.flatten(-4, -3).flatten(-2)[..., :side, :side]


def _by_patient(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(*like.shape[:2], *rows.shape[1:])
