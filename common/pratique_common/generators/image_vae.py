"""A conditional variational autoencoder of images, trained by DP-SGD: a baseline.

Kingma & Welling 2014 (arXiv 1312.6114), given what is shown and where it lies (Sohn, Lee & Yan
2015, "Learning structured output representation using deep conditional generative models"). Pixels
are normal about the decoder's with one fixed deviation, and what is drawn is the decoder's.

Shapes: B patients, K rows a patient, N rows, C channels, H x W pixels, Z latent variables, Y
conditions.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.image_codes import ImageCodes, draw_columns
from pratique_common.generators.image_layers import RowConv2d, RowLinear, doubled, zeroed
from pratique_common.generators.trained import TrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 512
_BLOCK_IMAGES = 128
_MAX_LOG_VARIANCE = 4.0


class Settings(Spec):
    """Settings of ``[generator] name = "image_vae"``."""

    base_channels: int = Field(default=16, ge=4, le=256)
    latent_variables: int = Field(default=16, ge=1, le=512)
    pixel_deviation: float = Field(default=0.2, gt=0, le=2, description="of pixels from -1 to 1")
    pretrain_steps: int = Field(default=1_000, ge=0, le=1_000_000, description="on the prior")


class _Network(nn.Module):
    """Encoder and decoder, with two strided convolutions each way."""

    def __init__(self, codes: ImageCodes, settings: Settings) -> None:
        super().__init__()
        base, latent, sides = settings.base_channels, settings.latent_variables, [codes.size_px]
        for _ in range(2):
            sides.append((sides[-1] + 1) // 2)
        self._sides, self._deepest = sides, (2 * base, sides[2], sides[2])
        cells = 2 * base * sides[2] ** 2
        self.into = RowConv2d(codes.num_channels, base, 3, stride=2, padding=1)
        self.deeper = RowConv2d(base, 2 * base, 3, stride=2, padding=1)
        # It begins with nothing but noise, so that labels are listened to first.
        self.latent = zeroed(RowLinear(cells + codes.num_conditions, 2 * latent))
        self.out_of = RowLinear(latent + codes.num_conditions, cells)
        self.wider = RowConv2d(2 * base, base, 3, padding=1)
        self.image = RowConv2d(base, codes.num_channels, 3, padding=1)
        # Public, but no weights that DP-SGD trains: frozen, and released with the others.
        self.marginals = nn.Parameter(codes.uniform(), requires_grad=False)

    def encode(self, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent variables, (B, K, Z) each."""
        h = silu(self.deeper(silu(self.into(images)))).flatten(2)
        mean, log_variance = self.latent(torch.cat([h, condition], dim=-1)).chunk(2, dim=-1)
        return mean, log_variance.clamp(max=_MAX_LOG_VARIANCE)

    def decode(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return images, (B, K, C, H, W)."""
        h = silu(self.out_of(torch.cat([latent, condition], dim=-1)))
        h = h.view(*h.shape[:2], *self._deepest)
        h = silu(self.wider(doubled(h, self._sides[1])))
        found: Tensor = self.image(doubled(h, self._sides[0]))
        return found


class ImageVaeGenerator(TrainedGenerator[_Network]):
    """See the module's text; implements ``PretrainedGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._codes = ImageCodes(schema)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._codes, settings)

    @property
    def pretrain_steps(self) -> int:
        """As the study says."""
        return self._settings.pretrain_steps

    @property
    def learning_rate(self) -> float:
        """With 3,800 patients and 10 rounds at ε = 10, 1e-3 forgot how the prior's kinds differ."""
        return 3e-4

    @property
    def block_rows(self) -> int:
        """How many rows go through the network at once."""
        return _BLOCK_IMAGES

    def train_whole(self, whole: bool) -> None:
        """Do nothing: sites train all of it."""

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
        """Return each patient's mean negative evidence bound a pixel with one draw a row, (B,)."""
        images = self._codes.images(codes_BKD, weight_BK.dtype)
        condition = self._codes.encoded(images.label, images.position)
        mean_BKZ, log_variance_BKZ = self.module.encode(images.pixels, condition)
        noise_BKZ = torch.randn(mean_BKZ.shape).to(mean_BKZ)
        z_BKZ = mean_BKZ + (0.5 * log_variance_BKZ).exp() * noise_BKZ
        distance = 0.5 * (mean_BKZ**2 + log_variance_BKZ.exp() - 1 - log_variance_BKZ).sum(-1)
        error = (self.module.decode(z_BKZ, condition) - images.pixels).square().flatten(2)
        rebuilt = error.mean(2) / (2 * self._settings.pixel_deviation**2)
        loss_B: Tensor = ((rebuilt + distance / error.shape[2]) * weight_BK).sum(1)
        return loss_B

    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D + pixels)."""
        return self.images_for(draw_columns(self.marginals, num_rows, rng), rng)[0]

    @torch.no_grad()
    def images_for(self, codes_ND: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:
        """Return rows with images made for what their columns say; of masks nothing is known."""
        blocks = []
        for codes in torch.split(codes_ND, _SAMPLE_BLOCK_ROWS):
            condition = self._codes.encoded(*self._codes.conditions(codes, torch.float32))
            latent = torch.randn(len(codes), self._settings.latent_variables, generator=rng)
            made = self.module.decode(latent[None], condition[None])[0]
            blocks.append(self._codes.with_pixels(codes, made))
        return torch.cat(blocks), None
