"""What an attacker finds at 1 % false alarms is below the bound, whatever the cells are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts
from pratique_privacy.audits.tail_rate import tail_bound

POLICY = ReleasePolicy(rows=100)
Shares = NDArray[np.float64]


def true_tpr(members: Shares, controls: Shares) -> float:
    """TPR at 1 % FPR: between two edges a coin decides."""
    edges = (np.concatenate([[0], np.cumsum(shares)]) for shares in (controls, members))
    return float(np.interp(0.01, *edges))


def bounds(members: Shares, controls: Shares, *, size: int, sigma: float) -> Shares:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(400):
        counts = AuditCounts(
            members=rng.multinomial(4 * size, members) + sigma * rng.standard_normal(len(members)),
            holdout=rng.multinomial(size, controls) + sigma * rng.standard_normal(len(members)),
            num_members=4 * size, num_holdout=size, sigma_members=sigma, sigma_holdout=sigma,
            member_share=0.8,
        )  # fmt: skip
        found.append(tail_bound(counts, POLICY, confidence=0.95).value)
    return np.array(found)


EVEN = np.full(16, 1 / 16)
FINE = np.concatenate([np.full(10, 0.002), np.full(14, 0.07)])
CASES = {
    "nobody betrayed, wide cells": (EVEN, EVEN),
    "nobody betrayed, narrow cells": (FINE, FINE),
    # 4 % of members where 1 % of controls are; the last edge below 1 % shows nothing of it.
    "betrayed beyond the last edge below": (
        np.array([0.0035, 0.05, 0.47, 0.4765]), np.array([0.003, 0.008, 0.5, 0.489])
    ),
    "betrayed within one wide cell": (
        np.array([0.25, 0.25, 0.5]), np.array([0.05, 0.35, 0.6])
    ),
}  # fmt: skip


@pytest.mark.parametrize("sigma", [0.0, 5.0])
@pytest.mark.parametrize("case", CASES)
def test_the_bound_holds_as_often_as_it_says(case: str, sigma: float) -> None:
    """Nineteen times in twenty: three standard errors of 400 draws are 3.3 points."""
    members, controls = CASES[case]
    found = bounds(members, controls, size=2_000, sigma=sigma)
    assert (found >= true_tpr(members, controls)).mean() > 0.95 - 0.033


def test_of_honest_tables_it_is_within_the_default_tolerance() -> None:
    found = bounds(FINE, FINE, size=2_000, sigma=0)
    assert np.quantile(found, 0.95) < POLICY.tail_tpr == 0.03


def test_nobody_at_all_is_one_percent() -> None:
    nobody = np.array([0.0, 1.0])
    assert bounds(nobody, nobody, size=200_000, sigma=0) == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize("group", ["members", "holdout"])
def test_what_is_not_a_number_is_no_bound(group: str) -> None:
    cells = {"members": 8_000 * FINE, "holdout": 2_000 * FINE}
    cells[group] = cells[group].copy()
    cells[group][3] = np.nan
    counts = AuditCounts(
        **cells, num_members=8_000, num_holdout=2_000, sigma_members=5, sigma_holdout=5,
        member_share=0.8,
    )  # fmt: skip
    assert not tail_bound(counts, POLICY, confidence=0.95).passed
