"""Generators whose images are phantoms: what they keep, and how rows are drawn from it.

Shapes: M phantoms, N rows, D columns, L levels of the target, H x W pixels, C planes.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pratique_common.encoding import TableEncoder
from pratique_common.generators.base import Marginals
from pratique_common.generators.image_codes import ImageCodes, draw_columns
from pratique_common.images.features import FeatureEncoder
from pratique_common.images.prior_base import PriorImages
from pratique_common.images.prior_codes import prior_kinds
from pratique_common.images.priors import PRIORS
from pratique_common.phantoms.unit_cube import Phantoms
from pratique_common.schema import TableSchema

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_RENDERED_AT_ONCE = 512
_HALF_WORD = 1 << 16  # seeds have 32 bits, weights of a bundle 24


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


class PhantomGenerator(ABC):
    """Keeps phantoms of every class with their weights, and draws what descends from them.

    Attributes:
        kinds: what the target's levels are among the prior's, (L,).
        class_of: the level of each phantom, (M,).
        scenes: the phantoms that are shown to patients next; the first follow from the seed.
    """

    def __init__(self, schema: TableSchema, num_phantoms: int, seed: int) -> None:
        """Draw the first phantoms, as many of each class.

        Raises:
            ValueError: the study has no images, or a level that the prior does not know.
        """
        if schema.image is None or schema.target is None:
            raise ValueError("phantoms are images: the study needs data.image")
        self._schema, self._image = schema, schema.image
        self.prior = PRIORS[self._image.prior]()
        self._encoder = FeatureEncoder.of(self._image.prior)
        self._codes = ImageCodes(schema)
        self._target = schema.names.index(schema.target)
        self.kinds = prior_kinds(schema)
        per_class = max(1, num_phantoms // len(self.kinds))
        self.class_of = np.repeat(np.arange(len(self.kinds)), per_class)
        rng = np.random.default_rng(seed)
        self.scenes: Phantoms = self.prior.draw(self.kinds[self.class_of], rng)
        num, width = self.scenes.unit.shape
        self.module = _Scenes(num, width, self._codes.uniform())
        self.keep(self.scenes, np.ones(len(self.class_of)))

    @property
    @abstractmethod
    def sum_size(self) -> int:
        """Length of the vector of votes."""

    @property
    @abstractmethod
    def num_votes(self) -> int:
        """V: of each image."""

    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """Return what patients need to vote."""

    @abstractmethod
    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take it over.

        Raises:
            ValueError: it is of another shape, or not of finite numbers.
        """

    @abstractmethod
    def votes(self, codes_ND: Tensor) -> IntArray:
        """Return what each image votes for, (N, V)."""

    @abstractmethod
    def descendants(self, label_N: IntArray, rng: np.random.Generator) -> Phantoms:
        """Return a phantom of each label that descends from those that are kept."""

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
        """Let phantoms be what samples descend from, with weights that count within their class."""
        module = self.module
        with torch.no_grad():
            module.unit.copy_(torch.from_numpy(scenes.unit))
            seed = torch.from_numpy(scenes.seed)
            module.seed.copy_(torch.stack([seed // _HALF_WORD, seed % _HALF_WORD], dim=1))
            module.weight.copy_(torch.from_numpy(weight_M))

    def kept(self) -> tuple[Phantoms, Float64Array]:
        """Return what was kept, and the weights, (M,)."""
        seed = self.module.seed.double().numpy().astype(np.int64)
        scenes = type(self.scenes)(
            self.kinds[self.class_of],
            self.module.unit.numpy().astype(np.float32),
            seed[:, 0] * _HALF_WORD + seed[:, 1],
        )
        return scenes, self.module.weight.double().numpy()

    def render(self, scenes: Phantoms) -> UInt8Array:
        """Return the images of phantoms, (M, H, W, C)."""
        return np.concatenate([part.pixels for part in self._rendered(scenes)])

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

    @property
    def num_pixels(self) -> int:
        """Of an image, all planes."""
        return self._image.num_pixels

    def labels_of(self, codes_ND: Tensor) -> IntArray:
        """Return the level of each row, (N,): those of sites have 8 bits."""
        return codes_ND.numpy()[:, self._target].astype(np.int64)

    def _pixels(self, codes_ND: Tensor) -> UInt8Array:
        """Return the images of rows, (N, H, W, C)."""
        pixels = codes_ND.numpy()[:, self._codes.num_columns :]
        return pixels.astype(np.uint8).reshape(-1, *self._image.shape)

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return columns' codes and pixels, int64 (num_rows, D + H·W·C)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]

    def images_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, UInt8Array]:
        """Return rows with descendants of their classes, and the exact masks (N, H, W)."""
        draws = np.random.default_rng(
            int(torch.randint(2**62, (1,), generator=rng, dtype=torch.int64))
        )
        codes_ND = codes_ND.clone()
        parts = self._rendered(self.descendants(codes_ND[:, self._target].numpy(), draws))
        if self._image.position is not None:
            column = self._schema.column(self._image.position)
            only = TableEncoder(self._schema.model_copy(update={"columns": (column,)}))
            position = np.concatenate([part.position for part in parts])
            place = self._schema.names.index(column.name)
            codes_ND[:, place] = torch.from_numpy(only.encode({column.name: position})[:, 0])
        pixels = np.concatenate([part.pixels for part in parts]).astype(np.int64)
        rows = torch.cat([codes_ND, torch.from_numpy(pixels).flatten(1)], dim=1)
        return rows, np.concatenate([part.mask for part in parts])


class FromPhantoms(ABC):
    """What changes the images of phantoms: columns are drawn as theirs.

    Attributes:
        first: makes the phantoms.
    """

    def __init__(self, first: PhantomGenerator) -> None:
        self.first = first

    @abstractmethod
    def images_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, UInt8Array]:
        """Return rows with images, and masks of the phantoms behind them, (N, H, W)."""

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from these distributions."""
        self.first.set_marginals(marginals)

    @property
    def marginals(self) -> Marginals:
        """The distributions that columns are drawn from."""
        return self.first.marginals

    @property
    def shown(self) -> tuple[int, ...]:
        """What phantoms are drawn for."""
        return self.first.shown

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return columns' codes and pixels, int64 (num_rows, D + H·W·C)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]
