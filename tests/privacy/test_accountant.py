import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from pratique_privacy import accountant
from pratique_privacy.accountant import GaussianEvent, epsilon_prv, epsilon_rdp, privacy_spent
from pratique_privacy.budget import PrivacyPlan, zcdp_rho
from tests.conftest import small_study


def _exact_delta(sigma: float, epsilon: float) -> float:
    """Balle & Wang 2018, theorem 8: the exact δ of one Gaussian mechanism of sensitivity 1."""
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))  # noqa: E731
    a, b = 1 / (2 * sigma), epsilon * sigma
    return phi(a - b) - math.exp(epsilon) * phi(-a - b)


@pytest.mark.parametrize("sigma", [1.0, 2.5, 8.0])
def test_one_gaussian_against_its_exact_curve(sigma: float) -> None:
    events = [GaussianEvent(noise_multiplier=sigma)]
    for claim in (epsilon_rdp(events, delta=1e-5), epsilon_prv(events, delta=1e-5)):
        assert _exact_delta(sigma, claim) <= 1.02e-5  # never claims less than the truth
    assert _exact_delta(sigma, epsilon_prv(events, delta=1e-5) * 0.95) > 1e-5  # nor much more


def test_prv_is_tighter_than_rdp_and_both_grow_with_steps() -> None:
    def events(steps: int) -> list[GaussianEvent]:
        return [
            GaussianEvent(noise_multiplier=5.0),
            GaussianEvent(noise_multiplier=2.0, sample_rate=0.2, num_steps=steps),
        ]

    prv = [epsilon_prv(events(n), delta=1e-5) for n in (10, 40, 160)]
    rdp = [epsilon_rdp(events(n), delta=1e-5) for n in (10, 40, 160)]
    assert prv == sorted(prv)
    assert rdp == sorted(rdp)
    assert all(p < r for p, r in zip(prv, rdp, strict=True))


@pytest.mark.parametrize(
    ("histogram", "step", "rate", "steps"), [(5.4, 3.55, 0.3, 60), (1.6, 1.2, 0.1, 300)]
)
def test_an_independent_accountant_agrees(
    histogram: float, step: float, rate: float, steps: int
) -> None:
    """Google's dp_accounting takes the worse of adding and removing; PRV must not claim less."""
    reference = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    reference.compose(dp_accounting.GaussianDpEvent(histogram))
    sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(step))
    reference.compose(sampled, steps)
    expected = reference.get_epsilon(1e-5)
    events = [
        GaussianEvent(noise_multiplier=histogram),
        GaussianEvent(noise_multiplier=step, sample_rate=rate, num_steps=steps),
    ]
    assert expected <= epsilon_prv(events, delta=1e-5) <= 1.02 * expected
    assert expected <= epsilon_rdp(events, delta=1e-5)


def test_a_failing_prv_falls_back_to_rdp_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> float:
        raise RuntimeError("discretisation")

    monkeypatch.setattr(accountant, "epsilon_prv", fail)
    accountant._privacy_spent.cache_clear()
    events = [GaussianEvent(noise_multiplier=3.3)]
    spent = privacy_spent(events, delta=1e-5)
    accountant._privacy_spent.cache_clear()
    assert spent.accountant == "rdp"
    assert spent.epsilon == epsilon_rdp(events, delta=1e-5)


def test_large_epsilon_is_claimed_by_rdp() -> None:
    spent = privacy_spent([GaussianEvent(noise_multiplier=0.3)], delta=1e-5)
    assert spent.accountant == "rdp"
    assert np.isfinite(spent.epsilon)


def test_nothing_costs_nothing() -> None:
    assert epsilon_rdp([], delta=1e-5) == 0.0


@pytest.mark.parametrize(
    "event", [{"noise_multiplier": 0}, {"noise_multiplier": 1, "sample_rate": 0},
              {"noise_multiplier": 1, "num_steps": 0}, {"noise_multiplier": float("nan")}],
)  # fmt: skip
def test_impossible_events_do_not_exist(event: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not an event"):
        GaussianEvent(**event)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 9.0])
def test_the_plan_spends_what_the_study_allows_and_not_more(epsilon: float) -> None:
    plan = PrivacyPlan(small_study(privacy={"target_epsilon": epsilon, "expected_patients": 900}))
    spent = plan.training_spent().epsilon
    assert 0.985 * epsilon <= spent <= epsilon
    rho = zcdp_rho(epsilon, 1e-5)
    assert plan.histogram.noise_multiplier == pytest.approx(1 / math.sqrt(2 * 0.1 * rho))
    assert plan.histogram_sensitivity == pytest.approx(math.sqrt(3))


def test_audit_noise_is_the_one_of_the_design() -> None:
    # design/audit.md 6, δ = 1e-6: σ a cell 7.6 (ε=1), 15 (.5) by zCDP; RDP's conversion is tighter.
    for epsilon, sigma in ((1.0, 7.6), (0.5, 15.0)):
        audit = {"epsilon_members": epsilon}
        plan = PrivacyPlan(small_study(audit=audit))
        assert 0.75 * sigma < plan.audit_members_sigma < sigma
        assert epsilon_rdp([plan.audit_members], delta=1e-6) <= epsilon


def test_the_headline_is_the_dearer_role() -> None:
    plan = PrivacyPlan(small_study())
    total = plan.total_spent()
    assert total.epsilon == pytest.approx(plan.training_spent().epsilon + 0.5)
    assert total.delta == pytest.approx(1.1e-5)
    rich = PrivacyPlan(small_study(audit={"epsilon_holdout": 6.0}))
    assert rich.total_spent().epsilon == pytest.approx(7.0)
