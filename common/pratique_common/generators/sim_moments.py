"""The simulated method of moments: phantoms whose numbers are spread as those of patients' images.

Sites count, class by class, in which of a few bins each number of their images lies
(``image_statistics``); a patient's images share its counts, and sites add them up. The coordinator
changes the distribution of the prior's parameters, generation by generation, until numbers of its
phantoms are spread alike (McFadden 1989, Econometrica 57:995; for weights from moments, Gull &
Daniell 1978, Nature 272:686). Nothing more is asked of patients for that. What is released are
fresh phantoms of that distribution: each image has its exact mask.

Shapes: M phantoms, S statistics of an image, K bins, L levels of the target, N images, D columns,
P parameters of a phantom.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pratique_common.column_base import Spec
from pratique_common.generators.phantom_images import Float64Array, IntArray, PhantomGenerator
from pratique_common.images.statistics import image_statistics, num_statistics
from pratique_common.phantoms.unit_cube import Phantoms
from pratique_common.schema import TableSchema

_BANDWIDTH = 0.7
"""Times n^(-1/5) and the deviation: two thirds of what suits a normal distribution (Silverman 1986,
"Density estimation", p. 45), since few parameters are spread like one."""


class Settings(Spec):
    """Settings of ``[generator] name = "sim_moments"``."""

    phantoms: int = Field(default=800, ge=40, le=20_000, description="of all classes together")
    bins: int = Field(default=8, ge=2, le=64, description="of each number of an image")
    generations: int = Field(default=6, ge=1, le=1_000, description="after each round")
    own_share: float = Field(
        default=0.5, ge=0, le=1, description="of a phantom's values that its own class gives"
    )


class SimMomentsGenerator(PhantomGenerator):
    """See the module's text; implements ``VotedGenerator``: an image votes for S cells."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        """Build it.

        Raises:
            ValueError: the study has no images, or a level that the prior does not know.
        """
        super().__init__(schema, settings.phantoms, seed)
        self.settings = settings
        self._num_statistics = num_statistics(self._image.shape[2])
        self._cuts_SK1 = np.zeros((self._num_statistics, settings.bins - 1))
        self._statistics_MS: Float64Array | None = None

    @property
    def cells(self) -> tuple[int, int, int]:
        """L, S and K: whose sum is which cell."""
        return len(self.kinds), self._num_statistics, self.settings.bins

    @property
    def sum_size(self) -> int:
        """L·S·K."""
        return int(np.prod(self.cells))

    @property
    def num_votes(self) -> int:
        """S."""
        return self._num_statistics

    def show(self, scenes: Phantoms) -> None:
        """Take phantoms as the present generation."""
        self.scenes, self._statistics_MS = scenes, None

    @property
    def statistics(self) -> Float64Array:
        """The present generation's, (M, S)."""
        if self._statistics_MS is None:
            self._statistics_MS = image_statistics(self._encoder, self.render(self.scenes))
        return self._statistics_MS

    def state(self) -> NDArray[np.float32]:
        """Return the cuts between bins, flat (S·(K - 1),): as many phantoms lie in each."""
        shares = np.arange(1, self.settings.bins) / self.settings.bins
        cuts_SK1 = np.quantile(self.statistics, shares, axis=0).T
        return cuts_SK1.astype(np.float32).ravel()

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over the cuts.

        Raises:
            ValueError: they are not as many finite numbers.
        """
        if vector.shape != (self._cuts_SK1.size,) or not np.isfinite(vector).all():
            raise ValueError(f"expected {self._cuts_SK1.size} finite cuts")
        self._cuts_SK1 = vector.reshape(self._cuts_SK1.shape).astype(np.float64)

    def bins_of(self, statistics_NS: Float64Array) -> IntArray:
        """Return the bin of each number, (N, S): how many cuts it is beyond."""
        beyond = [
            (numbers[:, None] > cuts).sum(1)
            for numbers, cuts in zip(statistics_NS.T, self._cuts_SK1, strict=True)
        ]
        return np.stack(beyond, axis=1).astype(np.int64)

    def votes(self, codes_ND: Tensor) -> IntArray:
        """Return the cells that each image is in, (N, S): one of each number, of its class.

        They depend on that image alone, in every bit, whatever the cuts are.

        Args:
            codes_ND: columns' codes, then pixels.
        """
        bins_NS = self.bins_of(image_statistics(self._encoder, self._pixels(codes_ND)))
        label_N = self.labels_of(codes_ND)
        _, num_statistics_, num_bins = self.cells
        first_NS = label_N[:, None] * num_statistics_ + np.arange(num_statistics_)
        return np.asarray(first_NS * num_bins + bins_NS, np.int64)

    def descendants(self, label_N: IntArray, rng: np.random.Generator) -> Phantoms:
        """Return fresh phantoms: each value is drawn by itself from those that are kept.

        From its own class's with ``own_share``, else from any's: what the phantoms of one class
        have in common by chance would tell the class to whoever learns from them. Values are drawn
        smoothly around those kept; over all classes mean and deviation stay (West 1993, J R Stat
        Soc B 55).
        """
        scenes, weight_M = self.kept()
        num, width = len(label_N), scenes.unit.shape[1]
        share_M = weight_M / weight_M.sum()
        chosen_NP = rng.choice(len(share_M), (num, width), p=share_M)
        from_own = rng.random((num, width)) < self.settings.own_share
        for number in range(len(self.kinds)):
            standing, own = (np.flatnonzero(of == number) for of in (self.class_of, label_N))
            share = share_M[standing] / share_M[standing].sum()
            of_class = rng.choice(standing, (len(own), width), p=share)
            chosen_NP[own] = np.where(from_own[own], of_class, chosen_NP[own])
        unit_NP = scenes.unit[chosen_NP, np.arange(width)].astype(np.float64)
        mean_P = share_M @ scenes.unit
        deviation_P = np.sqrt(share_M @ (scenes.unit - mean_P) ** 2)
        bandwidth = _BANDWIDTH * np.square(share_M).sum() ** 0.2  # of so many effective phantoms
        nearer = mean_P + np.sqrt(1 - bandwidth**2) * (unit_NP - mean_P)
        moved = nearer + bandwidth * deviation_P * rng.standard_normal((num, width))
        mirrored = 1 - np.abs(1 - np.abs(moved))  # at both ends of the range
        unit = mirrored.clip(0, 1).astype(np.float32)
        seeds = rng.integers(2**31, size=num)
        return type(scenes)(self.kinds[label_N], unit, seeds)
