"""Discrete diffusion over the columns of a table, trained by DP-SGD.

Every column is replaced, independently and ever more often, by a draw from its noised histogram; a
network learns to tell the original level (multinomial diffusion: Hoogeboom et al. 2021, arXiv
2102.05379; for tables TabDDPM, 2209.15421; towards marginals instead of uniform levels:
2209.14734).

Shapes: B patients, K rows a patient, N rows, D columns, C = all levels, T steps.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.onehot import OneHot, draw_level
from pratique_common.generators.trained import TrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 8_192


class Settings(Spec):
    """Settings of ``[generator] name = "diffusion"``."""

    hidden_units: int = Field(default=128, ge=8, le=4096)
    steps: int = Field(default=20, ge=2, le=1_000)


class _Network(nn.Module):
    """Logits of the original levels from noised ones and the step's share."""

    def __init__(self, levels: list[int], hidden_units: int) -> None:
        super().__init__()
        cells = sum(levels)
        self.hidden = nn.Linear(cells + 2, hidden_units)
        self.logits = nn.Linear(hidden_units, cells)
        self.skip = nn.Linear(cells + 2, cells, bias=False)
        nn.init.zeros_(self.skip.weight)
        # Public, but no weight that DP-SGD trains: frozen, sent and released with the others.
        uniform = torch.cat([torch.full((n,), 1 / n) for n in levels])
        self.noise = nn.Parameter(uniform, requires_grad=False)

    def forward(self, rows: Tensor, share: Tensor) -> Tensor:
        """Return logits (..., C) of rows (..., C) at a share (...) of all steps."""
        x = torch.cat([rows, share[..., None], share[..., None] ** 2], dim=-1)
        logits: Tensor = self.logits(torch.relu(self.hidden(x))) + self.skip(x)
        return logits


class DiffusionGenerator(TrainedGenerator[_Network]):
    """See the module's text; implements ``GradientGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self._onehot = OneHot(schema)
        self._steps = settings.steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._onehot.levels, settings.hidden_units)

    @property
    def learning_rate(self) -> float:
        """With which the figures of benchmarks/README.md were made."""
        return 0.02

    def set_marginals(self, marginals: Marginals) -> None:
        """Diffuse towards the columns' own distributions, and start from them."""
        logs = self._onehot.log_marginals(marginals)
        with torch.no_grad():
            self.module.logits.bias.copy_(logs)
            self.module.noise.copy_(self._onehot.of_softmax(logs))

    def state(self) -> NDArray[np.float32]:
        """Return the weights, and what sites diffuse towards."""
        return np.concatenate([super().state(), self.module.noise.numpy()])

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over weights and noise.

        Raises:
            ValueError: they are not such weights, or noise is no distribution of every column.
        """
        weights, noise = vector[: self.sum_size], torch.from_numpy(vector[self.sum_size :].copy())
        if noise.shape != self.module.noise.shape or not (noise >= 0).all():
            raise ValueError("expected weights and one probability a level")
        totals = torch.stack([part.sum() for part in self._onehot.by_column(noise)])
        if not ((totals - 1).abs() < 1e-3).all():
            raise ValueError("expected probabilities that add up to one in every column")
        super().load_state(weights)
        with torch.no_grad():
            self.module.noise.copy_(noise)

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return each patient's mean cross-entropy at one random step a row, (B,)."""
        step_BK = torch.randint(1, self._steps + 1, codes_BKD.shape[:-1])
        stays = torch.rand(codes_BKD.shape) < self._kept(step_BK)[..., None]
        num_rows = step_BK.numel()
        draws = [torch.multinomial(p, max(1, num_rows), True)[:num_rows] for p in self._noise()]
        replaced = torch.stack(draws, dim=-1).view(codes_BKD.shape)
        device = codes_BKD.device
        noised = torch.where(stays.to(device), codes_BKD, replaced.to(device))
        loss_BK = self._onehot.cross_entropy(self._logits(noised, step_BK), codes_BKD)
        loss_B: Tensor = (loss_BK * weight_BK).sum(1)
        return loss_B

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D): T steps backwards from independent columns."""
        blocks = []
        for start in range(0, num_rows, _SAMPLE_BLOCK_ROWS):
            rows = min(_SAMPLE_BLOCK_ROWS, num_rows - start)
            draws = [torch.multinomial(p, rows, True, generator=rng) for p in self._noise()]
            codes = torch.stack(draws, dim=1)
            for step in range(self._steps, 0, -1):
                steps = torch.full((rows,), step)
                original = self._onehot.draw(self._logits(codes, steps), rng)
                codes = self._step_back(codes, original, step, rng)
            blocks.append(codes)
        return torch.cat(blocks)

    def _step_back(
        self, codes_ND: Tensor, original_ND: Tensor, step: int, rng: torch.Generator
    ) -> Tensor:
        """Draw from q(x_{t-1} | x_t, x_0), column by column."""
        kept, before = (float(self._kept(torch.tensor(t))) for t in (step, step - 1))
        alpha = kept / before
        result = torch.empty_like(codes_ND)
        for d, noise_L in enumerate(self._noise()):
            now_N1, first_N1 = codes_ND[:, d, None], original_ND[:, d, None]
            ones_N1 = torch.ones(len(codes_ND), 1)
            earlier_NL = ((1 - before) * noise_L).repeat(len(codes_ND), 1)
            earlier_NL.scatter_add_(1, first_N1, before * ones_N1)
            jump_NL = ((1 - alpha) * noise_L[now_N1]).repeat(1, len(noise_L))
            jump_NL.scatter_add_(1, now_N1, alpha * ones_N1)
            result[:, d] = draw_level(earlier_NL * jump_NL, rng)
        return result

    def _kept(self, step: Tensor) -> Tensor:
        """Return the probability that a level is still the original one: a cosine to nearly 0."""
        return torch.cos(step / (self._steps + 1) * math.pi / 2) ** 2

    def _noise(self) -> tuple[Tensor, ...]:
        """Return each column's probabilities, for draws: these are made on the processor."""
        return self._onehot.by_column(self.module.noise.cpu().float())

    def _logits(self, codes: Tensor, step: Tensor) -> Tensor:
        weight = self.module.hidden.weight
        share = (step / self._steps).to(weight)
        logits: Tensor = self.module(self._onehot.encode(codes, weight.dtype), share)
        return logits
