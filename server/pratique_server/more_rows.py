"""More rows from a released generator, as asked for: post-processing, at no cost of privacy.

What comes out is no part of the release: no audit saw it, and nobody signed it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.bundle import verify_bundle
from pratique_common.encoding import IntArray, TableEncoder
from pratique_common.errors import UsageError, VerificationError
from pratique_common.generators.base import ImageGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.images.spec import VOLUME, ImageSpec
from pratique_common.study import StudySpec, parse_study_text
from pratique_common.tables import to_arrow, with_fresh_ids
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.post_processing.matching import matching_rows
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, load_weights
from pratique_server.conditions import (
    Restriction,
    allowed_levels,
    levels_of,
    restriction_of,
    too_rare,
    within_ends,
)
from pratique_server.more_images import block_rows, draw_images, require_shown, require_volumes

_BLOCK_ROWS = 20_000  # memory stays flat in the number of rows
_POOL_ROWS_A_ROW = 8
_LEAST_POOL_ROWS = 20_000
_MAX_POOLS = 16
_REDRAWS = 20
_LEAST_SHARE_EFFECTIVE = 2.0
"""Effective pool rows, (Σw)² / Σw², for each row asked for: fewer would repeat a few rows often."""

_INSUFFICIENT_DEVIATIONS = 2.0
"""A group whose number of training patients is below two deviations of the noise that their count
had: what its rows show may be noise."""


@dataclass(frozen=True)
class Group:
    """Rows that were asked for together, and what the release knows of such patients.

    Attributes:
        condition: in words; empty for all patients.
        rows: number of rows.
        share: of such patients, by the generator.
        patients: the share of the members that the study plans for.
        noise: deviation of the noise that a count of them had in training.
    """

    condition: str
    rows: int
    share: float
    patients: float
    noise: float

    @property
    def sufficient(self) -> bool:
        """Whether training knew more of the group than noise."""
        return self.patients >= _INSUFFICIENT_DEVIATIONS * self.noise


@dataclass(frozen=True)
class MoreRows:
    """A table, and what each group of its rows rests on.

    Attributes:
        table: with images, if the study has them.
        groups: of its rows.
        image: what an image is, if there are any.
        masks: of the images, (N, H, W), where the generator knows what they show.
    """

    table: pa.Table
    groups: tuple[Group, ...]
    image: ImageSpec | None = None
    masks: NDArray[np.uint8] | None = None


def sample_more_rows(
    bundle: Path,
    *,
    rows: int,
    where: Sequence[str],
    balance: str | None,
    seed: int,
    slices: int | None = None,
) -> MoreRows:
    """Return rows of a verified release's generator.

    Args:
        bundle: folder or ``.zip`` of a release.
        rows: how many.
        where: restrictions that every row obeys.
        balance: a column of whose levels all get as many rows, up to one.
        seed: the same seed gives the same rows.
        slices: of a volume of images that each of the rows becomes; a column tells which.

    Raises:
        VerificationError: the bundle does not verify, or is a refusal.
        UsageError: a restriction does not fit the study.
        NotEnoughDataError: the generator hardly knows such rows.
    """
    verified = verify_bundle(bundle)
    if verified.manifest.kind != "release":
        raise VerificationError("a refusal holds no generator")
    study = parse_study_text(verified.contents["study.toml"].decode(), source="study.toml")
    if study.data.visits is not None:
        raise UsageError("rows of this release are patients' visits: take them from the release")
    generator = _generator(study)
    within_S = load_weights(verified.contents.get(WEIGHTS_FILE, b""), generator, study.data)
    encoder = TableEncoder(study.data, within_S)
    common = [restriction_of(study.data, text) for text in where]
    groups = [common]
    if balance is not None:
        groups = [[*common, each] for each in levels_of(study.data, balance, common)]
    _check_conditions(study, generator, common, balance)
    if slices is not None:
        if isinstance(generator, PairwiseGenerator):
            raise UsageError("--slices: this release has no images; leave it out")
        require_volumes(study.data, generator, common)
    sizes = [len(part) for part in np.array_split(np.arange(rows), len(groups))]
    num_sites = sum(signer.role == "site" for signer in verified.manifest.signers)
    at_once = _BLOCK_ROWS if study.data.image is None else block_rows(study.data.image, slices)
    blocks, found = [], []
    for number, (restrictions, size) in enumerate(zip(groups, sizes, strict=True)):
        shares = []
        for start in range(0, size, at_once):
            block, of_block = min(at_once, size - start), (seed, number, start)
            if isinstance(generator, PairwiseGenerator):
                drawn = _draw(study, generator, encoder, restrictions, block, seed=of_block)
                table, masks, share = drawn[0], None, drawn[1]
            else:
                table, masks, share = draw_images(
                    study.data,
                    generator,
                    encoder,
                    restrictions,
                    block,
                    seed=of_block,
                    slices=slices,
                )
            blocks.append((table, masks))
            shares.append(share)
        if shares:
            found.append(_group(study, restrictions, size, float(np.mean(shares)), num_sites))
    table = with_fresh_ids(pa.concat_tables([each for each, _ in blocks]), study.data)
    if slices is not None:
        volume = np.repeat(np.arange(table.num_rows // slices), slices)
        table = table.append_column(VOLUME, pa.array(volume))
    known = [masks for _, masks in blocks if masks is not None]
    return MoreRows(table, tuple(found), study.data.image, np.concatenate(known) if known else None)


def _generator(study: StudySpec) -> PairwiseGenerator | ImageGenerator:
    generator = build_generator(study)
    if not isinstance(generator, PairwiseGenerator | ImageGenerator):
        raise UsageError(
            f"the generator '{study.generator.name}' gives no rows on conditions; "
            "use a release of the generator 'pairwise'"
        )
    return generator


def _check_conditions(
    study: StudySpec,
    generator: PairwiseGenerator | ImageGenerator,
    common: Sequence[Restriction],
    balance: str | None,
) -> None:
    """Refuse conditions that the images of a release know nothing of."""
    if isinstance(generator, PairwiseGenerator):
        return
    for restriction in common:
        require_shown(study.data, generator, restriction.column, option="--where")
    if balance is not None:
        place = study.data.names.index(balance)
        require_shown(study.data, generator, place, option="--balance")


def _draw(
    study: StudySpec,
    generator: PairwiseGenerator,
    encoder: TableEncoder,
    restrictions: Sequence[Restriction],
    rows: int,
    *,
    seed: tuple[int, int, int],
) -> tuple[pa.Table, float]:
    """Return rows that obey restrictions and rules, and the probability of the restrictions."""

    def obeys(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        return study.data.obeys_rules(columns) & within_ends(study.data, restrictions, columns)

    allowed = allowed_levels(restrictions)
    rng = np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    pools: list[tuple[IntArray, NDArray[np.float64]]] = []
    values: list[Mapping[str, NDArray[Any]]] = []
    drawn = 0
    for _ in range(_MAX_POOLS):
        size = max(_LEAST_POOL_ROWS, _POOL_ROWS_A_ROW * rows)
        codes, weight = (t.numpy() for t in generator.sample_among(allowed, size, torch_rng))
        drawn += size
        columns = encoder.decode(codes, rng)
        kept = obeys(columns) & (weight > 0)
        pools.append((encoder.blanked(codes, columns)[kept], weight[kept]))
        values.append({name: cells[kept] for name, cells in columns.items()})
        pool, weights = (np.concatenate(part) for part in zip(*pools, strict=True))
        if len(weights) and weights.sum() ** 2 / (weights**2).sum() >= (
            _LEAST_SHARE_EFFECTIVE * rows
        ):
            chosen = matching_rows(pool, weights, rows, encoder.num_levels, rng)
            found = {n: np.concatenate([each[n] for each in values])[chosen] for n in values[0]}
            _redraw_repeated(found, chosen, pool, encoder, rng, obeys)
            return to_arrow(found, study.data), float(weights.sum()) / drawn
    raise too_rare()


def _redraw_repeated(
    columns: Mapping[str, NDArray[Any]],
    chosen: IntArray,
    pool: IntArray,
    encoder: TableEncoder,
    rng: np.random.Generator,
    obeys: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.bool_]],
) -> None:
    """Give rows that were chosen again other values inside their bins, where some obey."""
    _, first = np.unique(chosen, return_index=True)
    again = np.setdiff1d(np.arange(len(chosen)), first)
    for _ in range(_REDRAWS):
        if not len(again):
            return
        fresh = encoder.decode(pool[chosen[again]], rng, like_MD=pool)
        fine = obeys(fresh)
        for name, cells in columns.items():
            cells[again[fine]] = fresh[name][fine]
        again = again[~fine]


def _group(
    study: StudySpec,
    restrictions: Sequence[Restriction],
    rows: int,
    share: float,
    num_sites: int,
) -> Group:
    plan = PrivacyPlan(study)
    cell = plan.histogram_sum(max(1, num_sites)).share_sigmas()[0] * sqrt(num_sites)
    fewest = min((int(r.levels.sum()) for r in restrictions), default=1)
    return Group(
        condition=" and ".join(r.text for r in restrictions),
        rows=rows,
        share=share,
        patients=share * study.expected_members,
        noise=cell * sqrt(fewest),
    )


def as_data(result: MoreRows) -> list[Mapping[str, Any]]:
    """Return the groups as JSON-able data; one that is mostly noise has no number of patients."""
    return [
        {
            "condition": group.condition,
            "rows": group.rows,
            "share": group.share if group.sufficient else None,
            "training_patients_about": round(group.patients) if group.sufficient else None,
            "noise_of_a_count": group.noise,
            "sufficient": group.sufficient,
        }
        for group in result.groups
    ]
