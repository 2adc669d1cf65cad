"""How often an audit would miss a tolerance, before anything is run, if a table betrays nobody.

Shapes: K cells of a statistic.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pratique_common.study import StudySpec
from pratique_privacy.audits.family import STATISTICS, conclude
from pratique_privacy.conclusion import audit_sigmas

Float64Array = NDArray[np.float64]

NUM_DRAWS = 50
"""Of audits: a share of one in ten is known up to .04, as a deviation."""

_NEAR, _LINKABLE, _INFERRED, _ISOLATED = 0.02, 0.02, 0.1, 0.05
"""Of honest patients: about what the demos and the tables of ``docs/audit-power.md`` have."""

_GROWTH = 1.4
"""From a cell of agreement to the next: the ten highest of 24 then hold 1 % of honest patients."""


def missed_tolerances(study: StudySpec, num_sites: int) -> dict[tuple[str, str], float]:
    """Return the share of simulated audits that miss a tolerance, by audit and rule.

    Args:
        study: its planned numbers of patients and its noise count.
        num_sites: of a run.
    """
    sigma_members, sigma_holdout, *_ = audit_sigmas(study, num_sites, num_sites)
    rng, shares = np.random.default_rng(0), _honest_shares()
    missed: Counter[tuple[str, str]] = Counter()

    def drawn(num: float, sigma: float) -> dict[str, Float64Array]:
        return {
            name: rng.multinomial(round(num), share) + sigma * rng.standard_normal(len(share))
            for name, share in shares.items()
        }

    for _ in range(NUM_DRAWS):
        try:
            audits = conclude(
                drawn(study.expected_members, sigma_members),
                drawn(study.expected_holdout, sigma_holdout),
                study.release,
                sigma_members=sigma_members,
                sigma_holdout=sigma_holdout,
                member_share=1 - study.audit.holdout_fraction,
            )
        except ValueError:  # noise leaves nobody in a group
            missed["", ""] += 1
            continue
        missed.update(
            (name, bound.rule)
            for name, audit in audits.items()
            for bound in audit.result.bounds
            if not bound.passed
        )
    return {rule: times / NUM_DRAWS for rule, times in missed.items()}


def _honest_shares() -> dict[str, Float64Array]:
    """Return each statistic's shares of patients, (K,), where members and others are alike."""
    others = np.full(14, (1 - _NEAR) / 14)
    linked, inferred = np.array([1 - _LINKABLE, _LINKABLE]), np.array([1 - _INFERRED, _INFERRED])
    grown = _GROWTH ** np.arange(24)
    shares = {
        "closeness": np.concatenate([[0.0, _NEAR], others]),
        "joins": np.outer(linked, inferred).ravel(),
        "density": np.repeat([_ISOLATED / 16, (1 - _ISOLATED) / 16], 16),
        "agreement": grown / grown.sum(),
    }
    assert shares.keys() == STATISTICS.keys()
    return shares
