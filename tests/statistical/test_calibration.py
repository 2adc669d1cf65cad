"""Error rates of the audit's tests and the gate, by simulation. Run by ``make statistical``."""

import numpy as np
import pytest

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits.base import AuditCounts, AuditResult
from pratique_privacy.audits.family import STATISTICS, conclude
from pratique_privacy.intervals import Positives, excess_bounds, excess_p_value
from tests.noise import noise

pytestmark = pytest.mark.statistical

RUNS = 1_500
SHARE = 0.8


def _split(rng: np.random.Generator, count: int) -> tuple[int, int]:
    members = int(rng.binomial(count, SHARE))
    return members, count - members


def _positives(
    rng: np.random.Generator, positive: int, patients: int, sigma: tuple[float, float], copies: int
) -> Positives:
    members, controls = _split(rng, positive)
    other_members, other_controls = _split(rng, patients - positive)
    added = [noise(1, s)[0] if s else 0 for s in sigma]
    return Positives(
        members=members + copies + added[0], controls=controls + added[1],
        num_members=members + other_members, num_controls=controls + other_controls,
        sigma_members=sigma[0],
        sigma_controls=sigma[1], member_share=SHARE,
    )  # fmt: skip


@pytest.mark.parametrize("positive", [0, 20, 400, 3_000])
@pytest.mark.parametrize("sigma", [(0.0, 0.0), (12.0, 4.0), (30.0, 8.0)])
def test_honest_data_are_rejected_at_5_percent_at_most(
    positive: int, sigma: tuple[float, float]
) -> None:
    rng = np.random.default_rng(positive)
    rejected = np.mean(
        [excess_p_value(_positives(rng, positive, 10_000, sigma, 0)) < 0.05 for _ in range(RUNS)]
    )
    assert rejected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("positive", [20, 400, 5_000, 9_000, 9_900])
@pytest.mark.parametrize("sigma", [(0.0, 0.0), (12.0, 4.0)])
def test_bounds_cover_at_95_percent(positive: int, sigma: tuple[float, float]) -> None:
    rng = np.random.default_rng(positive)
    covered = np.zeros(2)
    for _ in range(RUNS):
        counts = _positives(rng, positive, 10_000, sigma, 0)
        low, high = excess_bounds(counts, confidence=0.95)
        covered += low <= 0, high >= 0
    assert (covered / RUNS >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / RUNS)).all()


@pytest.mark.parametrize("rate", [0.001, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("risk", [0.0, 0.09, 0.5])
@pytest.mark.parametrize("sigma", [(0.0, 0.0), (21.0, 5.4)])
def test_bounds_of_residual_risk_cover(
    rate: float, risk: float, sigma: tuple[float, float]
) -> None:
    """Of those with whom an attack would not succeed anyhow, a share succumbs as members."""
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(RUNS):
        members, holdout = _split(rng, 12_000)
        hit = rng.binomial(members, rate + (1 - rate) * risk), rng.binomial(holdout, rate)
        added = [noise(1, s)[0] if s else 0 for s in sigma]
        found = Positives(
            members=hit[0] + added[0], controls=hit[1] + added[1], num_members=members,
            num_controls=holdout, sigma_members=sigma[0], sigma_controls=sigma[1],
            member_share=SHARE,
        )  # fmt: skip
        result = AuditResult.of_residual_risk(
            "LINK", found, rule="x", limit=0.09, confidence=0.95, alpha=0.01
        )
        covered += result.interval[0] <= risk, result.bounds[0].value >= risk
    assert (covered / RUNS >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / RUNS)).all()


def test_the_limit_of_detection_has_its_power() -> None:
    from pratique_privacy.detection import limit_of_detection

    rng = np.random.default_rng(0)
    sigma = (12.0, 4.0)
    # How many are positive by chance is known up to noise: a single limit may be off by a tenth.
    limits = [
        limit_of_detection(_positives(rng, 20, 10_000, sigma, 0), alpha=0.0125, power=0.9) or 0
        for _ in range(51)
    ]
    copies = int(np.median(limits))
    found = np.mean(
        [excess_p_value(_positives(rng, 20, 10_000, sigma, copies)) < 0.0125 for _ in range(RUNS)]
    )
    assert 0.84 <= found <= 0.96


@pytest.mark.parametrize("sigma", [0.0, 10.0])
def test_the_family_refuses_honest_candidates_at_5_percent_at_most(sigma: float) -> None:
    rng = np.random.default_rng(7)
    policy = ReleasePolicy()
    shares = {
        "closeness": np.array([0.002, 0.008, *([0.99 / 14] * 14)]),
        "joins": np.array([0.37, 0.6, 0.01, 0.02]),
        "density": np.array([*[0.05 / 16] * 16, *[0.95 / 16] * 16]),
        "agreement": np.array([*[0.003] * 5, *[0.985 / 19] * 19]),
    }

    def counts(patients: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        noised = {}
        for name, statistic in STATISTICS.items():
            drawn = rng.multinomial(patients, shares[name])
            if sigma:
                drawn = drawn + noise(statistic.num_cells, sigma)
            noised[name] = drawn
        return noised

    refused = 0
    for _ in range(RUNS):
        members, holdout = _split(rng, 10_000)
        concluded = conclude(counts(members), counts(holdout), policy, sigma_members=sigma,
                             sigma_holdout=sigma, member_share=SHARE)  # fmt: skip
        refused += any(audit.p_adjusted < 0.05 for audit in concluded.values())
    assert refused / RUNS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(("patients", "share"), [(4_000, 0.05), (12_000, 0.01), (8_000, 0.02)])
def test_tails_that_noise_chooses_are_rejected_at_5_percent_at_most(
    patients: int, share: float
) -> None:
    """Top cells that nobody is in, at the default budgets: noise decides how many are taken."""
    rng = np.random.default_rng(patients)
    sigma = 14.0, 3.9
    shares = np.array([*[0.0] * 21, 0.1, 0.3, 0.6])
    rejected = 0
    for _ in range(RUNS):
        members, holdout = _split(rng, patients)
        drawn = [rng.multinomial(n, shares) + noise(24, s)
                 for n, s in zip((members, holdout), sigma, strict=True)]  # fmt: skip
        counts = AuditCounts(
            members=drawn[0], holdout=drawn[1], num_members=members, num_holdout=holdout,
            sigma_members=sigma[0], sigma_holdout=sigma[1], member_share=SHARE,
        )  # fmt: skip
        rejected += excess_p_value(counts.top(share)) < 0.05
    assert rejected / RUNS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)
