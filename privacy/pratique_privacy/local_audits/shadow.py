"""SHADOW: an attack that learns from half of the patients how scores betray the other half."""

from typing import ClassVar

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from pratique_privacy.audits.context import seed_of_content
from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.differences import of_auc

_LEAST_PATIENTS = 20  # a group in each half: scikit-learn's least leaf


class LearntAttack:
    """Gradient boosting on all scores; Mann-Whitney on the half it has not seen."""

    id: ClassVar[str] = "SHADOW"

    @staticmethod
    def run(patients: RealPatients) -> LocalResult:
        """See ``LocalAudit.run``."""
        is_member = patients.is_member
        seed = seed_of_content(patients.context.table)[0]
        first = np.random.default_rng(seed).random(len(is_member)) < 0.5
        groups = [
            (half & group).sum() for half in (first, ~first) for group in (is_member, ~is_member)
        ]
        auc = p_value = interval = None
        if min(groups) >= _LEAST_PATIENTS:
            scores_PF = np.column_stack(list(vars(patients.scores).values())).astype(float)
            model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed % 2**32)
            model.fit(scores_PF[first], is_member[first])
            guess = model.predict_proba(scores_PF[~first])[:, 1]
            members, controls = guess[is_member[~first]], guess[~is_member[~first]]
            test = stats.mannwhitneyu(members, controls, alternative="greater")
            auc = float(test.statistic / (len(members) * len(controls)))
            p_value, interval = float(test.pvalue), of_auc(members, controls)
        return LocalResult(
            id=LearntAttack.id,
            title="Attack learnt from half of the patients",
            scale="auc",
            members=auc,
            controls=0.5,
            interval=interval,
            p_value=p_value,
        )
