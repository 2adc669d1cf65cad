"""Scores of patients: public functions of their own records and of a candidate."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.rules import is_missing
from pratique_common.schema import TableSchema
from pratique_privacy.audits.context import AuditContext, Columns, Cuts, density_ratio
from pratique_privacy.neighbours import EncodedRows

_SAME_NUMBER = 0.05
"""Ranks that differ by no more count as the same number."""

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PatientScores:
    """Scores of P patients: as sensitive as the records.

    Attributes:
        distance: to the nearest candidate row, the least over a patient's rows.
        ratio: of the nearest to the second nearest distance, the least over a patient's rows.
        density_ratio: of candidate to smooth table, in nats, the largest over a patient's rows; of
            an isolated patient over those that are isolated.
        isolated: whether any row lies where the smooth table has hardly any.
        linkable: whether one candidate row is nearest on both halves of the columns, for any row.
        inferred: whether the row nearest on all columns but one has the patient's value there, and
            it is neither missing nor the commonest one.
        copied: likelihood ratio, in nats, that a candidate row was made of one of the patient's.
    """

    distance: Float64Array
    ratio: Float64Array
    density_ratio: Float64Array
    isolated: BoolArray
    linkable: BoolArray
    inferred: BoolArray
    copied: Float64Array

    @staticmethod
    def of(context: AuditContext, columns: Columns, patients: NDArray[Any]) -> "PatientScores":
        """Score patients; ``patients`` names whose each row is; order follows ``np.unique``."""
        rows = context.encoder.encode(columns)
        found = context.encoder.nearest(rows, context.candidate)
        names, owner = np.unique(patients.astype(str), return_inverse=True)
        return PatientScores.of_rows(
            owner,
            context.cuts,
            first=found.first,
            second=found.second,
            to_smooth=context.encoder.nearest(rows, context.smooth).first,
            linkable=found.linkable,
            inferred=_inferred(context, columns, rows, names, owner),
            copied=context.copies.scores(columns),
        )

    @staticmethod
    def of_rows(
        owner: IntArray,
        cuts: Cuts,
        *,
        first: Float64Array,
        second: Float64Array,
        to_smooth: Float64Array,
        linkable: BoolArray,
        inferred: BoolArray,
        copied: Float64Array,
    ) -> "PatientScores":
        """Bring scores of N rows together: of each patient the most incriminating one.

        Args:
            owner: position of each row's patient, (N,), all of 0 to P - 1.
            cuts: of the candidate.
            first, second: distances to the two nearest candidate rows.
            to_smooth: distances to the smooth table.
            inferred: of patients already, (P,).
            linkable, copied: as in the class.
        """
        order = np.argsort(owner, kind="stable")
        starts = np.flatnonzero(np.diff(owner[order], prepend=-1))

        def over(function: np.ufunc, scores: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(function.reduceat(scores[order], starts))

        # A tie at zero has ratio 1: two identical candidate rows are no sign of a copy.
        ratio = np.where(second > 0, first / np.maximum(second, 1e-12), 1.0)
        density = density_ratio(first, to_smooth)
        row_isolated = to_smooth > cuts.isolated_radius
        isolated = over(np.logical_or, row_isolated)
        return PatientScores(
            distance=over(np.minimum, first),
            ratio=over(np.minimum, ratio),
            density_ratio=np.where(
                isolated,
                over(np.maximum, np.where(row_isolated, density, -np.inf)),
                over(np.maximum, density),
            ),
            isolated=isolated,
            linkable=over(np.logical_or, linkable),
            inferred=inferred,
            copied=over(np.maximum, copied),
        )

    def of_group(self, chosen: BoolArray) -> "PatientScores":
        """Return the scores of some patients, ``chosen`` of shape (P,)."""
        return PatientScores(**{name: values[chosen] for name, values in vars(self).items()})


def secrets_of(schema: TableSchema) -> tuple[str, ...]:
    """Return the columns that an attacker may want to know: the sensitive ones, or the target."""
    return schema.sensitive or ((schema.target,) if schema.target else schema.names)


def _inferred(
    context: AuditContext, columns: Columns, rows: EncodedRows, names: NDArray[Any], owner: IntArray
) -> BoolArray:
    """Return for each patient whether its secret is what the nearest candidate row says, (P,).

    The attacker knows all other columns. The commonest value gives nothing away: a guess without
    any table would be as good, and successes with it would drown the others. Of several secrets
    each patient has one, by a hash of its name: one patient then counts once, and the rate is the
    secrets' mean. Of several rows the one that is nearest on the other columns is taken.
    """
    secrets = secrets_of(context.schema)
    which = np.array([_hashed(name) % len(secrets) for name in names.tolist()], np.int64)
    inferred = np.zeros(len(names), np.bool_)
    for number, secret in enumerate(secrets):
        chosen = np.flatnonzero(which[owner] == number)
        if len(chosen) == 0:
            continue
        encoder = context.encoder
        found = encoder.nearest(
            encoder.without(secret, rows.take(chosen)), encoder.without(secret, context.candidate)
        )
        said = context.table[secret][found.nearest]
        column = context.schema.column(secret)
        right = encoder.agree(column, columns[secret][chosen], said, within=_SAME_NUMBER)
        right &= ~is_missing(said) & (said != commonest(context.table[secret]))
        order = np.lexsort((found.first, owner[chosen]))
        patient, first = np.unique(owner[chosen][order], return_index=True)
        inferred[patient] = right[order][first]
    return inferred


def commonest(values: NDArray[Any]) -> Any:
    """Return the value that most rows have; None if none has one."""
    known = Counter(values[~is_missing(values)].tolist())
    return known.most_common(1)[0][0] if known else None


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
