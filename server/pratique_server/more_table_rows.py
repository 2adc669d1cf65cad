"""More rows without images from a released generator, on conditions.

Columns are drawn one by one from the levels that are asked for, with weights that say how likely
the model had found these (``sample_among``); rows that break a rule of the study, or are not as
asked once their values are drawn, give way to others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.encoding import IntArray, TableEncoder
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.obeying import decode_obeying
from pratique_common.schema import TableSchema
from pratique_common.tables import to_arrow
from pratique_privacy.post_processing.candidate import rake, shares
from pratique_privacy.post_processing.matching import matching_rows, systematic
from pratique_server.conditions import Restriction, allowed_levels, met, require_asked, too_rare

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MATCHED_ROWS = 100_000
"""Larger groups are drawn plainly: matching takes 90 % of the time, and mends less in a larger
table. Two-way distance to the model of a release of 15 columns: .0076, .0047 and .0037 of 20,000,
60,000 and 100,000 matched rows; .0143, .0084 and .0067 of plain ones, .0049 of 200,000. Tables of
Adult's size are .0162 (ε = 10) from patients."""

_MATCHED_BLOCK_ROWS, _PLAIN_BLOCK_ROWS = 20_000, 50_000  # memory stays flat in the number of rows
_POOL_ROWS_A_ROW = 8
_LEAST_POOL_ROWS = 20_000
_MAX_POOLS = 16
_A_LITTLE_MORE = 1.05  # than what seems to be missing in a pool
_LEAST_SHARE_EFFECTIVE = 2.0
"""Effective pool rows, (Σw)² / Σw², for each row asked for: fewer would repeat a few rows often."""


def is_matched(rows: int) -> bool:
    """Return whether so many rows are chosen for their two-way marginals from a larger pool."""
    return rows <= _MATCHED_ROWS


def rows_at_once(rows: int) -> int:
    """Return how many of so many rows are drawn at once."""
    return _MATCHED_BLOCK_ROWS if is_matched(rows) else _PLAIN_BLOCK_ROWS


def rules_share(
    generator: PairwiseGenerator,
    encoder: TableEncoder,
    *,
    seed: tuple[int, ...],
) -> float:
    """Return what share of the generator's rows obeys the study's rules, by 20,000 of them.

    Raises:
        NotEnoughDataError: none does.
    """
    rng = np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    codes = generator.sample_among({}, _LEAST_POOL_ROWS, torch_rng)[0].numpy()
    share = float(decode_obeying(encoder, codes, rng, evenly=False)[1].mean())
    if not share:
        raise too_rare()
    return share


def draw_rows(
    schema: TableSchema,
    generator: PairwiseGenerator,
    encoder: TableEncoder,
    restrictions: Sequence[Restriction],
    rows: int,
    *,
    seed: tuple[int, ...],
    matched: bool = True,
) -> tuple[pa.Table, float]:
    """Return rows that obey restrictions and rules.

    As in a release, rows are raked to the marginals that the model had before rules threw some out.

    Args:
        schema: of the release's study.
        generator: of the release.
        encoder: decodes codes of columns.
        restrictions: that every row obeys.
        rows: how many.
        seed: the same one gives the same rows.
        matched: choose rows from a larger pool so that their two-way marginals are the model's.

    Returns:
        The rows, and the probability that a row of the generator obeys restrictions and rules.

    Raises:
        UsageError: no row can obey all restrictions.
        NotEnoughDataError: the generator hardly knows such rows.
    """

    def as_asked(codes_ND: IntArray, columns: Columns) -> BoolArray:
        return met(schema, restrictions, codes_ND, columns)

    allowed = allowed_levels(restrictions)
    rng = np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    pools: list[tuple[IntArray, Float64Array]] = []
    broken: list[tuple[IntArray, Float64Array]] = []
    values: list[Columns] = []
    most = max(_LEAST_POOL_ROWS, _POOL_ROWS_A_ROW * rows)
    drawn, size = 0, most if matched else max(_LEAST_POOL_ROWS, rows)
    for number in range(_MAX_POOLS):
        codes, weight = (t.numpy() for t in generator.sample_among(allowed, size, torch_rng))
        drawn += size
        columns, obeying = decode_obeying(encoder, codes, rng, evenly=False)
        codes = encoder.blanked(codes, columns)
        if number == 0:
            require_asked(schema, restrictions, codes, columns)
        asked = as_asked(codes, columns) & (weight > 0)
        kept, lost = asked & obeying, asked & ~obeying
        pools.append((codes[kept], weight[kept]))
        broken.append((codes[lost], weight[lost]))
        values.append({name: cells[kept] for name, cells in columns.items()})
        pool, weights = (np.concatenate(part) for part in zip(*pools, strict=True))
        found_share = effective(weights) / _effective_needed(weights, rows, matched=matched)
        if found_share >= 1:
            every, as_drawn = (np.concatenate(part) for part in zip(*pools, *broken, strict=True))
            raked = weights
            if len(every) > len(pool):
                raked = rake(pool, shares(every, encoder.num_levels, as_drawn), weights)
            if matched:
                chosen = matching_rows(pool, raked, rows, encoder.num_levels, rng)
            else:
                chosen = rng.permutation(systematic(pool, raked, rows, rng))
            found = {n: np.concatenate([each[n] for each in values])[chosen] for n in values[0]}
            fits = as_asked if restrictions else None
            fresh, fine = decode_obeying(encoder, pool[chosen], rng, like_MD=pool, fits=fits)
            for name, cells in found.items():
                cells[fine] = fresh[name][fine]
            return to_arrow(found, schema), float(weights.sum()) / drawn
        missing = drawn * (1 / found_share - 1) if found_share else most
        size = int(np.clip(_A_LITTLE_MORE * missing, _LEAST_POOL_ROWS, most))
    raise too_rare()


def effective(weights_M: Float64Array) -> float:
    """Return how many rows of equal weight are worth as much (Kish 1965)."""
    return float(weights_M.sum() ** 2 / (weights_M**2).sum()) if len(weights_M) else 0.0


def _effective_needed(weights_M: Float64Array, rows: int, *, matched: bool) -> float:
    """Return how many effective rows a pool needs: where none repeats, as many as are asked for."""
    once = not matched and len(weights_M) > 0 and weights_M.min() == weights_M.max()
    return rows * (1.0 if once else _LEAST_SHARE_EFFECTIVE)
