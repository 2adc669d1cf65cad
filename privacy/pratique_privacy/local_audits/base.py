"""What an audit is made of that stays where the records are.

These have no bounded sensitivity, or would need one hospital's counts alone: one patient may be
nearest to many rows, or move every score of a fitted attack. They are for a hospital's own eyes and
for audits of files; none leaves a site, and none passes or refuses a release.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.audits.context import AuditContext, Columns
from pratique_privacy.audits.scores import PatientScores

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class RealPatients:
    """Records of N rows and P patients beside what the candidate makes of them.

    Attributes:
        context: of the candidate.
        columns: real rows.
        owner: position of each row's patient, (N,).
        is_member: (P,).
        scores: of the patients.
    """

    context: AuditContext
    columns: Columns
    owner: NDArray[np.int64]
    is_member: BoolArray
    scores: PatientScores

    @staticmethod
    def of(
        context: AuditContext, columns: Columns, patients: NDArray[Any], is_member: BoolArray
    ) -> "RealPatients":
        """Score patients; ``is_member`` follows the order of ``np.unique(patients)``."""
        _, owner = np.unique(patients.astype(str), return_inverse=True)
        scores = PatientScores.of(context, columns, patients)
        return RealPatients(
            context=context,
            columns=columns,
            owner=owner.astype(np.int64),
            is_member=is_member,
            scores=scores,
        )

    def rows_of(self, patients: BoolArray) -> Columns:
        """Return all rows of some patients, chosen by (P,)."""
        chosen = patients[self.owner]
        return {name: values[chosen] for name, values in self.columns.items()}


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """One result; ``controls`` is what is expected if nothing was memorised.

    Attributes:
        id, title: of the audit.
        scale: what members and controls are: shares, numbers, or an AUC and one half.
        members, controls: None where a group is too small.
        interval: a lower and an upper bound of members less controls, each at 95 %; None where
            there are too few for one.
        p_value: one-sided, of members being betrayed; None where there is no valid test.
    """

    id: str
    title: str
    scale: Literal["share", "number", "auc"]
    members: float | None
    controls: float | None
    interval: tuple[float, float] | None
    p_value: float | None


class LocalAudit(Protocol):
    """One audit of the annex."""

    id: ClassVar[str]

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """Return the result."""
