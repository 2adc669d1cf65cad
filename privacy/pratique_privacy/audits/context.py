"""What everybody can compute from a candidate: distances, densities, radii and public cuts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.spec import PLANES, features_of
from pratique_common.schema import TableSchema
from pratique_privacy.agreement import CopyLikelihood
from pratique_privacy.closeness import RelativeCloseness
from pratique_privacy.neighbours import EncodedRows, MixedEncoder
from pratique_privacy.smooth import SmoothTable

Columns = Mapping[str, NDArray[Any]]
IntArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]

NEAR_QUANTILE = 0.01
"""Near is closer than 99 % of the candidate's rows are to each other (leave one out)."""

ISOLATED_QUANTILE = 0.95
"""Isolated is farther from the smooth table than 95 % of the candidate's rows are."""

_CUT_QUANTILES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_RATIO_QUANTILES = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.85,
    0.9,
    0.93,
    0.96,
    0.98,
    0.99,
    0.998,
)
_NEAR_FLOOR_SHARE = 0.5
"""Of the distance below which 1 % of smooth images have another one. Honest candidates are at .58
and .60 of it; some sixty pairs that lie together would bring the radius to nothing without it."""

MAX_CONTEXT_ROWS = 2_000
LEAST_DISTANCES = 20
_NO_DISTANCE = 1e-6  # a column's part is 1: less than any two ranks differ by


def seed_of_content(candidate: Columns) -> tuple[int, IntArray]:
    """Return a seed, and an order of rows, that the order in which rows are written is no part of.

    Nobody can choose them without changing the rows themselves.
    """
    # Planes follow from the same images as the features beside them.
    texts = [candidate[name].astype(str) for name in sorted(set(candidate) - {PLANES})]
    in_order = np.lexsort(texts)
    sha = hashlib.sha256()
    for cells in texts:
        sha.update("\0".join(cells[in_order]).encode())
    return int.from_bytes(sha.digest()[:8]), np.asarray(in_order, np.int64)


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Public cuts of scores, from the candidate's own rows, each scored without itself.

    Attributes:
        near_radius, isolated_radius: distances to the candidate and to the smooth table.
        distances, ratios, copies: ascending: distances, density ratios, and how likely rows are
            altered copies, in nats.
    """

    near_radius: float
    isolated_radius: float
    distances: Float64Array
    ratios: Float64Array
    copies: Float64Array

    @staticmethod
    def of(
        own: Float64Array, to_smooth: Float64Array, copies: Float64Array, *, least_radius: float
    ) -> "Cuts":
        """Return the cuts.

        Args:
            own: distances of some of the candidate's rows to its nearest other row.
            to_smooth: distances of the same rows to the smooth table.
            copies: cuts of how likely rows are altered copies.
            least_radius: near is never nearer than that.

        Raises:
            ValueError: too few rows that differ.
        """
        # A row with a twin says nothing of what near means, and a few planted twins would make
        # the near radius zero and switch NEAR off.
        apart = own[own > 0]
        if len(apart) < LEAST_DISTANCES:
            raise ValueError("a candidate needs rows that differ")
        return Cuts(
            near_radius=max(least_radius, float(np.quantile(apart, NEAR_QUANTILE))),
            isolated_radius=float(np.quantile(to_smooth, ISOLATED_QUANTILE)),
            distances=np.quantile(apart, _CUT_QUANTILES),
            ratios=np.quantile(density_ratio(own, to_smooth), _RATIO_QUANTILES),
            copies=copies,
        )


class CopyScore(Protocol):
    """How likely a candidate row was made of a row, fitted on the candidate alone."""

    def scores(self, columns: Columns, *, own: int | None = None) -> Float64Array:
        """Return scores of rows, (N,), in nats; ``own``: the candidate's, from this place on."""

    def cuts(self, own: Float64Array) -> Float64Array:
        """Return public cuts, (23,), ascending; ``own``: scores of the candidate's own rows."""


@dataclass(frozen=True)
class AuditContext:
    """No record of a patient is in it.

    Attributes:
        schema: of the study.
        encoder: maps rows to the space of Gower's distance.
        table: the candidate.
        candidate: its rows, encoded.
        smooth: rows of a smooth table made of the candidate: patients in general.
        copies: scores altered copies: of tables by agreement, of images by relative closeness.
        cuts: public ones of all scores.
    """

    schema: TableSchema
    encoder: MixedEncoder
    table: Columns
    candidate: EncodedRows
    smooth: EncodedRows
    copies: CopyScore
    cuts: Cuts

    @cached_property
    def levels(self) -> CopyLikelihood:
        """What puts values into levels and sub-bins, for audits that compare these."""
        if isinstance(self.copies, CopyLikelihood):
            return self.copies
        return CopyLikelihood(self.schema, self.table)

    @staticmethod
    def build(schema: TableSchema, candidate: Columns) -> "AuditContext":
        """Fit distances, radii and public cuts on the candidate.

        Raises:
            ValueError: too few rows that differ.
        """
        encoder = MixedEncoder(schema, candidate)
        rows = encoder.encode(candidate)
        if rows.num_rows < LEAST_DISTANCES:
            raise ValueError("a candidate needs more rows")
        some = min(MAX_CONTEXT_ROWS, rows.num_rows)
        seed, in_order = seed_of_content(candidate)
        rng = np.random.default_rng(seed)
        order = in_order[rng.permutation(rows.num_rows)]
        ordered = {name: values[order] for name, values in candidate.items()}
        subset = {name: values[:some] for name, values in ordered.items()}
        encoded = encoder.encode(subset)
        own = encoder.nearest(encoded, encoder.encode(ordered), leave_out_self=True).first
        whole = {name: values for name, values in ordered.items() if name != PLANES}
        smooth = encoder.encode(SmoothTable(schema, whole, rng).draw(rows.num_rows, rng))
        to_smooth = encoder.nearest(encoded, smooth).first
        least_radius = 0.0
        of_copies: type[CopyLikelihood | RelativeCloseness] = CopyLikelihood
        if features_of(schema):
            apart = encoder.nearest(smooth, smooth, leave_out_self=True).first
            least_radius = _NEAR_FLOOR_SHARE * float(np.quantile(apart, NEAR_QUANTILE))
            of_copies = RelativeCloseness
        copies: CopyScore = of_copies(schema, ordered)
        return AuditContext(
            schema=schema,
            encoder=encoder,
            table=candidate,
            candidate=rows,
            smooth=smooth,
            copies=copies,
            cuts=Cuts.of(
                own,
                to_smooth,
                copies.cuts(copies.scores(subset, own=0)),
                least_radius=least_radius,
            ),
        )


def density_ratio(to_candidate: Float64Array, to_smooth: Float64Array) -> Float64Array:
    """Return log of the ratio of densities at rows, candidate over smooth, by nearest rows."""
    return np.asarray(np.log((to_smooth + _NO_DISTANCE) / (to_candidate + _NO_DISTANCE)))
