"""The share of training's precision that goes to the histogram round, where a study names none.

Precision is 1/σ², which is what Gaussian mechanisms add up. A generator that is fitted to pair
statistics starts from its histograms and is never better than they are. Its best share depends on
how much noise a level's count would have, relative to all patients, if histograms had all
precision:

    r = σ √D / n    with D columns, and the n patients in training for whom the study plans.

With r = 1/100 pairs tell little and more than half is best; with r = 1/10,000 histograms are all
but exact and pairs take what they can get. The line in ln r was drawn through runs on Adult with
500 to 32,561 patients at ε = .3 to 10, and held on Diabetes-130 (ADR 6). All of r is public.

Networks that learn step by step only begin with histograms, and images have few columns.
"""

from math import log, sqrt

from pratique_common.study import StudySpec

FITTED = frozenset({"copula", "pairwise", "tree"})
"""Names of generators that are fitted to pair statistics (``CountedGenerator``)."""

_OF_OTHERS = 0.25
_LEAST, _MOST = 0.25, 0.55
_AT_ONE_IN_A_THOUSAND, _MORE_EACH_E_FOLD = 0.4, 1 / 15


def histogram_share(study: StudySpec, noise_multiplier: float) -> float:
    """Return the share, in (0, 1).

    Args:
        study: which may name the share.
        noise_multiplier: of a single release at the study's ε and δ.
    """
    if study.training.histogram_share is not None:
        return study.training.histogram_share
    if study.generator.name not in FITTED:
        return _OF_OTHERS
    num_columns = len(study.data.trained.columns)
    relative = noise_multiplier * sqrt(num_columns) / study.expected_members
    share = _AT_ONE_IN_A_THOUSAND + _MORE_EACH_E_FOLD * log(1_000 * relative)
    return min(max(share, _LEAST), _MOST)
