"""Layers of image networks whose first dimension is the patient, as clipping needs it.

A patient's rows, and the noised copies of a row, lie along the second dimension: so everything that
is a patient's makes one gradient (``pratique_privacy.image_gradients``).

What a layer gives for a row depends in no bit on who else is in a block of the same shape.
Convolutions and normalisations compute image by image. Products of matrices treat the last rows of
a matrix in another way, so there are always some after the real ones.

Shapes: B patients, R rows a patient, C channels, H x W pixels, I inputs, O outputs.
"""

from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, linear, pad

_TAIL_ROWS = 64  # more than any kernel of a matrix product treats as the rest of its rows


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
        rows = input.flatten(0, 1)
        found = linear(pad(rows, (0, 0, 0, _TAIL_ROWS)), self.weight, self.bias)
        return _by_patient(found[: len(rows)], input)


def _by_patient(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(*like.shape[:2], *rows.shape[1:])
