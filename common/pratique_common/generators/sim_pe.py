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
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.encoding import TableEncoder
from pratique_common.generators.base import Marginals
from pratique_common.generators.image_codes import ImageCodes, draw_columns
from pratique_common.images.features import FeatureEncoder, embedding_size
from pratique_common.images.prior_base import PriorImages
from pratique_common.images.prior_codes import prior_kinds
from pratique_common.images.priors import PRIORS
from pratique_common.phantoms.unit_cube import Phantoms
from pratique_common.schema import TableSchema

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_RENDERED_AT_ONCE = 512
_HALF_WORD = 1 << 16  # seeds have 32 bits, weights of a bundle 24


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


class _Scenes(nn.Module):
    """Phantoms as numbers that a bundle holds: points of the unit cube, seeds, and weights.

    Beside them is how columns are drawn.
    """

    def __init__(self, num: int, width: int, uniform_L: Tensor) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.zeros(num, width), requires_grad=False)
        self.seed = nn.Parameter(torch.zeros(num, 2), requires_grad=False)
        self.weight = nn.Parameter(torch.ones(num), requires_grad=False)
        self.marginals = nn.Parameter(uniform_L, requires_grad=False)


class SimPeGenerator:
    """See the module's text; implements ``VotedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        """Build it.

        Raises:
            ValueError: the study has no images, or a level that the prior does not know.
        """
        if schema.image is None or schema.target is None:
            raise ValueError("sim_pe makes images: the study needs data.image")
        self.settings, self._schema, self._image = settings, schema, schema.image
        self.prior = PRIORS[self._image.prior]()
        self._encoder = FeatureEncoder.of(self._image.prior)
        self._codes = ImageCodes(schema)
        self._target = schema.names.index(schema.target)
        self.kinds = prior_kinds(schema)
        per_class = max(1, settings.phantoms // len(self.kinds))
        self.class_of = np.repeat(np.arange(len(self.kinds)), per_class)
        rng = np.random.default_rng(seed)
        self.scenes: Phantoms = self.prior.draw(self.kinds[self.class_of], rng)
        """The phantoms that stand for election; the first ones follow from the seed."""
        num, width = self.scenes.unit.shape
        self.module = _Scenes(num, width, self._codes.uniform())
        self.keep(self.scenes, np.ones(len(self.class_of)))
        self._features_ME: Float64Array | None = None
        self._seen: dict[bytes, Float64Array] = {}

    @property
    def sum_size(self) -> int:
        """M: one number of votes a phantom."""
        return len(self.class_of)

    @property
    def marginals(self) -> Marginals:
        """The distributions that columns are drawn from."""
        return self._codes.separate(self.module.marginals)

    @property
    def shown(self) -> tuple[int, ...]:
        """The target alone: where a slice lies follows from its phantom."""
        return (self._target,)

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from their own distributions; the target's decides what is shown."""
        with torch.no_grad():
            self.module.marginals.copy_(self._codes.joined(marginals))

    def keep(self, scenes: Phantoms, weight_M: Float64Array) -> None:
        """Let phantoms be what samples descend from, with probabilities within their class."""
        module = self.module
        with torch.no_grad():
            module.unit.copy_(torch.from_numpy(scenes.unit))
            seed = torch.from_numpy(scenes.seed)
            module.seed.copy_(torch.stack([seed // _HALF_WORD, seed % _HALF_WORD], dim=1))
            module.weight.copy_(torch.from_numpy(weight_M))

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

    def votes(self, codes_ND: Tensor) -> IntArray:
        """Return the phantom that each image votes for, (N,): the nearest one of its class.

        It depends on that image alone, in every bit: distances are summed one by one. Before a
        state is loaded all phantoms are alike.

        Args:
            codes_ND: columns' codes, then pixels.
        """
        rows = codes_ND.numpy()
        first = self._codes.num_columns
        pixels = rows[:, first:].astype(np.uint8).reshape(-1, *self._image.shape)
        features_NE = self._remembered(pixels)
        shown_ME = self._features_ME
        if shown_ME is None:
            shown_ME = np.zeros((self.sum_size, features_NE.shape[1]))
        label_N = rows[:, self._target]
        chosen = np.zeros(len(rows), np.int64)
        for number in range(len(self.kinds)):
            own, standing = (np.flatnonzero(of == number) for of in (label_N, self.class_of))
            if len(own):
                distance = cdist(features_NE[own], shown_ME[standing])
                chosen[own] = standing[distance.argmin(1)]
        return chosen

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

    def render(self, scenes: Phantoms) -> NDArray[np.uint8]:
        """Return the images of phantoms, (M, H, W, C)."""
        parts = self._rendered(scenes)
        return np.concatenate([part.pixels for part in parts])

    def _rendered(self, scenes: Phantoms) -> list[PriorImages]:
        starts = range(0, max(1, len(scenes)), _RENDERED_AT_ONCE)
        return [
            self.prior.render(
                scenes[slice(start, start + _RENDERED_AT_ONCE)],
                self._image.channels,
                size_px=self._image.size_px,
                offsets_mm=self._image.offsets_mm,
            )
            for start in starts
        ]

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return columns' codes and pixels, int64 (num_rows, D + H·W·C)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]

    def images_for(
        self, codes_ND: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Return rows with children of phantoms of their classes, and the exact masks (N, H, W)."""
        draws = np.random.default_rng(
            int(torch.randint(2**62, (1,), generator=rng, dtype=torch.int64))
        )
        codes_ND = codes_ND.clone()
        label_N = codes_ND[:, self._target].numpy()
        scenes, weight_M = self._kept()
        parents = np.zeros(len(label_N), np.int64)
        for number in range(len(self.kinds)):
            standing, own = (np.flatnonzero(of == number) for of in (self.class_of, label_N))
            weight = weight_M[standing]
            parents[own] = draws.choice(standing, len(own), p=weight / weight.sum())
        # Few phantoms of a class are chosen: what they share by chance, a head's shape, a scanner,
        # would tell the class to whoever learns from them. Mates of any class break that up.
        mates = draws.choice(len(weight_M), len(label_N), p=weight_M / weight_M.sum())
        share = self.settings.crossed_share
        children = scenes[parents].crossed(scenes[mates], draws, share=share)
        children = self.prior.mutated(children, draws, share=self.settings.released_share)
        parts = self._rendered(children)
        if self._image.position is not None:
            column = self._schema.column(self._image.position)
            only = TableEncoder(self._schema.model_copy(update={"columns": (column,)}))
            position = np.concatenate([part.position for part in parts])
            place = self._schema.names.index(column.name)
            codes_ND[:, place] = torch.from_numpy(only.encode({column.name: position})[:, 0])
        pixels = np.concatenate([part.pixels for part in parts]).astype(np.int64)
        rows = torch.cat([codes_ND, torch.from_numpy(pixels).flatten(1)], dim=1)
        return rows, np.concatenate([part.mask for part in parts])

    def _kept(self) -> tuple[Phantoms, Float64Array]:
        seed = self.module.seed.double().numpy().astype(np.int64)
        scenes = type(self.scenes)(
            self.kinds[self.class_of],
            self.module.unit.numpy().astype(np.float32),
            seed[:, 0] * _HALF_WORD + seed[:, 1],
        )
        return scenes, self.module.weight.double().numpy()
