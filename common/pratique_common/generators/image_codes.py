"""Images as codes, as generators get and give them, and as tensors, as networks see them.

A row of codes has those of the schema's columns, then H x W x C pixels of 0 to 255, channels last
(docs/adr/0014).

Shapes: ... any leading dimensions, N rows, D columns, C channels, H x W pixels, L = all levels, Y
conditions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pratique_common.columns import CategoricalColumn
from pratique_common.generators.base import Marginals
from pratique_common.schema import TableSchema

_HALF_RANGE = 127.5
"""Of 8 bits: they become -1 to 1."""


@dataclass(frozen=True)
class Images:
    """What networks learn of rows."""

    pixels: Tensor  # (..., C, H, W), -1 to 1
    label: Tensor  # (...), what is shown: the target's code
    position: Tensor  # (...), 0 to 1: its bin's middle; 0 where the study has none


class ImageCodes:
    """From codes to images and back, for one schema."""

    def __init__(self, schema: TableSchema) -> None:
        """Take a study of images.

        Raises:
            ValueError: it is one of tables.
        """
        if schema.image is None or schema.target is None:
            raise ValueError("rows without images have no pixels")
        self.levels = [column.num_levels for column in schema.columns]
        self.num_columns = len(self.levels)
        self._target = schema.names.index(schema.target)
        self.num_classes = self.levels[self._target]
        self.num_conditions = self.num_classes + 1
        height, width, channels = schema.image.shape
        self.size_px, self.num_channels, self._shape = height, channels, (height, width, channels)
        self._place: int | None = None
        if schema.image.position is not None:
            self._place = schema.names.index(schema.image.position)
            column = schema.columns[self._place]
            assert not isinstance(column, CategoricalColumn)
            edges = torch.from_numpy(column.bin_edges())
            self._edges, self._middles = edges, (edges[1:] + edges[:-1]) / 2

    def images(self, codes: Tensor, dtype: torch.dtype) -> Images:
        """Return the images of codes (..., D + pixels), on the codes' device."""
        flat = codes[..., self.num_columns :].to(dtype)
        by_channel = flat.reshape(*flat.shape[:-1], *self._shape).movedim(-1, -3)
        pixels = by_channel / _HALF_RANGE - 1
        return Images(pixels, *self.conditions(codes, dtype))

    def conditions(self, codes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return labels and positions, (...) each, of codes (..., D or more)."""
        label = codes[..., self._target]
        if self._place is None:
            return label, torch.zeros(label.shape, dtype=dtype, device=codes.device)
        return label, self._middles.to(codes.device, dtype)[codes[..., self._place]]

    def along(self, codes_ND: Tensor, positions_S: Tensor) -> Tensor:
        """Return columns' codes (N * S, D): each row again at every position, 0 to 1.

        Raises:
            ValueError: the study does not say where slices lie.
        """
        if self._place is None:
            raise ValueError("the study names no position: its slices have no place in a volume")
        rows = codes_ND.repeat_interleave(len(positions_S), dim=0)
        bins = torch.bucketize(positions_S.double(), self._edges[1:-1], right=True)
        rows[:, self._place] = bins.repeat(len(codes_ND))
        return rows

    def encoded(self, label: Tensor, position: Tensor) -> Tensor:
        """Return conditions (..., Y): labels (...) as one-hot, then positions (...)."""
        shown = one_hot(label, self.num_classes).to(position)
        return torch.cat([shown, position[..., None]], dim=-1)

    def with_pixels(self, codes_ND: Tensor, pixels: Tensor) -> Tensor:
        """Return rows (N, D + pixels) of columns' codes and of images (N, C, H, W), -1 to 1."""
        levels = ((pixels + 1) * _HALF_RANGE).round().clamp(0, 2 * _HALF_RANGE).long()
        return torch.cat([codes_ND, levels.movedim(-3, -1).flatten(1)], dim=1)

    @property
    def shown(self) -> tuple[int, ...]:
        """The columns that ``conditions`` tells of, by their positions."""
        return (self._target,) if self._place is None else (self._target, self._place)

    def uniform(self) -> Tensor:
        """Return distributions of nothing known, (L,)."""
        return torch.cat([torch.full((n,), 1 / n) for n in self.levels])

    @staticmethod
    def joined(marginals: Marginals) -> Tensor:
        """Return the columns' distributions one behind the other, (L,)."""
        return torch.cat([torch.from_numpy(marginal).float() for marginal in marginals])

    def separate(self, marginals_L: Tensor) -> Marginals:
        """Return what was ``joined``."""
        parts = torch.split(marginals_L.detach().double(), self.levels)
        return [part.numpy() for part in parts]


def draw_columns(marginals: Marginals, num_rows: int, rng: torch.Generator) -> Tensor:
    """Return columns' codes, int64 (num_rows, D), drawn one by one from their distributions."""
    parts = (torch.from_numpy(marginal) for marginal in marginals)
    return torch.stack([torch.multinomial(p, num_rows, True, generator=rng) for p in parts], 1)
