"""Diffusion of images, trained by DP-SGD: a denoiser of all noise levels, given what is shown.

Preconditioning, loss and Heun's sampler are those of Karras et al. 2022 ("EDM", arXiv 2206.00364).
Each image is noised several times for one gradient (Dockhorn et al. 2023, arXiv 2210.09929), at
levels that are spread evenly over their distribution: it takes noise off the gradient and costs no
privacy, since a patient's images and their copies are one clipped vector. A tenth of the labels is
hidden, so that guidance can be asked for (Ho & Salimans 2022, arXiv 2207.12598).

Shapes: B patients, K rows a patient, M noise draws a row, N rows, D columns, C channels, H x W
pixels.
"""

import math
from itertools import pairwise
from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.image_codes import ImageCodes, draw_columns
from pratique_common.generators.image_unet import Part, UNet
from pratique_common.generators.trained import PartlyTrainedGenerator
from pratique_common.schema import TableSchema

_SIGMA_DATA = 0.5
"""Of pixels from -1 to 1, as in the paper; never measured on patients."""

_LOG_SIGMA_MEAN, _LOG_SIGMA_DEVIATION = -0.6, 1.3
_LOWEST_SIGMA, _HIGHEST_SIGMA, _RHO = 0.01, 40.0, 7.0
_HIDDEN_SHARE = 0.1
_EDGE = 1e-4  # of the uniform draw a normal one is made from

SHARED_NOISE = 0.95
"""Of the variance of the noise that slices of a volume begin from. After 1,000 steps on phantoms of
16 pixels, and 800 of 32, slices 5 mm apart differ by 8.7 and 10.2 grey levels: those of phantoms by
6.6 and 8.9, and slices that begin independently by 37 and 42."""

_SAMPLE_BLOCK_ROWS = 128
_BLOCK_IMAGES = 128
"""Noised images that go through the network at once: more are no faster on a processor."""
_BLOCK_GRADIENT = 32_000_000
"""Numbers of all patients' gradients at once, 256 MB on a GPU: networks may be large."""


class NetworkSettings(Spec):
    """What the network is, which part of it sites train, and how images are drawn from it.

    Of ``trained``: a noised sum over n patients of a clipped gradient of d weights is little but
    noise where √d / (n · µ) is above some .01 to .03, with µ = .27, .72 and 2.0 at ε = 1, 3 and 10
    (δ = 1e-5). Of 16 base channels ``all`` has 75,600 weights, ``film`` 20,400 and ``head`` 600:
    .036, .019 and .003 with 3,800 patients at ε = 10.
    """

    base_channels: int = Field(default=16, ge=8, le=256, multiple_of=8)
    noise_draws: int = Field(default=4, ge=1, le=64, description="noised copies of a row")
    trained: Part = Field(default="film", description="by DP-SGD; phantoms train all")
    steps: int = Field(default=12, ge=2, le=1_000, description="of sampling")
    guidance: float = Field(default=0.0, ge=0, le=10, description="0: as learnt")


class Settings(NetworkSettings):
    """Settings of ``[generator] name = "image_diffusion"``."""

    pretrain_steps: int = Field(default=1_000, ge=0, le=1_000_000, description="on the prior")

    @model_validator(mode="after")
    def _check_trained(self) -> Self:
        if self.trained != "all" and not self.pretrain_steps:
            raise ValueError("trained: a part of weights that nothing has trained learns nothing")
        return self


class _Network(nn.Module):
    """The denoiser, and how the columns of rows are drawn."""

    def __init__(self, codes: ImageCodes, settings: Settings) -> None:
        super().__init__()
        self.unet = UNet(
            codes.num_channels, codes.size_px, codes.num_classes, settings.base_channels
        )
        # Public, but no weights that DP-SGD trains: frozen, and released with the others.
        self.marginals = nn.Parameter(codes.uniform(), requires_grad=False)

    def forward(self, noised: Tensor, sigma: Tensor, label: Tensor, position: Tensor) -> Tensor:
        """Return images (B, R, C, H, W) without the noise of deviation ``sigma``, (B, R)."""
        variance = sigma.square() + _SIGMA_DATA**2
        skip, out = _SIGMA_DATA**2 / variance, sigma * _SIGMA_DATA / variance.sqrt()
        scaled = noised / _like_images(variance.sqrt())
        found = self.unet(scaled, sigma.log() / 4, label, position)
        return cast(Tensor, _like_images(skip) * noised + _like_images(out) * found)


class ImageDiffusionGenerator(PartlyTrainedGenerator[_Network]):
    """See the module's text; implements ``PretrainedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._codes = ImageCodes(schema)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._codes, settings)
        self.train_whole(False)

    @property
    def learning_rate(self) -> float:
        """With 3,800 patients and 20 rounds 1e-3 made gradients twice as long at first."""
        return 3e-4

    @property
    def pretrain_steps(self) -> int:
        """As the study says."""
        return self._settings.pretrain_steps

    @property
    def block_rows(self) -> int:
        """How many rows go through the network at once."""
        images = _BLOCK_IMAGES // self._settings.noise_draws
        return max(1, min(images, _BLOCK_GRADIENT // self.sum_size))

    def train_whole(self, whole: bool) -> None:
        """Let gradients be taken of the whole network, or of the part that sites train."""
        self.module.unet.requires_grad_(False)
        part = "all" if whole else self._settings.trained
        for parameter in self.module.unet.trained_by(part):
            parameter.requires_grad_(True)

    @property
    def marginals(self) -> Marginals:
        """The distributions that columns are drawn from."""
        return self._codes.separate(self.module.marginals)

    @property
    def shown(self) -> tuple[int, ...]:
        """What is shown, and where it lies."""
        return self._codes.shown

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from these distributions, each by itself."""
        with torch.no_grad():
            self.module.marginals.copy_(self._codes.joined(marginals))

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return each patient's mean weighted square error over rows and noise draws, (B,)."""
        draws = self._settings.noise_draws
        images = self._codes.images(codes_BKD, weight_BK.dtype)
        sigma_BR = _sigmas((*codes_BKD.shape[:2], draws)).flatten(1)
        hidden_BR = torch.rand(sigma_BR.shape) < _HIDDEN_SHARE
        clean = images.pixels.repeat_interleave(draws, dim=1)
        noise = torch.randn(clean.shape).to(clean)
        sigma_BR, hidden_BR = sigma_BR.to(clean), hidden_BR.to(clean.device)
        label_BR = images.label.repeat_interleave(draws, dim=1)
        label_BR = label_BR.masked_fill(hidden_BR, self._codes.num_classes)
        position_BR = images.position.repeat_interleave(draws, dim=1)
        found = self.module(clean + _like_images(sigma_BR) * noise, sigma_BR, label_BR, position_BR)
        error_BR = (found - clean).square().flatten(2).mean(2)
        variance_BR = sigma_BR.square() + _SIGMA_DATA**2
        scaled_BR = error_BR * variance_BR / (sigma_BR * _SIGMA_DATA).square()
        loss_B: Tensor = (scaled_BR.view(*codes_BKD.shape[:2], draws).mean(2) * weight_BK).sum(1)
        return loss_B

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D + pixels)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]

    @torch.no_grad()
    def images_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:
        """Return rows with images made for what their columns say; of masks nothing is known."""
        blocks = []
        for codes in torch.split(codes_ND, _SAMPLE_BLOCK_ROWS):
            size, channels = self._codes.size_px, self._codes.num_channels
            noise = _HIGHEST_SIGMA * torch.randn(1, len(codes), channels, size, size, generator=rng)
            blocks.append(self._denoised(codes, noise, _HIGHEST_SIGMA))
        return torch.cat(blocks), None

    @torch.no_grad()
    def refined(self, codes_ND: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
        """Return rows whose images had noise of deviation ``sigma`` added and taken off again."""
        blocks = []
        for rows in torch.split(codes_ND, _SAMPLE_BLOCK_ROWS):
            columns = rows[:, : self._codes.num_columns]
            pixels = self._codes.images(rows, torch.float32).pixels[None]
            noise = sigma * torch.randn(pixels.shape, generator=rng)
            blocks.append(self._denoised(columns, pixels + noise, sigma))
        return torch.cat(blocks)

    @torch.no_grad()
    def volumes_for(
        self, codes_ND: Tensor, slices: int, rng: torch.Generator, *, shared: float = SHARED_NOISE
    ) -> Tensor:
        """Return rows of a volume for each row of columns' codes: N * slices of them.

        Volume by volume, each from its lowest slice to its highest: slice s of S lies at
        (s + 0.5) / S. All slices of one have its columns, but each its own bin of the position.

        Args:
            codes_ND: columns' codes; what they say of the position does not count.
            slices: of a volume, 1 or more.
            rng: of the noise.
            shared: of the variance of the noise that a slice begins from, the share that all slices
                of its volume have in common: with 0 they agree on nothing but their columns.

        Raises:
            ValueError: the study names no position, or there is no such share.
        """
        if not 0 <= shared <= 1:
            raise ValueError(f"shared must lie between 0 and 1, not {shared}")
        position_S = volume_positions(slices)
        rows = self._codes.along(codes_ND, position_S)
        size, channels = self._codes.size_px, self._codes.num_channels
        blocks = []
        for columns in torch.split(rows, slices):
            common = torch.randn(1, 1, channels, size, size, generator=rng)
            own = torch.randn(1, slices, channels, size, size, generator=rng)
            noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
            blocks.append(
                self._denoised(columns, _HIGHEST_SIGMA * noise, _HIGHEST_SIGMA, position_S)
            )
        return torch.cat(blocks)

    def sent_along(self) -> list[nn.Parameter]:
        """Return the weights that the prior alone has trained."""
        return [p for p in self.module.unet.parameters() if not p.requires_grad]

    def _denoised(
        self, codes_ND: Tensor, x: Tensor, sigma: float, position_N: Tensor | None = None
    ) -> Tensor:
        """Return rows with the noise taken off their images ``x``: Heun's method (algorithm 1).

        Positions are their bins' middles, or as given: slices of one bin would be all alike.
        """
        label, position = (x[None] for x in self._codes.conditions(codes_ND, torch.float32))
        if position_N is not None:
            position = position_N[None]

        def slope(x: Tensor, sigma: float) -> Tensor:
            return (x - self._guided(x, sigma, label, position)) / sigma

        sigmas = _steps(self._settings.steps, sigma)
        for now, after in pairwise(sigmas):
            first = slope(x, now)
            ahead = x + (after - now) * first
            if after > 0:
                ahead = x + (after - now) * (first + slope(ahead, after)) / 2
            x = ahead
        return self._codes.with_pixels(codes_ND, x[0])

    def _guided(self, x: Tensor, sigma: float, label: Tensor, position: Tensor) -> Tensor:
        sigmas, guidance = torch.full(label.shape, sigma), self._settings.guidance
        known: Tensor = self.module(x, sigmas, label, position)
        if not guidance:
            return known
        anything = torch.full_like(label, self._codes.num_classes)
        unknown: Tensor = self.module(x, sigmas, anything, position)
        return known + guidance * (known - unknown)


def volume_positions(slices: int) -> Tensor:
    """Return where the slices of a volume lie, (slices,), 0 to 1: the middles of equal parts."""
    return (torch.arange(slices) + 0.5) / slices


def _sigmas(shape: tuple[int, int, int]) -> Tensor:
    """Return log-normal noise levels, (B, K, M), M of them in M equally likely strata."""
    strata = torch.arange(shape[2]) / shape[2]
    uniform = (torch.rand(*shape[:2], 1) + strata) % 1
    normal = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + _EDGE, 1 - _EDGE))
    return (_LOG_SIGMA_MEAN + _LOG_SIGMA_DEVIATION * normal).exp()


def _steps(number: int, highest: float) -> list[float]:
    """Return falling noise levels, then 0 (eq. 5)."""
    high, low = highest ** (1 / _RHO), _LOWEST_SIGMA ** (1 / _RHO)
    falling = [(high + k / (number - 1) * (low - high)) ** _RHO for k in range(number)]
    return [*falling, 0.0]


def _like_images(x: Tensor) -> Tensor:
    return x[..., None, None, None]
