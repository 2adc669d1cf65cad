"""A masked autoregressive network over the columns of a table.

p(row) = Π p(column | earlier columns) with one hidden layer and a linear skip, as in MADE (Germain
et al. 2015, arXiv 1502.03509). Order: the target first, then ascending number of levels: on Adult
the label first gave .02 AUC, while width 32-256 and depth changed less than .001.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pratique_common.column_base import Spec
from pratique_common.generators.base import Marginals
from pratique_common.generators.masked import MaskedLinear
from pratique_common.generators.trained import TrainedGenerator
from pratique_common.schema import TableSchema

_SAMPLE_BLOCK_ROWS = 8192
_MIN_LOG_PROBABILITY = -9.0


class Settings(Spec):
    """Settings of ``[generator] name = "autoregressive"``."""

    hidden_units: int = Field(default=128, ge=8, le=4096)


class _Network(nn.Module):
    """Logits of every column given the columns before it; inputs are concatenated one-hots."""

    def __init__(self, num_levels: list[int], hidden_units: int, rng: torch.Generator) -> None:
        super().__init__()
        column_of_cell = torch.repeat_interleave(torch.tensor(num_levels))
        # Units with equal inputs lie side by side: norms are taken a run of units at a time.
        last_input_of_unit = (
            torch.arange(hidden_units) * max(1, len(num_levels) - 1) // hidden_units
        )
        before_unit = column_of_cell[None, :] <= last_input_of_unit[:, None]
        unit_before_cell = last_input_of_unit[None, :] < column_of_cell[:, None]
        before_cell = column_of_cell[None, :] < column_of_cell[:, None]
        self.hidden = MaskedLinear(before_unit, scale=2.0, rng=rng)
        self.output = MaskedLinear(unit_before_cell, scale=0.1, rng=rng)
        self.skip = MaskedLinear(before_cell, scale=0.0, rng=rng)
        self.skip.bias.requires_grad_(False)  # the output layer has one already

    def forward(self, onehot: Tensor) -> Tensor:
        """Return logits (..., C) of one-hot rows (..., C)."""
        logits: Tensor = self.output(torch.relu(self.hidden(onehot))) + self.skip(onehot)
        return logits


class AutoregressiveGenerator(TrainedGenerator[_Network]):
    """See the module's text; implements ``GradientGenerator``."""

    def __init__(self, schema: TableSchema, settings: Settings, seed: int) -> None:
        levels = [column.num_levels for column in schema.columns]
        target = None if schema.target is None else schema.names.index(schema.target)
        self._order = sorted(range(len(levels)), key=lambda d: (d != target, levels[d], d))
        self._levels = [levels[d] for d in self._order]
        self._offsets = np.concatenate([[0], np.cumsum(self._levels)]).tolist()
        rng = torch.Generator().manual_seed(seed)
        self.module = _Network(self._levels, settings.hidden_units, rng)

    def set_marginals(self, marginals: Marginals) -> None:
        """Set the output biases to the log of one-way marginals."""
        logs = np.concatenate([np.log(np.maximum(marginals[d], 1e-12)) for d in self._order])
        with torch.no_grad():
            bias = torch.tensor(logs, dtype=torch.float32).clamp(min=_MIN_LOG_PROBABILITY)
            self.module.output.bias.copy_(bias)

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return the mean negative log likelihood of each patient's rows, shape (B,)."""
        ordered = codes_BKD[..., self._order]
        cells = ordered + torch.tensor(self._offsets[:-1], device=codes_BKD.device)
        shape = (*codes_BKD.shape[:-1], self._offsets[-1])
        onehot = torch.zeros(shape, dtype=weight_BK.dtype, device=codes_BKD.device)
        logits = self.module(onehot.scatter_(-1, cells, 1.0))
        parts = torch.split(logits, self._levels, dim=-1)
        log_normaliser = torch.stack([part.logsumexp(-1) for part in parts]).sum(0)
        loss_BK = log_normaliser - logits.gather(-1, cells).sum(-1)
        loss_B: Tensor = (loss_BK * weight_BK).sum(1)
        return loss_B

    @torch.no_grad()
    def sample(self, num_rows: int, rng: torch.Generator) -> Tensor:
        """Return codes of shape (num_rows, D), drawn column by column."""
        blocks = [
            self._sample_block(min(_SAMPLE_BLOCK_ROWS, num_rows - start), rng)
            for start in range(0, num_rows, _SAMPLE_BLOCK_ROWS)
        ]
        ordered = torch.cat(blocks)
        codes = torch.empty_like(ordered)
        codes[:, self._order] = ordered
        return codes

    def _sample_block(self, num_rows: int, rng: torch.Generator) -> Tensor:
        network = self.module
        hidden_by_cell = network.hidden.dense_weight().T.contiguous()
        skip_by_cell = network.skip.dense_weight().T.contiguous()
        output = network.output.dense_weight()
        # A drawn level adds one row of weights, instead of a whole pass through the network.
        hidden = network.hidden.bias.expand(num_rows, -1).clone()
        skip = network.skip.bias.expand(num_rows, -1).clone()
        codes = torch.empty(num_rows, len(self._levels), dtype=torch.long)
        for column, (start, end) in enumerate(self._slices()):
            direct = network.output.bias[start:end] + skip[:, start:end]
            logits = torch.relu(hidden) @ output[start:end].T + direct
            drawn = torch.multinomial(torch.softmax(logits, 1), 1, generator=rng)[:, 0]
            codes[:, column] = drawn
            hidden += hidden_by_cell[start + drawn]
            skip += skip_by_cell[start + drawn]
        return codes

    def _slices(self) -> list[tuple[int, int]]:
        return list(zip(self._offsets, self._offsets[1:], strict=False))
