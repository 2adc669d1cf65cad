"""A variational autoencoder of one-hot rows, trained by DP-SGD.

Kingma & Welling 2014 (arXiv 1312.6114); with clipped, noised gradients as in Acs et al. 2018 (arXiv
1709.04514). The decoder's biases start at the log of noised histograms.

Shapes: B patients, K rows a patient, C = all levels of all columns, Z latent variables.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.onehot import OneHot
from pratique_common.generators.trained import TrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 8_192
_MAX_LOG_VARIANCE = 4.0


class Settings(Spec):
    """Settings of ``[generator] name = "vae"``."""

    hidden_units: int = Field(default=128, ge=8, le=4096)
    latent_variables: int = Field(default=16, ge=1, le=512)


class _Network(nn.Module):
    """Encoder and decoder, with one hidden layer each."""

    def __init__(self, num_cells: int, settings: Settings) -> None:
        super().__init__()
        hidden, latent = settings.hidden_units, settings.latent_variables
        self.into, self.latent = nn.Linear(num_cells, hidden), nn.Linear(hidden, 2 * latent)
        self.out_of, self.logits = nn.Linear(latent, hidden), nn.Linear(hidden, num_cells)

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent variables, (..., Z) each."""
        mean, log_variance = self.latent(torch.relu(self.into(rows))).chunk(2, dim=-1)
        return mean, log_variance.clamp(max=_MAX_LOG_VARIANCE)

    def decode(self, latent: Tensor) -> Tensor:
        """Return logits (..., C)."""
        logits: Tensor = self.logits(torch.relu(self.out_of(latent)))
        return logits


class VaeGenerator(TrainedGenerator[_Network]):
    """See the module's text; implements ``GradientGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self._onehot = OneHot(schema)
        self._num_latent = settings.latent_variables
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._onehot.num_cells, settings)

    @property
    def learning_rate(self) -> float:
        """With which the figures of benchmarks/README.md were made."""
        return 0.01

    def set_marginals(self, marginals: Marginals) -> None:
        """Start from the columns' own distributions."""
        with torch.no_grad():
            self.module.logits.bias.copy_(self._onehot.log_marginals(marginals))

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return each patient's mean negative evidence bound with one draw a row, (B,)."""
        mean_BKZ, log_variance_BKZ = self.module.encode(
            self._onehot.encode(codes_BKD, weight_BK.dtype)
        )
        noise_BKZ = torch.randn(mean_BKZ.shape).to(mean_BKZ)
        z_BKZ = mean_BKZ + (0.5 * log_variance_BKZ).exp() * noise_BKZ
        distance = 0.5 * (mean_BKZ**2 + log_variance_BKZ.exp() - 1 - log_variance_BKZ).sum(-1)
        rebuilt = self._onehot.cross_entropy(self.module.decode(z_BKZ), codes_BKD)
        loss_B: Tensor = ((rebuilt + distance) * weight_BK).sum(1)
        return loss_B

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D)."""
        blocks = []
        for start in range(0, num_rows, _SAMPLE_BLOCK_ROWS):
            rows = min(_SAMPLE_BLOCK_ROWS, num_rows - start)
            latent = torch.randn(rows, self._num_latent, generator=rng)
            blocks.append(self._onehot.draw(self.module.decode(latent), rng))
        return torch.cat(blocks)
