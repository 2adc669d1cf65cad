"""A tree of columns: every column depends on one other, as in MST.

p(row) = Π p(column | its parent), over a maximum spanning tree of noised two-way tables (Chow & Liu
1968; MST: McKenna et al. 2021; with tables added up over sites: FLAIM, arXiv 2310.03447). All pairs
are measured in one sum, so the tree is chosen without a vote of its own.

Shapes: D columns, C = all levels of all columns.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_common.column_base import Spec
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.generators.pairwise import Settings as PairwiseSettings
from pratique_common.schema import TableSchema


class Settings(Spec):
    """Settings of ``[generator] name = "tree"``: there are none."""


class TreeGenerator(PairwiseGenerator):
    """A pairwise network in which each column has one parent; sampled from the roots."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        del settings
        super().__init__(schema, PairwiseSettings(), seed)

    def sample_among(
        self, allowed: Mapping[int, NDArray[np.bool_]], num_rows: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return rows and weights as ``PairwiseGenerator`` does, parents before children."""
        self.order = self._parents_first()
        return super().sample_among(allowed, num_rows, rng)

    def _parents_first(self) -> list[int]:
        """Return an order in which weights lead from earlier to later columns only."""
        blocks = self.layout.by_column(self.module.weight.detach().numpy())
        offsets = self.layout.offsets
        parents = {
            child: {
                parent
                for parent in range(len(blocks))
                if np.any(block[:, offsets[parent] : offsets[parent + 1]])
            }
            for child, block in enumerate(blocks)
        }
        order: list[int] = []
        while len(order) < len(blocks):
            ready = [d for d in parents if d not in order and parents[d] <= set(order)]
            if not ready:
                raise ValueError("the weights are no tree")
            order += ready
        return order
