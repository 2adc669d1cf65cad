"""What every prior of images is.

A prior knows no patient. Generators start from its images, encoders are trained on them, and a
release must beat them.

Shapes: N images, H = W = ``size_px``, C planes: of every channel one an offset.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class PriorImages:
    """Images that a prior rendered."""

    pixels: UInt8Array  # (N, H, W, C)
    mask: UInt8Array  # (N, H, W): exact labels of what the slice itself shows; 0 is nothing
    position: NDArray[np.float64]  # (N,), 0 to 1: where the slice itself lies along its normal


class ImagePrior(Protocol):
    """Draws scenes, moves them a little, and renders them.

    A scene is a row of numbers in [0, 1] and whole numbers, whatever they mean to the prior: small
    enough to send, and to choose among.
    """

    kinds: ClassVar[tuple[str, ...]]
    """What a scene may show, in the prior's words."""

    channels: ClassVar[tuple[str, ...]]
    """What a scanner may make of it."""

    has_depth: ClassVar[bool]
    """Whether there are slices beside a slice."""

    def draw(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Any:
        """Return a scene for each position in ``kinds``; it has a length and takes indices."""

    def mutated(self, parents: Any, rng: np.random.Generator, *, share: float) -> Any:
        """Return as many scenes, each value moved with probability ``share``; kinds stay."""

    def render(
        self,
        scenes: Any,
        channels: tuple[str, ...],
        *,
        size_px: int,
        offsets_mm: tuple[float, ...] = (0.0,),
    ) -> PriorImages:
        """Render scenes, of every channel the slices at offsets from the scene's own.

        Args:
            scenes: as drawn.
            channels: of the prior.
            size_px: a side.
            offsets_mm: rising, 0 among them.

        Raises:
            ValueError: slices beside a slice that has none.
        """
