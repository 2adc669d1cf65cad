"""What every prior of images is.

A prior knows no patient. Generators start from its images, encoders are trained on them, and a
release must beat them.

Shapes: N images, H = W = ``size_px``, C channels.
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
    mask: UInt8Array  # (N, H, W): exact labels of what is shown; 0 is nothing
    position: NDArray[np.float64]  # (N,), 0 to 1: where the slice lies along its normal


class ImagePrior(Protocol):
    """Draws scenes, moves them a little, and renders them.

    A scene is a row of numbers in [0, 1] and whole numbers, whatever they mean to the prior: small
    enough to send, and to choose among.
    """

    kinds: ClassVar[tuple[str, ...]]
    """What a scene may show, in the prior's words."""

    channels: ClassVar[tuple[str, ...]]
    """What a scanner may make of it."""

    def draw(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Any:
        """Return a scene for each position in ``kinds``; it has a length and takes indices."""

    def mutated(self, parents: Any, rng: np.random.Generator, *, share: float) -> Any:
        """Return as many scenes, each value moved with probability ``share``; kinds stay."""

    def render(self, scenes: Any, channels: tuple[str, ...], *, size_px: int) -> PriorImages:
        """Render scenes."""
