"""ATTRIBUTE: a model trained on the synthetic table predicts a secret: better for members?

What it tells of everybody is what the table is for; only what it tells of members more than of
patients whom the table never saw is a leak.
"""

from collections import Counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from pratique_common.columns import CategoricalColumn
from pratique_privacy.audits.context import seed_of_content
from pratique_privacy.audits.scores import secrets_of
from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import of_means

_CLASSES = 5  # of a number: fifths of the candidate's
_MOST_LEVELS = 9
"""The commonest; all others together are one more: a tree a level and round."""
_TREES = 50
_MOST_SECRETS = 8  # a model each


class AttributeInference:
    """Probability of the patient's own value, over all secrets; Mann-Whitney, members higher."""

    id: ClassVar[str] = "ATTRIBUTE"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        context, is_member = patients.context, patients.is_member
        seed = seed_of_content(context.table)[0] % 2**32
        table_RD = context.levels.codes(context.table)
        rows_ND = context.levels.codes(patients.columns)
        sure_P = np.zeros(len(is_member))
        known = secrets_of(context.schema)
        secrets = known[:_MOST_SECRETS]
        left_out = f", first {_MOST_SECRETS} of {len(known)}" if len(known) > len(secrets) else ""
        for secret in secrets:
            place = context.schema.names.index(secret)
            said, truth = _classes(patients, secret)
            sure_N = np.zeros(len(truth))
            if len(np.unique(said)) > 1:
                model = HistGradientBoostingClassifier(
                    max_iter=_TREES, early_stopping=False, random_state=seed
                )
                model.fit(np.delete(table_RD, place, axis=1), said)
                probability = model.predict_proba(np.delete(rows_ND, place, axis=1))
                for column, level in enumerate(model.classes_):
                    sure_N[truth == level] = probability[truth == level, column]
            rows_P = np.bincount(patients.owner, minlength=len(is_member))
            sure_P += np.bincount(patients.owner, sure_N, minlength=len(is_member)) / rows_P
        members, controls = sure_P[is_member], sure_P[~is_member]
        return LocalResult(
            id=AttributeInference.id,
            title="Sensitive values predicted by a model of the table" + left_out,
            scale="share",
            members=float(members.mean() / len(secrets)),
            controls=float(controls.mean() / len(secrets)),
            interval=of_means(members / len(secrets), controls / len(secrets)),
            p_value=float(stats.mannwhitneyu(members, controls, alternative="greater").pvalue),
        )


def _classes(patients: RealPatients, secret: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what the candidate's rows and the real rows have, as classes; missing is one."""
    table, rows = patients.context.table[secret], patients.columns[secret]
    column = patients.context.schema.column(secret)
    if isinstance(column, CategoricalColumn):
        common = Counter(table.tolist()).most_common(_MOST_LEVELS)
        place = {level: code for code, (level, _) in enumerate(common)}
        return tuple(  # type: ignore[return-value]
            np.array([place.get(value, _MOST_LEVELS) for value in values.tolist()])
            for values in (table, rows)
        )
    known = table[~np.isnan(table)]
    cuts = np.quantile(known, np.arange(1, _CLASSES) / _CLASSES) if len(known) else np.zeros(0)
    return tuple(  # type: ignore[return-value]
        np.where(np.isnan(values), -1, np.searchsorted(cuts, values)) for values in (table, rows)
    )
