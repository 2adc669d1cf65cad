"""Adversarial networks of images, baselines: only the critic ever meets records.

As for tables (``adversarial``) sites add up clipped gradients of the critic's loss on real images,
and the coordinator does the rest. Four variants:

* ``dcgan``: Radford et al. 2016 (arXiv 1511.06434). It knows nothing of labels: those of its images
  are drawn by themselves. Groups are normalised, as batch norm would mix patients.
* ``conditional``: both networks are told what is shown (Mirza & Osindero 2014, arXiv 1411.1784).
* ``wasserstein``: the same with an unbounded score and clipped weights (Arjovsky et al. 2017, arXiv
  1701.07875).
* ``r3``: scores of real images count against those of made-up ones, and the critic's slope at both
  is penalised (R1 and R2; Huang et al. 2024, arXiv 2501.05441). A pair needs both of its images
  where the gradient is clipped, so here sites get the maker's weights as well.

The gradient of R1 and R2 needs second derivatives, which no patient's gradient by layers has. So a
slope is taken along one random direction as a difference of two scores: in the mean over directions
it is the same, and it goes through every layer as two more rows. There are no real images where the
maker is trained: its scores count against their own mean, which changes no more than the weights of
its images.

Shapes: B patients, K rows a patient, N rows, C channels, H x W pixels, Z latent variables, Y
conditions.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.image_codes import ImageCodes, draw_columns
from pratique_common.generators.image_layers import RowConv2d, RowGroupNorm, RowLinear, doubled
from pratique_common.generators.trained import PartlyTrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 512
_BLOCK_IMAGES = 128
_SLOPE = 0.2
_STEP = 0.002  # along a direction whose pixels are standard normal

Variant = Literal["dcgan", "conditional", "wasserstein", "r3"]


class Settings(Spec):
    """Settings of ``[generator] name = "image_gan"``."""

    variant: Variant = "conditional"
    base_channels: int = Field(default=16, ge=4, le=256, multiple_of=4)
    latent_variables: int = Field(default=32, ge=1, le=512)
    weight_bound: float = Field(default=0.1, gt=0, le=10, description="wasserstein: of a weight")
    slope_penalty: float = Field(default=1.0, ge=0, le=1_000, description="r3: of R1 and of R2")


class _Network(nn.Module):
    """Critic and maker, with two convolutions each."""

    def __init__(self, codes: ImageCodes, settings: Settings) -> None:
        super().__init__()
        base, conditions, sides = settings.base_channels, codes.num_conditions, [codes.size_px]
        for _ in range(2):
            sides.append((sides[-1] + 1) // 2)
        self._sides, self._deepest = sides, (2 * base, sides[2], sides[2])
        cells = 2 * base * sides[2] ** 2
        self.critic_in = RowConv2d(codes.num_channels, base, 3, stride=2, padding=1)
        self.critic_deeper = RowConv2d(base, 2 * base, 3, stride=2, padding=1)
        self.critic_told = RowLinear(conditions, cells)
        self.critic_out = RowLinear(cells, 1)
        self.maker_in = RowLinear(settings.latent_variables + conditions, cells)
        self.maker_norm = RowGroupNorm(4, 2 * base)
        self.maker_wider = RowConv2d(2 * base, base, 3, padding=1)
        self.maker_image = RowConv2d(base, codes.num_channels, 3, padding=1)
        self.marginals = nn.Parameter(codes.uniform(), requires_grad=False)
        for parameter in self.maker_weights():
            parameter.requires_grad_(False)

    def maker_weights(self) -> list[nn.Parameter]:
        """Return the maker's weights: frozen, except while the coordinator trains them."""
        layers = (self.maker_in, self.maker_norm, self.maker_wider, self.maker_image)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def critic(self, images: Tensor, condition: Tensor) -> Tensor:
        """Return how real images (B, R, C, H, W) seem under conditions (B, R, Y), (B, R)."""
        h = leaky_relu(self.critic_in(images), _SLOPE)
        h = leaky_relu(self.critic_deeper(h), _SLOPE).flatten(2)
        score: Tensor = self.critic_out(h + h * self.critic_told(condition))
        return score[..., 0]

    def maker(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return made-up images, (B, R, C, H, W)."""
        h = self.maker_in(torch.cat([latent, condition], dim=-1))
        h = torch.relu(self.maker_norm(h.view(*h.shape[:2], *self._deepest)))
        h = torch.relu(self.maker_wider(doubled(h, self._sides[1])))
        return torch.tanh(self.maker_image(doubled(h, self._sides[0])))


class ImageGanGenerator(PartlyTrainedGenerator[_Network]):
    """See the module's text; implements ``CriticGenerator``: it is the critic that sites train."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._codes = ImageCodes(schema)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._codes, settings)

    @property
    def learning_rate(self) -> float:
        """With 3,800 patients at ε = 10, 5e-3 lost all variety in 60 rounds."""
        return 2e-3

    @property
    def block_rows(self) -> int:
        """How many rows go through the critic at once."""
        return _BLOCK_IMAGES // 4 if self._settings.variant == "r3" else _BLOCK_IMAGES

    @property
    def weight_bound(self) -> float | None:
        """Of the critic's weights, after each step."""
        settings = self._settings
        return settings.weight_bound if settings.variant == "wasserstein" else None

    @property
    def levels_off(self) -> bool:
        """Neither Wasserstein's loss does, nor the penalty of slopes."""
        return self._settings.variant in ("dcgan", "conditional")

    def maker_weights(self) -> list[nn.Parameter]:
        """Return the weights that the coordinator trains."""
        return self.module.maker_weights()

    @property
    def marginals(self) -> Marginals:
        """The distributions that columns are drawn from."""
        return self._codes.separate(self.module.marginals)

    @property
    def shown(self) -> tuple[int, ...]:
        """What is shown, and where it lies; ``dcgan`` is told neither."""
        return () if self._settings.variant == "dcgan" else self._codes.shown

    def set_marginals(self, marginals: Marginals) -> None:
        """Draw columns from these distributions, each by itself."""
        with torch.no_grad():
            self.module.marginals.copy_(self._codes.joined(marginals))

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return each patient's mean loss of the critic on real images, (B,)."""
        images = self._codes.images(codes_BKD, weight_BK.dtype)
        condition = self._told(self._codes.encoded(images.label, images.position))
        if self._settings.variant != "r3":
            loss_BK = self._hostile(self.module.critic(images.pixels, condition))
        else:
            loss_BK = self._relativistic(images.pixels, condition)
        loss_B: Tensor = (loss_BK * weight_BK).sum(1)
        return loss_B

    def made_up_loss(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return the critic's loss on each of so many made-up images, (N,): public."""
        with torch.no_grad():
            made, condition = (x.transpose(0, 1) for x in self._make(num_rows, rng))
        if self._settings.variant != "r3":
            return self._hostile(-self.module.critic(made, condition))[:, 0]
        step = _STEP * torch.randn(made.shape, generator=rng)
        ends = torch.cat([made + step, made - step], dim=1)
        ahead, behind = self.module.critic(ends, condition.repeat(1, 2, 1)).unbind(1)
        return self._penalty(ahead, behind)

    def maker_loss(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return the maker's loss: seem real."""
        made, condition = self._make(num_rows, rng)
        score = self.module.critic(made, condition)
        if self._settings.variant == "r3":
            score = score - score.detach().mean()
        return self._hostile(score).mean()

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D + pixels)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]

    @torch.no_grad()
    def images_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:
        """Return rows with images made for what their columns say; of masks nothing is known."""
        blocks = []
        for codes in torch.split(codes_ND, _SAMPLE_BLOCK_ROWS):
            made = self._made_for(codes, rng)[0][0]
            blocks.append(self._codes.with_pixels(codes, made))
        return torch.cat(blocks), None

    def sent_along(self) -> list[nn.Parameter]:
        """Return the maker's weights where a loss on real images needs made-up ones."""
        return self.maker_weights() if self._settings.variant == "r3" else []

    def _relativistic(self, real: Tensor, condition: Tensor) -> Tensor:
        """Return the loss of real images (B, K, C, H, W) beside made-up ones, (B, K)."""
        latent = torch.randn(*real.shape[:2], self._settings.latent_variables).to(real)
        direction = _STEP * torch.randn(real.shape).to(real)
        with torch.no_grad():
            made = self.module.maker(latent, condition)
        rows = torch.cat([real, made, real + direction, real - direction], dim=1)
        scores = self.module.critic(rows, condition.repeat(1, 4, 1))
        of_real, of_made, ahead, behind = scores.chunk(4, dim=1)
        return softplus(of_made - of_real) + self._penalty(ahead, behind)

    def _penalty(self, ahead: Tensor, behind: Tensor) -> Tensor:
        """Return what the slope between two scores costs."""
        slope = (ahead - behind) / (2 * _STEP)
        return self._settings.slope_penalty / 2 * slope.square()

    def _hostile(self, score: Tensor) -> Tensor:
        """Return what the critic pays for a real image of this score."""
        return -score if self._settings.variant == "wasserstein" else softplus(-score)

    def _make(self, num_rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return self._made_for(draw_columns(self.marginals, num_rows, rng), rng)

    def _made_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images (1, N, C, H, W) and what they were told."""
        conditions = self._codes.conditions(codes_ND, torch.float32)
        condition = self._told(self._codes.encoded(*conditions))[None]
        latent = torch.randn(1, len(codes_ND), self._settings.latent_variables, generator=rng)
        return self.module.maker(latent, condition), condition

    def _told(self, condition: Tensor) -> Tensor:
        return torch.zeros_like(condition) if self._settings.variant == "dcgan" else condition
