"""Phantoms whose images are moved to where hospitals' images lie.

Phantoms look like a simulator's. Sites add up, class by class, means and products of a few
coordinates of their images, along directions in which phantoms vary most. The coordinator then
moves phantoms by the linear map that makes their means and covariances those of the hospitals'
images and moves them least: the optimal transport of one normal distribution to another (Gelbrich
1990, Math Nachr 147:185; of colours: Pitié & Kokaram 2007, CVMP). What is seen stays, with its
mask, since all of an image that is not along these directions stays.

Shapes: N images, P pixels of all planes, k components, L levels of the target.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.generators.phantom_images import FromPhantoms, PhantomGenerator

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_QUANTUM = 2.0**-24
"""Of directions: sums of 8-bit pixels times whole quanta are exact in 64 bits, in any order."""

_LARGEST = 1.0
_MOST_PIXELS = 2**53 // (255 * 2**24)


def moment_size(components: int) -> int:
    """Return how many numbers sites add up for a class: its images, k means and products."""
    return 1 + components + components * (components + 1) // 2


class _Map(nn.Module):
    """What a bundle holds: directions, and the map of each class."""

    def __init__(self, levels: int, components: int, pixels: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.zeros(components, pixels), requires_grad=False)
        self.origin = nn.Parameter(torch.zeros(components), requires_grad=False)
        self.shift = nn.Parameter(torch.zeros(levels, components), requires_grad=False)
        self.turn = nn.Parameter(torch.zeros(levels, components, components), requires_grad=False)


class ImageTransportGenerator(FromPhantoms):
    """See the module's text; implements ``MeasuredGenerator`` and ``ImageGenerator``."""

    def __init__(self, first: PhantomGenerator, components: int) -> None:
        """Begin without a map: images stay as they are.

        Args:
            first: makes the phantoms.
            components: k.

        Raises:
            ValueError: more components than pixels, or more pixels than sums are exact for.
        """
        super().__init__(first)
        self.components = components
        pixels = first.num_pixels
        if not components <= pixels <= _MOST_PIXELS:
            raise ValueError(f"components: {components} of {pixels} pixels cannot be measured")
        self.module = _Map(len(first.kinds), components, pixels)

    @property
    def num_classes(self) -> int:
        """L."""
        return len(self.first.kinds)

    @property
    def sum_size(self) -> int:
        """L times ``moment_size``."""
        return self.num_classes * moment_size(self.components)

    def state(self) -> NDArray[np.float32]:
        """Return directions, of coordinates a grey level, and the origin, flat (k·P + k,)."""
        module = self.module
        return torch.cat([module.directions.flatten(), module.origin]).numpy().copy()

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over directions and the origin.

        Raises:
            ValueError: of another length, not finite, or so large that sums would not be exact.
        """
        module = self.module
        size = module.directions.numel()
        if vector.shape != (size + self.components,) or not np.isfinite(vector).all():
            raise ValueError(f"expected {size + self.components} finite numbers")
        if np.abs(vector[:size]).max() > _LARGEST:
            raise ValueError(f"a direction beyond {_LARGEST:g} a grey level")
        with torch.no_grad():
            module.directions.copy_(torch.from_numpy(vector[:size]).view_as(module.directions))
            module.origin.copy_(torch.from_numpy(vector[size:]))

    def set_map(self, shift: Float64Array, turn: Float64Array) -> None:
        """Move coordinates u of a class by shift + turn·u from now on: (L, k), (L, k, k)."""
        with torch.no_grad():
            self.module.shift.copy_(torch.from_numpy(shift))
            self.module.turn.copy_(torch.from_numpy(turn))

    def coordinates(self, codes_ND: Tensor) -> tuple[IntArray, Float64Array]:
        """Return each image's class, (N,), and its coordinates, (N, k).

        They depend on that image alone, in every bit, whatever the directions are.

        Args:
            codes_ND: columns' codes, then pixels.
        """
        whole_kP = np.rint(self.module.directions.double().numpy() / _QUANTUM)
        grey_NP = codes_ND.numpy()[:, -whole_kP.shape[1] :].astype(np.float64)
        sums_Nk = grey_NP @ whole_kP.T
        origin_k = self.module.origin.double().numpy()
        return self.first.labels_of(codes_ND), sums_Nk * _QUANTUM - origin_k

    def images_for(
        self, codes_ND: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Return rows with phantoms that were moved, and their masks, (N, H, W)."""
        rows, masks = self.first.images_for(codes_ND, rng)
        return self.moved(rows), masks

    def moved(self, rows: Tensor) -> Tensor:
        """Return rows whose images are moved by the map of their class."""
        label_N, coordinates_Nk = self.coordinates(rows)
        module = self.module
        shift_Lk, turn_Lkk, directions_kP = (
            tensor.double().numpy() for tensor in (module.shift, module.turn, module.directions)
        )
        step_Nk = shift_Lk[label_N] + np.einsum("nij,nj->ni", turn_Lkk[label_N], coordinates_Nk)
        # Directions are orthogonal, as long as a grey level has of a coordinate: back by as much.
        length_k1 = np.square(directions_kP).sum(1, keepdims=True)
        along_kP = directions_kP / np.where(length_k1 > 0, length_k1, 1)
        moved = rows.clone()
        pixels = moved[:, -directions_kP.shape[1] :]
        pixels += torch.from_numpy(np.rint(step_Nk @ along_kP)).to(pixels)
        pixels.clamp_(0, 255)
        return moved
