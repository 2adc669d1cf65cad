"""The network of ``image_diffusion``: a small U-Net with two resolutions.

Pixels are unshuffled into channels first (Shi et al. 2016, arXiv 1609.05158), so that convolutions
see a quarter of the places, or fewer: 32 x 32 of 64 pixels, and of 128. Coordinates are channels
(Liu et al. 2018, arXiv 1807.03247), since anatomy has its place. Groups are normalised, and never
batches: these would mix patients. What an image shows, where it lies and how noisy it is scale and
shift every block's channels (FiLM: Perez et al. 2018, arXiv 1709.07871).

Shapes: B patients, R rows a patient, C channels, H x W pixels, E of the embedding.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pixel_shuffle, pixel_unshuffle, silu

from pratique_common.generators.image_layers import (
    RowConv2d,
    RowGroupNorm,
    RowLinear,
    doubled,
    zeroed,
)

_EMBEDDING = 64
_GROUPS = 8
_MAX_PLACES = 32  # a side, which convolutions see

_NOISE_FREQUENCIES = tuple(math.pi * 0.25 * 32 ** (k / 15) for k in range(16))
"""From a quarter to eight half turns for each unit of ln(σ) / 4."""

_POSITION_FREQUENCIES = tuple(math.pi / 2 * 2**k for k in range(4))
"""A quarter turn from the first to the last slice, and finer."""

Part = Literal["all", "film", "head"]


class UNet(nn.Module):
    """What is left after skipping, from noised images; see ``image_diffusion`` for its scale."""

    def __init__(
        self, num_channels: int, size_px: int, num_classes: int, base_channels: int
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._patch = _patch(size_px)
        inside, base = num_channels * self._patch**2, base_channels
        frequencies = len(_NOISE_FREQUENCIES) + len(_POSITION_FREQUENCIES)
        self.embed_in = RowLinear(2 * frequencies + num_classes + 1, _EMBEDDING)
        self.embed_out = RowLinear(_EMBEDDING, _EMBEDDING)
        self.stem = RowConv2d(inside + 2, base, 3, padding=1)
        self.before = _Block(base, base)
        self.down = RowConv2d(base, 2 * base, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([_Block(2 * base, 2 * base) for _ in range(2)])
        self.up = RowConv2d(2 * base, base, 1)
        self.after = _Block(2 * base, base)
        self.norm_out = RowGroupNorm(_GROUPS, base)
        self.out = zeroed(RowConv2d(base, inside, 3, padding=1))

    def forward(
        self, images: Tensor, noise_level: Tensor, label: Tensor, position: Tensor
    ) -> Tensor:
        """Return (B, R, C, H, W).

        Args:
            images: (B, R, C, H, W).
            noise_level: (B, R), ln(σ) / 4.
            label: (B, R), what an image shows; ``num_classes`` is anything.
            position: (B, R), 0 to 1.
        """
        e = self._embedding(noise_level, label, position)
        x = pixel_unshuffle(images, self._patch)
        fine = self.before(self.stem(torch.cat([x, _coordinates(x)], dim=2)), e)
        coarse = self.down(fine)
        for block in self.middle:
            coarse = block(coarse, e)
        both = torch.cat([doubled(self.up(coarse), fine.shape[-1]), fine], dim=2)
        found: Tensor = self.out(silu(self.norm_out(self.after(both, e))))
        return pixel_shuffle(found, self._patch)

    def trained_by(self, part: Part) -> list[nn.Parameter]:
        """Return the parameters of a part: ``film`` holds ``head``, and ``all`` holds both."""
        found: list[nn.Module] = [self.norm_out, self.out]
        if part == "all":
            found = [self]
        elif part == "film":
            found += [m for m in self.modules() if isinstance(m, RowGroupNorm | RowLinear)]
        return list({id(p): p for module in found for p in module.parameters()}.values())

    def _embedding(self, noise_level: Tensor, label: Tensor, position: Tensor) -> Tensor:
        noise = noise_level[..., None] * noise_level.new_tensor(_NOISE_FREQUENCIES)
        place = position[..., None] * position.new_tensor(_POSITION_FREQUENCIES)
        angles = torch.cat([noise, place], dim=-1)
        shown = one_hot(label, self.num_classes + 1).to(angles)
        known = torch.cat([angles.sin(), angles.cos(), shown], dim=-1)
        return silu(self.embed_out(silu(self.embed_in(known))))


class _Block(nn.Module):
    """Two convolutions beside the input; it begins as its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = (
            RowGroupNorm(_GROUPS, inputs),
            RowConv2d(inputs, outputs, 3, padding=1),
        )
        self.film = RowLinear(_EMBEDDING, 2 * outputs)
        # The film gives scale and shift.
        self.norm_out = RowGroupNorm(_GROUPS, outputs, affine=False)
        self.conv_out = zeroed(RowConv2d(outputs, outputs, 3, padding=1))
        self.skip = RowConv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return (B, R, O, H, W) of (B, R, I, H, W) and an embedding (B, R, E)."""
        h = self.conv_in(silu(self.norm_in(x)))
        scale, shift = self.film(e)[..., None, None].chunk(2, dim=2)
        h = self.conv_out(silu(self.norm_out(h) * (1 + scale) + shift))
        found: Tensor = self.skip(x) + h
        return found


def _patch(size_px: int) -> int:
    """Return the side of the squares that become channels."""
    patch = 2
    while size_px // patch > _MAX_PLACES and size_px % (2 * patch) == 0:
        patch *= 2
    return patch


def _coordinates(x: Tensor) -> Tensor:
    """Return across and down from -1 to 1, (B, R, 2, H, W)."""
    height, width = x.shape[-2:]
    across = torch.linspace(-1, 1, width).to(x).expand(height, width)
    down = torch.linspace(-1, 1, height).to(x)[:, None].expand(height, width)
    return torch.stack([across, down]).expand(*x.shape[:2], 2, height, width)
