"""Private evolution with a simulator: patients vote for phantoms, and the chosen have children.

Sites learn no gradient. The coordinator shows the features of phantoms; each image votes for the
nearest phantom of its class, a patient's images share one vote, and sites add votes up. Phantoms
with votes stay and vary, round by round (Lin et al. 2024, arXiv 2305.15560; with a simulator: the
same, 2025, arXiv 2502.05505). What is released are phantoms: each image has its exact mask.

Shapes: M phantoms, E features, N images, K classes, D columns.
"""

import hashlib
from math import prod

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.distance import cdist
from torch import Tensor

from pratique_common.column_base import Spec
from pratique_common.generators.phantom_images import Float64Array, IntArray, PhantomGenerator
from pratique_common.images.features import embedding_size
from pratique_common.phantoms.unit_cube import Phantoms
from pratique_common.schema import TableSchema


class Settings(Spec):
    """Settings of ``[generator] name = "sim_pe"``."""

    phantoms: int = Field(default=600, ge=40, le=20_000, description="of all classes together")
    first_share: float = Field(
        default=0.5, gt=0, le=1, description="of a phantom's values that move in the first round"
    )
    share_decay: float = Field(default=0.7, gt=0, le=1, description="of that share, each round")
    released_share: float = Field(default=0.08, gt=0, le=1, description="and of what is released")
    crossed_share: float = Field(
        default=0.5, ge=0, le=1, description="of those values that a phantom of any class gives"
    )


class SimPeGenerator(PhantomGenerator):
    """See the module's text; implements ``VotedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        """Build it.

        Raises:
            ValueError: the study has no images, or a level that the prior does not know.
        """
        super().__init__(schema, settings.phantoms, seed)
        self.settings = settings
        self._features_ME: Float64Array | None = None
        self._seen: dict[bytes, Float64Array] = {}

    @property
    def sum_size(self) -> int:
        """M: one number of votes a phantom."""
        return len(self.class_of)

    def state(self) -> NDArray[np.float32]:
        """Return the features of all phantoms, flat (M·E,)."""
        return self._embedded(self.render(self.scenes)).astype(np.float32).ravel()

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over the features of phantoms.

        Raises:
            ValueError: they are not as many finite numbers. All is checked here: what fails on
                records would tell whether there are any.
        """
        shape = self.sum_size, embedding_size(self._image.shape[2])
        if vector.shape != (prod(shape),) or not np.isfinite(vector).all():
            raise ValueError(f"expected {shape[1]} finite features of each of {shape[0]} phantoms")
        self._features_ME = vector.reshape(shape).astype(np.float64)

    @property
    def num_votes(self) -> int:
        """One."""
        return 1

    def votes(self, codes_ND: Tensor) -> IntArray:
        """Return the phantom that each image votes for, (N, 1): the nearest one of its class.

        It depends on that image alone, in every bit: distances are summed one by one. Before a
        state is loaded all phantoms are alike.

        Args:
            codes_ND: columns' codes, then pixels.
        """
        features_NE = self._remembered(self._pixels(codes_ND))
        shown_ME = self._features_ME
        if shown_ME is None:
            shown_ME = np.zeros((self.sum_size, features_NE.shape[1]))
        label_N = codes_ND.numpy()[:, self._target]
        chosen = np.zeros(len(label_N), np.int64)
        for number in range(len(self.kinds)):
            own, standing = (np.flatnonzero(of == number) for of in (label_N, self.class_of))
            if len(own):
                distance = cdist(features_NE[own], shown_ME[standing])
                chosen[own] = standing[distance.argmin(1)]
        return chosen[:, None]

    def _remembered(self, pixels: NDArray[np.uint8]) -> Float64Array:
        """Return features of images that vote in every round: they are computed once."""
        names = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
        new = [place for place, name in enumerate(names) if name not in self._seen]
        if new:
            found = self._embedded(pixels[new])
            self._seen |= {names[place]: row for place, row in zip(new, found, strict=True)}
        return np.stack([self._seen[name] for name in names])

    def _embedded(self, pixels: NDArray[np.uint8]) -> Float64Array:
        return self._encoder.embedding(pixels)

    def descendants(self, label_N: IntArray, rng: np.random.Generator) -> Phantoms:
        """Return children of phantoms with votes: of their own class, mixed with any, and moved."""
        scenes, weight_M = self.kept()
        parents = np.zeros(len(label_N), np.int64)
        for number in range(len(self.kinds)):
            standing, own = (np.flatnonzero(of == number) for of in (self.class_of, label_N))
            weight = weight_M[standing]
            parents[own] = rng.choice(standing, len(own), p=weight / weight.sum())
        # Few phantoms of a class are chosen: what they share by chance, a head's shape, a scanner,
        # would tell the class to whoever learns from them. Mates of any class break that up.
        mates = rng.choice(len(weight_M), len(label_N), p=weight_M / weight_M.sum())
        share = self.settings.crossed_share
        children = scenes[parents].crossed(scenes[mates], rng, share=share)
        moved: Phantoms = self.prior.mutated(children, rng, share=self.settings.released_share)
        return moved
