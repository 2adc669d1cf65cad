"""Phantoms like patients' images, moved to where these lie, and a network for what is left.

Within one budget. First patients vote, for cells of numbers of their images (``sim_moments``) or
for phantoms (``sim_pe``). A round of moments then tells how phantoms' images have to be moved
(``image_transport``). If the study asks for a network, the coordinator trains a denoiser on images
of the phantoms that follow, which costs no privacy, and DP-SGD goes on with it on patients
(``image_diffusion``): what is released is then noised up to a level and denoised again (Meng et al.
2022, "SDEdit", arXiv 2108.01073). What is seen stays, with its mask, and how it looks becomes the
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
from pratique_common.generators.image_diffusion import ImageDiffusionGenerator, NetworkSettings
from pratique_common.generators.image_diffusion import Settings as DiffusionSettings
from pratique_common.generators.image_transport import ImageTransportGenerator
from pratique_common.generators.phantom_images import FromPhantoms, PhantomGenerator
from pratique_common.generators.sim_moments import Settings as MomentsSettings
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.generators.sim_pe import Settings as VoteSettings
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.schema import TableSchema


class RefineSettings(NetworkSettings):
    """Of the network of a chain: how it is trained beside gradients, and what it takes off."""

    adapt_steps: int = Field(
        default=600, ge=1, le=1_000_000, description="on images of the phantoms that follow"
    )
    refine_sigma: float = Field(
        default=0.3, ge=0.02, le=40, description="noise that is taken off phantoms; pixels: ±1"
    )


class Settings(Spec):
    """Settings of ``[generator] name = "image_chain"``.

    All rounds have the same noise: ``vote_rounds`` of ``training.rounds`` is the share of the
    budget that votes get; one round is for moments, and those left are for gradients, if there is a
    network.
    """

    first: Literal["sim_moments", "sim_pe"] = Field(
        default="sim_moments", description="what patients vote for"
    )
    vote_rounds: int = Field(default=2, ge=1, le=1_000, description="the first of the rounds")
    components: int = Field(
        default=64, ge=3, le=256, description="directions along which images are measured"
    )
    moments: MomentsSettings = MomentsSettings()
    votes: VoteSettings = VoteSettings()
    network: RefineSettings | None = Field(
        default=None, description="trained by gradients in the rounds that are left"
    )


class ImageChainGenerator(FromPhantoms):
    """See the module's text; implements ``ChainedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        """Build it.

        Raises:
            ValueError: the study has no images, a level that the prior does not know, or fewer
                pixels than components.
        """
        self.settings = settings
        first: PhantomGenerator
        if settings.first == "sim_moments":
            first = SimMomentsGenerator(schema, settings.moments, seed)
        else:
            first = SimPeGenerator(schema, settings.votes, seed)
        super().__init__(first)
        self.transport = ImageTransportGenerator(first, settings.components)
        parts = {"first": first.module, "transport": self.transport.module}
        self.network: ImageDiffusionGenerator | None = None
        if settings.network is not None:
            of_network = settings.network.model_dump(exclude={"adapt_steps", "refine_sigma"})
            of_network |= {"pretrain_steps": settings.network.adapt_steps}
            self.network = ImageDiffusionGenerator(schema, DiffusionSettings(**of_network), seed)
            parts["network"] = self.network.module
        self.module = nn.ModuleDict(parts)

    @property
    def vote_rounds(self) -> int:
        """As the study says."""
        return self.settings.vote_rounds

    def require_rounds(self, rounds: int) -> None:
        """Raise ValueError if votes, moments and gradients do not fill these rounds."""
        before = self.vote_rounds + 1
        if self.network is None and rounds != before:
            raise ValueError(
                f"a chain with vote_rounds = {self.vote_rounds} and no network has {before}"
            )
        if self.network is not None and rounds <= before:
            raise ValueError(f"no round is left for gradients: votes and moments take {before}")

    def part(self, round_number: int) -> Generator:
        """Return what sites compute for in a round, from 1."""
        if round_number <= self.vote_rounds:
            return self.first
        if self.network is None or round_number == self.vote_rounds + 1:
            return self.transport
        return self.network

    @property
    def _last(self) -> Generator:
        return self.network or self.transport

    def state(self) -> NDArray[np.float32]:
        """Return that of the last part."""
        return self._last.state()

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over that of the last part.

        Raises:
            ValueError: it is none.
        """
        self._last.load_state(vector)

    @property
    def sum_size(self) -> int:
        """Of the last part."""
        return self._last.sum_size

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from these distributions."""
        super().set_marginals(marginals)
        if self.network is not None:
            self.network.set_marginals(marginals)

    def images_for(
        self, codes_ND: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Return rows with images, and masks of the phantoms behind them, (N, H, W)."""
        rows, masks = self.transport.images_for(codes_ND, rng)
        if self.network is not None and self.settings.network is not None:
            rows = self.network.refined(rows, self.settings.network.refine_sigma, rng)
        return rows, masks
