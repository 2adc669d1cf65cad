"""Brain MRI as a prior of images: axial slices of randomised phantoms."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.prior_base import PriorImages
from pratique_common.phantoms import brain_parameters
from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import KINDS, RANDOMISED, Phantoms
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.mri_signals import CONTRASTS

_PLANE = "axial"


class BrainPrior:
    """Implements ``ImagePrior``: a scene is a phantom."""

    kinds: ClassVar[tuple[str, ...]] = KINDS
    channels: ClassVar[tuple[str, ...]] = CONTRASTS
    has_depth: ClassVar[bool] = True

    def draw(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Phantoms:
        """Return a phantom for each kind, uniform in its ranges."""
        return brain_parameters.draw(len(kinds), rng, kinds=kinds)

    def mutated(self, parents: Phantoms, rng: np.random.Generator, *, share: float) -> Phantoms:
        """Return children of phantoms."""
        return brain_parameters.mutated(parents, rng, share=share)

    def render(
        self,
        scenes: Phantoms,
        channels: tuple[str, ...],
        *,
        size_px: int,
        offsets_mm: tuple[float, ...] = (0.0,),
    ) -> PriorImages:
        """Render one slice of each phantom, and those beside it."""
        slices = render_slices(
            scenes, RANDOMISED, size=size_px, plane=_PLANE, offsets_mm=offsets_mm
        )
        num = len(offsets_mm)
        places = [CONTRASTS.index(name) * num + each for name in channels for each in range(num)]
        pixels = np.rint(slices.image[:, places] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        low, high = PLANES[_PLANE].range_mm
        position = np.clip((slices.position_mm - low) / (high - low), 0, 1)
        return PriorImages(np.ascontiguousarray(pixels), slices.label, position.astype(np.float64))
