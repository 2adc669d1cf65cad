"""Votes, then gradients: phantoms like patients' images, and a network that learns what they lack.

Within one budget. First patients vote, for cells of numbers of their images (``sim_moments``) or
for phantoms (``sim_pe``). Then the coordinator trains a denoiser on images of the phantoms that
follow, which costs no privacy, and DP-SGD goes on with it on patients (``image_diffusion``). What
is released begins as a phantom, is noised up to a level and denoised again (Meng et al. 2022,
"SDEdit", arXiv 2108.01073): what is seen stays, with its mask, and how it looks becomes the
hospitals'.

Shapes: N rows, D columns, H x W pixels.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Generator, Marginals
from pratique_common.generators.image_codes import draw_columns
from pratique_common.generators.image_diffusion import ImageDiffusionGenerator, NetworkSettings
from pratique_common.generators.image_diffusion import Settings as DiffusionSettings
from pratique_common.generators.phantom_images import PhantomGenerator
from pratique_common.generators.sim_moments import Settings as MomentsSettings
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.generators.sim_pe import Settings as VoteSettings
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.schema import TableSchema


class Settings(Spec):
    """Settings of ``[generator] name = "image_chain"``.

    All rounds have the same noise, so ``vote_rounds`` of ``training.rounds`` is the share of the
    budget that votes get.
    """

    first: Literal["sim_moments", "sim_pe"] = Field(
        default="sim_moments", description="what patients vote for"
    )
    vote_rounds: int = Field(default=2, ge=1, le=1_000, description="the first of the rounds")
    adapt_steps: int = Field(
        default=600, ge=1, le=1_000_000, description="on images of the phantoms that follow"
    )
    refine_sigma: float = Field(
        default=0.3, ge=0.02, le=40, description="noise that is taken off phantoms; pixels: ±1"
    )
    moments: MomentsSettings = MomentsSettings()
    votes: VoteSettings = VoteSettings()
    network: NetworkSettings = NetworkSettings()


class ImageChainGenerator:
    """See the module's text; implements ``ChainedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.first: PhantomGenerator
        if settings.first == "sim_moments":
            self.first = SimMomentsGenerator(schema, settings.moments, seed)
        else:
            self.first = SimPeGenerator(schema, settings.votes, seed)
        network = settings.network.model_dump() | {"pretrain_steps": settings.adapt_steps}
        self.network = ImageDiffusionGenerator(schema, DiffusionSettings(**network), seed)
        self.module = nn.ModuleDict({"first": self.first.module, "network": self.network.module})

    @property
    def vote_rounds(self) -> int:
        """As the study says."""
        return self.settings.vote_rounds

    def part(self, round_number: int) -> Generator:
        """Return what sites compute for in a round, from 1."""
        return self.first if round_number <= self.vote_rounds else self.network

    def state(self) -> NDArray[np.float32]:
        """Return the network's."""
        return self.network.state()

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over the network's.

        Raises:
            ValueError: it is none.
        """
        self.network.load_state(vector)

    @property
    def sum_size(self) -> int:
        """Of the network."""
        return self.network.sum_size

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from these distributions."""
        self.first.set_marginals(marginals)
        self.network.set_marginals(marginals)

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

    def images_for(
        self, codes_ND: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Return rows with refined images, and masks of the phantoms behind them, (N, H, W)."""
        rows, masks = self.first.images_for(codes_ND, rng)
        return self.network.refined(rows, self.settings.refine_sigma, rng), masks
