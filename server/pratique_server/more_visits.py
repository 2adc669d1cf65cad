"""More visits from a released generator: patients whose first visit is as asked.

First visits are drawn on conditions, and later ones follow from them, as in a release; columns that
are fixed within a patient stay as asked.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.encoding import IntArray, TableEncoder
from pratique_common.errors import NotEnoughDataError
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.obeying import decode_obeying
from pratique_common.rules import BoolArray
from pratique_common.schema import TableSchema
from pratique_common.tables import to_arrow
from pratique_privacy.post_processing.matching import systematic
from pratique_privacy.post_processing.sequences import Values, VisitSampler
from pratique_server.conditions import Restriction, allowed_levels, met, require_asked, too_rare
from pratique_server.more_table_rows import effective

Float64Array = NDArray[np.float64]

_POOL_PATIENTS_A_PATIENT = 8
_MAX_POOLS = 16
_COUNTED = 20_000  # patients that tell what share is as asked
_LEAST_SHARE = 0.02
"""Of patients whose first visit is as asked after all tries: fewer take minutes for a few rows."""


def draw_visits(
    schema: TableSchema,
    generator: PairwiseGenerator,
    encoder: TableEncoder,
    groups: Sequence[tuple[Sequence[Restriction], int]],
    *,
    seed: int,
) -> tuple[pa.Table, list[float]]:
    """Return visits of patients of several groups, one after the other.

    Args:
        schema: of the release's study.
        generator: of the release.
        encoder: decodes codes of columns.
        groups: of each, what first visits obey, and how many visits, one or more: the last
            patient's may be cut short.
        seed: the same one gives the same rows.

    Returns:
        The visits, and of each group the share of such patients among all.

    Raises:
        UsageError: no visit can obey all restrictions.
        NotEnoughDataError: the generator hardly knows such patients.
    """
    possible = 1.0
    if any(restrictions for restrictions, _ in groups):
        possible = _Patients(schema, generator, encoder, (), (seed,)).share()
    numbers: list[IntArray] = []
    parts: list[Values] = []
    shares, num_patients = [], 0
    for place, (restrictions, size) in enumerate(groups):
        patients = _Patients(schema, generator, encoder, restrictions, (seed, place))
        # Both are estimates: their ratio may be above 1 by a little.
        shares.append(min(1.0, patients.share() / possible) if restrictions else 1.0)
        number, values = patients.rows(size)
        numbers.append(number + num_patients)
        parts.append(values)
        num_patients += int(number.max()) + 1
    columns = {name: np.concatenate([part[name] for part in parts]) for name in schema.names}
    return to_arrow(columns, schema, np.concatenate(numbers)), shares


class _Patients:
    """Patients of one group."""

    def __init__(
        self,
        schema: TableSchema,
        generator: PairwiseGenerator,
        encoder: TableEncoder,
        restrictions: Sequence[Restriction],
        seed: tuple[int, ...],
    ) -> None:
        self._schema, self._generator, self._encoder = schema, generator, encoder
        self._restrictions = restrictions
        self._allowed = allowed_levels(restrictions)
        self._rng = np.random.default_rng(seed)
        self._torch_rng = torch.Generator().manual_seed(int(self._rng.integers(2**62)))
        self._sampler = VisitSampler(
            schema, generator, encoder, self._torch_rng, self._rng,
            first=self._first, fits=self._fits, least_share=_LEAST_SHARE,
        )  # fmt: skip

    def rows(self, num_rows: int) -> tuple[IntArray, Values]:
        """Return whose each visit is, from 0, and values.

        Raises:
            NotEnoughDataError: the generator hardly knows such patients.
        """
        try:
            return self._sampler.rows(num_rows)
        except NotEnoughDataError:
            raise too_rare() from None

    def share(self) -> float:
        """Return the probability that a patient of the generator is one of these and obeys rules.

        Raises:
            UsageError: a restriction is on a cell that none of these is asked for.
            NotEnoughDataError: it is 0, as far as 20,000 patients show.
        """
        codes_BT, weights = self._among_allowed(_COUNTED)
        codes_BD = codes_BT[:, : len(self._schema.columns)]
        values, obeys = decode_obeying(self._encoder, codes_BD, self._rng, evenly=False)
        codes_BD = self._encoder.blanked(codes_BD, values)
        require_asked(self._schema, self._restrictions, codes_BD, values)
        share = float((weights * (obeys & self._fits(codes_BD, values))).mean())
        if not share:
            raise too_rare()
        return share

    def _first(self, num_patients: int) -> IntArray:
        """Return codes (B, T) of first visits that have allowed levels."""
        if not self._allowed:
            return self._among_allowed(num_patients)[0]
        pools: list[tuple[IntArray, Float64Array]] = []
        for _ in range(_MAX_POOLS):
            pools.append(self._among_allowed(_POOL_PATIENTS_A_PATIENT * num_patients))
            codes, weights = (np.concatenate(part) for part in zip(*pools, strict=True))
            if effective(weights) >= num_patients:
                chosen = systematic(codes, weights, num_patients, self._rng)
                return np.asarray(codes[self._rng.permutation(chosen)])
        raise too_rare()

    def _among_allowed(self, num_patients: int) -> tuple[IntArray, Float64Array]:
        drawn = self._generator.first_visits_among(self._allowed, num_patients, self._torch_rng)
        codes, weights = (each.numpy() for each in drawn)
        return codes, weights

    def _fits(self, codes_BD: IntArray, values: Values) -> BoolArray:
        return met(self._schema, self._restrictions, codes_BD, values)
