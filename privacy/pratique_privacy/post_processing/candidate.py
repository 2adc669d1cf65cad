"""The candidate table: sampled from a model with a public seed, the same rows everywhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.encoding import IntArray, TableEncoder
from pratique_common.errors import NotEnoughDataError
from pratique_common.generators.base import Generator, GradientGenerator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.obeying import decode_obeying
from pratique_common.study import StudySpec
from pratique_common.tables import to_arrow
from pratique_privacy.post_processing.matching import matching_rows
from pratique_privacy.post_processing.one_way import OneWay
from pratique_privacy.post_processing.sequences import sample_sequences

Float64Array = NDArray[np.float64]

_BLOCK_ROWS = 20_000  # memory stays flat in the number of rows
_POOL_FACTOR = 24
"""Rows of the pool for each of the table. On Adult 24 instead of 8 bring the two-way distance from
.0221 to .0218 at ε = 1 and from .0168 to .0162 at ε = 10 (three seeds); 64 bring no more."""
_MAX_POOLS = 4
_RAKING_PASSES = 25
_MIN_RATIO, _MAX_RATIO = 0.02, 50.0
_DECODE_TRIES = 10


def sample_candidate(
    study: StudySpec, generator: Generator, one_way: OneWay, *, seed: int
) -> pa.Table:
    """Return ``release.rows`` rows that obey the study's rules.

    Of many more rows those are chosen whose two-way marginals are nearest to the model's. A model
    trained by gradients is raked before to the noisy one-way histograms. A fitted one has taken
    them into account already; it is raked to its own one-way marginals where rules threw rows out,
    since some levels (a death that needs a date) lose more than others. Values inside
    bins are drawn so that rules hold where codes allow it: only codes that cannot are thrown out.

    Raises:
        NotEnoughDataError: the generator hardly ever obeys the study's rules.
    """
    if isinstance(generator, PairwiseGenerator) and study.data.visits is not None:
        return sample_sequences(study, generator, one_way, seed=seed)
    encoder = TableEncoder(study.data, one_way.within)
    torch_rng = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    blocks: list[IntArray] = []
    for start in range(0, study.release.rows, _BLOCK_ROWS):
        num_rows = min(_BLOCK_ROWS, study.release.rows - start)
        pool, drawn = _obeying_pool(generator, encoder, num_rows, torch_rng, rng)
        trained = isinstance(generator, GradientGenerator)
        if not trained and len(pool) == len(drawn):
            weights = np.ones(len(pool))
        else:
            wanted = one_way.marginals if trained else shares(drawn, encoder.num_levels)
            weights = rake(pool, wanted)
        blocks.append(pool[matching_rows(pool, weights, num_rows, encoder.num_levels, rng)])
    chosen = np.concatenate(blocks)
    return to_arrow(_decode_all(encoder, chosen, rng), study.data)


def _obeying_pool(
    generator: Generator,
    encoder: TableEncoder,
    wanted: int,
    torch_rng: torch.Generator,
    rng: np.random.Generator,
) -> tuple[IntArray, IntArray]:
    """Return rows that obey, and all that were drawn."""
    obeying: list[IntArray] = []
    drawn: list[IntArray] = []
    for _ in range(_MAX_POOLS):
        codes = generator.sample(_POOL_FACTOR * wanted, torch_rng).numpy()
        columns, obeys = decode_obeying(encoder, codes, rng, evenly=False)
        drawn.append(encoder.blanked(codes, columns))
        obeying.append(drawn[-1][obeys])
        if sum(map(len, obeying)) >= 2 * wanted:
            return np.concatenate(obeying), np.concatenate(drawn)
    raise NotEnoughDataError(
        "the generator learnt too little to obey the study's rules", code="rules_not_learnt"
    )


def shares(
    codes_ND: IntArray, num_levels: Sequence[int], weights_N: Float64Array | None = None
) -> list[Float64Array]:
    """Return each column's shares of levels, (levels,), of rows with weights; by default equal."""
    weights = np.ones(len(codes_ND)) if weights_N is None else weights_N
    counts = [np.bincount(codes_ND[:, d], weights, n) for d, n in enumerate(num_levels)]
    return [each / weights.sum() for each in counts]


def rake(
    pool: IntArray, marginals: list[Float64Array], weights_M: Float64Array | None = None
) -> Float64Array:
    """Return weights of the pool's rows whose one-way marginals match (Deming & Stephan 1940).

    They add up to one, and are the nearest to ``weights_M``, by default equal ones.
    """
    weights: Float64Array = np.ones(len(pool)) if weights_M is None else weights_M
    weights = weights / weights.sum()
    columns = np.ascontiguousarray(pool.T)
    for _ in range(_RAKING_PASSES):
        for codes, wanted in zip(columns, marginals, strict=True):
            present = np.bincount(codes, weights, minlength=len(wanted))
            ratio = np.clip(wanted / np.maximum(present, 1e-12), _MIN_RATIO, _MAX_RATIO)
            weights *= ratio[codes]
            weights /= weights.sum()
    return np.asarray(weights)


def _decode_all(
    encoder: TableEncoder, codes: IntArray, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Decode with fresh values inside bins, so that every row obeys.

    A row that was picked twice gets two values: no synthetic row repeats another by accident.
    Rows that do not obey give way to copies of other rows' codes.
    """
    like = codes
    columns, obeys = decode_obeying(encoder, codes, rng)
    for _ in range(_DECODE_TRIES):
        broken, obeying = np.flatnonzero(~obeys), np.flatnonzero(obeys)
        if not len(broken):
            return columns
        if not len(obeying):
            break
        codes = codes.copy()
        codes[broken] = codes[rng.choice(obeying, len(broken))]
        again, obeys[broken] = decode_obeying(encoder, codes[broken], rng, like_MD=like)
        for name, values in columns.items():
            values[broken] = again[name]
    raise NotEnoughDataError(
        "the generator learnt too little to obey the study's rules", code="rules_not_learnt"
    )
