"""More rows from a released generator, as asked for: post-processing, at no cost of privacy.

What comes out is no part of the release: no audit saw it, and nobody signed it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pratique_common.bundle import verify_bundle
from pratique_common.encoding import TableEncoder
from pratique_common.errors import UsageError, VerificationError
from pratique_common.generators.base import ImageGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.images.spec import VOLUME, ImageSpec
from pratique_common.study import StudySpec, parse_study_text
from pratique_common.tables import with_fresh_ids
from pratique_privacy.post_processing.one_way import OneWay
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, load_weights
from pratique_server.conditions import Restriction, in_words, levels_of, restriction_of
from pratique_server.more_images import block_rows, draw_images, require_shown, require_volumes
from pratique_server.more_table_rows import draw_rows, is_matched, rows_at_once, rules_share
from pratique_server.more_visits import draw_visits

_INSUFFICIENT_DEVIATIONS = 2.0
"""A group whose number of training patients is below two deviations of the noise that their count
had: what its rows show may be noise."""


@dataclass(frozen=True)
class Group:
    """Rows that were asked for together, and what the release knows of such patients.

    Attributes:
        condition: in words; empty for all patients.
        rows: number of rows.
        share: of such rows among all that the generator gives and rules allow; of such patients,
            where rows are visits.
        patients: as large a share of the members, whom the release's noised histograms count.
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
        where: restrictions that every row obeys; a patient's first visit, where rows are visits.
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
    generator = _generator(study)
    one_way = load_weights(verified.contents.get(WEIGHTS_FILE, b""), generator, study.data)
    encoder = TableEncoder(study.data, one_way.within)
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
    if isinstance(generator, PairwiseGenerator) and study.data.visits is not None:
        some = [(group, size) for group, size in zip(groups, sizes, strict=True) if size]
        table, of_groups = draw_visits(study.data, generator, encoder, some, seed=seed)
        asked = zip(some, of_groups, strict=True)
        found = [_group(*each, share, one_way, " at the first visit") for each, share in asked]
        return MoreRows(table, tuple(found))
    blocks, found, possible = [], [], 1.0
    if isinstance(generator, PairwiseGenerator) and any(groups):
        possible = rules_share(generator, encoder, seed=(seed,))
    for number, (restrictions, size) in enumerate(zip(groups, sizes, strict=True)):
        shares = []
        image = study.data.image
        at_once = rows_at_once(size) if image is None else block_rows(image, slices)
        for start in range(0, size, at_once):
            block, of_block = min(at_once, size - start), (seed, number, start)
            if isinstance(generator, PairwiseGenerator):
                table, share = draw_rows(
                    study.data,
                    generator,
                    encoder,
                    restrictions,
                    block,
                    seed=of_block,
                    matched=is_matched(size),
                )
                masks = None
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
            # Both are estimates: their ratio may be above 1 by a little.
            share = min(1.0, float(np.mean(shares)) / possible) if restrictions else 1.0
            found.append(_group(restrictions, size, share, one_way))
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


def _group(
    restrictions: Sequence[Restriction], rows: int, share: float, one_way: OneWay, when: str = ""
) -> Group:
    fewest = min((int(r.levels.sum()) for r in restrictions), default=1)
    return Group(
        condition=in_words(restrictions) + when * bool(restrictions),
        rows=rows,
        share=share,
        patients=share * one_way.patients,
        noise=one_way.noise * sqrt(fewest),
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
