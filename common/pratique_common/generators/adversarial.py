"""Conditional adversarial networks for tables: only the critic ever meets records.

Sites add up clipped gradients of the critic's loss on real rows. Its loss on made-up rows and all
of the maker's training need no record, so the coordinator does them for nothing (DPGAN: Xie et al.
2018, arXiv 1802.06739). Two losses: ``gan`` (Goodfellow et al. 2014) and ``wasserstein`` with
clipped weights (Arjovsky et al. 2017, arXiv 1701.07875).

As in CTGAN (Xu et al. 2019, arXiv 1907.00503) rows are made on a condition, one level of one
column; real rows carry as theirs the level of a random column. Choosing real rows by condition, as
there, would need an accounting of its own. Made-up rows are relaxed to probabilities with Gumbel's
noise (Jang et al. 2017, arXiv 1611.01144).

Shapes: B patients, K rows a patient, N rows, D columns, C = all levels of all columns.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.onehot import OneHot
from pratique_common.generators.trained import TrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 8_192
_TEMPERATURE = 0.5
_SLOPE = 0.2


class Settings(Spec):
    """Settings of ``[generator] name = "adversarial"``."""

    objective: Literal["gan", "wasserstein"] = "gan"
    hidden_units: int = Field(default=128, ge=8, le=4096)
    latent_variables: int = Field(default=32, ge=1, le=512)
    weight_bound: float = Field(default=0.1, gt=0, le=10, description="wasserstein: of a weight")


class _Network(nn.Module):
    """Critic and maker; sites train the one and never get the other."""

    def __init__(self, levels: list[int], settings: Settings) -> None:
        super().__init__()
        cells, hidden = sum(levels), settings.hidden_units
        self.critic_in = nn.Linear(2 * cells, hidden)
        self.critic_hidden = nn.Linear(hidden, hidden)
        self.critic_out = nn.Linear(hidden, 1)
        self.maker_in = nn.Linear(cells + settings.latent_variables, hidden)
        self.maker_hidden = nn.Linear(hidden, hidden)
        self.maker_out = nn.Linear(hidden, cells)
        marginals = torch.cat([torch.full((n,), 1 / n) for n in levels])
        self.marginals = nn.Parameter(marginals, requires_grad=False)
        for parameter in self.maker_weights():
            parameter.requires_grad_(False)

    def maker_weights(self) -> list[nn.Parameter]:
        """Return the maker's weights: frozen, except while the coordinator trains them."""
        layers = (self.maker_in, self.maker_hidden, self.maker_out)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def critic(self, rows: Tensor, condition: Tensor) -> Tensor:
        """Return how real rows (..., C) seem under a condition (..., C), (...)."""
        hidden = leaky_relu(self.critic_in(torch.cat([rows, condition], dim=-1)), _SLOPE)
        score: Tensor = self.critic_out(leaky_relu(self.critic_hidden(hidden), _SLOPE))
        return score[..., 0]

    def maker(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return logits of made-up rows, (N, C)."""
        hidden = torch.relu(self.maker_in(torch.cat([condition, noise], dim=-1)))
        logits: Tensor = self.maker_out(hidden + torch.relu(self.maker_hidden(hidden)))
        return logits


class AdversarialGenerator(TrainedGenerator[_Network]):
    """See the module's text; implements ``CriticGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        self.settings = settings
        self._onehot = OneHot(schema)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = _Network(self._onehot.levels, settings)

    @property
    def learning_rate(self) -> float:
        """Chosen on Adult's rows at ε = 10: of .001, .002 and .005 Wasserstein's best was .002."""
        return 2e-3 if self.settings.objective == "wasserstein" else 5e-3

    @property
    def weight_bound(self) -> float | None:
        """Of the critic's weights, after each step."""
        settings = self.settings
        return settings.weight_bound if settings.objective == "wasserstein" else None

    @property
    def levels_off(self) -> bool:
        """Wasserstein's loss does not."""
        return self.settings.objective == "gan"

    def maker_weights(self) -> list[nn.Parameter]:
        """Return the weights that the coordinator trains."""
        return self.module.maker_weights()

    def set_marginals(self, marginals: Marginals) -> None:
        """Start from the columns' own distributions, and draw conditions from them."""
        logs = self._onehot.log_marginals(marginals)
        with torch.no_grad():
            self.module.maker_out.bias.copy_(logs)
            self.module.marginals.copy_(self._onehot.of_softmax(logs))

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return each patient's mean loss of the critic on real rows, (B,)."""
        real = self._onehot.encode(codes_BKD, weight_BK.dtype)
        condition = real * self._one_column(codes_BKD.shape[:-1], None).to(real)
        loss_B: Tensor = (self._hostile(self.module.critic(real, condition)) * weight_BK).sum(1)
        return loss_B

    def made_up_loss(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return the critic's loss on each of so many made-up rows, (N,): public."""
        with torch.no_grad():
            rows, condition, _ = self._make(num_rows, rng)
        return self._hostile(-self.module.critic(rows, condition))

    def maker_loss(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return the maker's loss: seem real, and obey the condition."""
        rows, condition, logits = self._make(num_rows, rng)
        made, wanted = self._onehot.by_column(logits), self._onehot.by_column(condition)
        obeyed = torch.stack(
            [(w * m.log_softmax(-1)).sum(-1) for m, w in zip(made, wanted, strict=True)]
        ).sum(0)
        return (self._hostile(self.module.critic(rows, condition)) - obeyed).mean()

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D)."""
        blocks = []
        for start in range(0, num_rows, _SAMPLE_BLOCK_ROWS):
            condition = self._conditions(min(_SAMPLE_BLOCK_ROWS, num_rows - start), rng)
            blocks.append(self._onehot.draw(self._maker_logits(condition, rng), rng))
        return torch.cat(blocks)

    def _hostile(self, score: Tensor) -> Tensor:
        """Return what the critic pays for a real row of this score."""
        return -score if self.settings.objective == "wasserstein" else softplus(-score)

    def _make(self, num_rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        condition = self._conditions(num_rows, rng)
        logits = self._maker_logits(condition, rng)
        uniform = torch.rand(logits.shape, generator=rng).clamp(min=1e-20)
        gumbel = -(-uniform.log()).clamp(min=1e-20).log()
        parts = self._onehot.by_column((logits + gumbel) / _TEMPERATURE)
        return torch.cat([part.softmax(-1) for part in parts], dim=-1), condition, logits

    def _maker_logits(self, condition: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(len(condition), self.settings.latent_variables, generator=rng)
        return self.module.maker(condition, noise)

    def _conditions(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return one level of one column a row, drawn from the marginals, (num_rows, C)."""
        parts = self._onehot.by_column(self.module.marginals)
        codes = [torch.multinomial(part, num_rows, True, generator=rng) for part in parts]
        rows = self._onehot.encode(torch.stack(codes, dim=1))
        return rows * self._one_column((num_rows,), rng)

    def _one_column(self, shape: tuple[int, ...], rng: torch.Generator | None) -> Tensor:
        """Return a mask of all cells of one random column, (*shape, C)."""
        levels = self._onehot.levels
        chosen = torch.randint(len(levels), shape, generator=rng)
        column_of_cell = torch.repeat_interleave(torch.tensor(levels))
        return (column_of_cell == chosen[..., None]).float()
