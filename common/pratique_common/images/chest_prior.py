"""Chest x-rays as a prior of images: films of randomised phantoms."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.prior_base import PriorImages
from pratique_common.phantoms.chest_parameters import KINDS, RANDOMISED, Phantoms
from pratique_common.phantoms.chest_xray import render_films

_CHANNELS = ("xray",)


class ChestPrior:
    """Implements ``ImagePrior``: a scene is a phantom. A film has no depth: its position is 0.5."""

    kinds: ClassVar[tuple[str, ...]] = KINDS
    channels: ClassVar[tuple[str, ...]] = _CHANNELS
    has_depth: ClassVar[bool] = False

    def draw(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Phantoms:
        """Return a phantom for each kind, uniform in its ranges."""
        return Phantoms.draw(len(kinds), rng, kinds=kinds)

    def mutated(self, parents: Phantoms, rng: np.random.Generator, *, share: float) -> Phantoms:
        """Return children of phantoms."""
        return parents.mutated(rng, share=share)

    def render(
        self,
        scenes: Phantoms,
        channels: tuple[str, ...],
        *,
        size_px: int,
        offsets_mm: tuple[float, ...] = (0.0,),
    ) -> PriorImages:
        """Render a film of each phantom.

        Raises:
            ValueError: slices beside it are asked for.
        """
        if offsets_mm != (0.0,):
            raise ValueError("a film has no slices beside it")
        films = render_films(scenes, RANDOMISED, size=size_px)
        places = [_CHANNELS.index(name) for name in channels]
        pixels = np.rint(films.image[..., None] * 255).astype(np.uint8)[..., places]
        return PriorImages(np.ascontiguousarray(pixels), films.label, np.full(len(scenes), 0.5))
