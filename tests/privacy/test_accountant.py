import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld
from opacus.accountants.analysis import rdp as opacus_rdp

from pratique_privacy import accountant
from pratique_privacy.accountant import (
    ORDERS,
    SUM_DIVERGENCE,
    GaussianEvent,
    accountants_agree,
    epsilon_gaussian,
    epsilon_prv,
    epsilon_rdp,
    indicative_epsilon,
    log10_sum_divergence,
    privacy_spent,
    rdp_curve,
    second_opinion,
)
from pratique_privacy.budget import AUDIT_SENSITIVITY, PrivacyPlan
from pratique_privacy.conclusion import audit_sigmas
from pratique_privacy.fixed_point import MAX_SHARES, MAX_SIZE, MIN_LOG2_SIGMA
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


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 20.0, 200.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_without_sampling_the_claim_is_exact(sigma: float, delta: float) -> None:
    """Never below the exact curve, above it by what rounding costs, and dp_accounting agrees."""
    events = [GaussianEvent(noise_multiplier=sigma)]
    claimed = privacy_spent(events, delta=delta).epsilon
    assert _exact_delta(sigma, claimed) <= delta
    assert _exact_delta(sigma, claimed * (1 - 1e-3)) > delta
    assert claimed < epsilon_rdp(events, delta=delta)
    assert accountants_agree(events, delta=delta)


def test_exact_claims_compose_by_adding_precisions() -> None:
    parts = [
        GaussianEvent(noise_multiplier=13.0),
        GaussianEvent(noise_multiplier=8.0, num_steps=4),
    ]
    whole = GaussianEvent(noise_multiplier=(1 / 13**2 + 4 / 8**2) ** -0.5)
    expected = privacy_spent([whole], delta=1e-5).epsilon
    assert privacy_spent(parts, delta=1e-5).epsilon == pytest.approx(expected, rel=1e-9)
    assert accountants_agree(parts, delta=1e-5)
    assert epsilon_gaussian([], delta=1e-5) == 0
    with pytest.raises(ValueError, match="without sampling"):
        epsilon_gaussian([GaussianEvent(noise_multiplier=2.0, sample_rate=0.5)], delta=1e-5)


@pytest.mark.parametrize(("sigma", "shift"), [(24.0, 10), (24.0, 40), (60.0, 7)])
def test_the_exact_claim_holds_for_the_discrete_gaussian(sigma: float, shift: int) -> None:
    """Brute force over the integers: δ of the discrete mechanism at the claim less its margin."""
    x = np.arange(-int(14 * sigma), int(14 * sigma) + shift)
    near, far = (np.exp(-((x - s) ** 2) / (2 * sigma**2)) for s in (0, shift))
    p, q = near / near.sum(), far / far.sum()
    epsilon = epsilon_gaussian([GaussianEvent(noise_multiplier=sigma / shift)], delta=1e-5)
    assert np.maximum(q - np.exp(epsilon) * p, 0).sum() <= 1e-5
    # The bound is not slack: half as much ε would not do.
    assert np.maximum(q - np.exp(epsilon / 2) * p, 0).sum() > 1e-5


def test_a_rounded_gaussian_is_a_discrete_gaussian() -> None:
    """The lemma that exact claims rest on, by numerical integration at r = 1 (10⁻⁸, not 10⁻¹³⁶)."""
    r, sigma = 1.0, 5.0
    z = np.arange(-60, 61)
    c = np.linspace(-60, 60, 240_001)
    density = np.exp(-(c**2) / (2 * (sigma**2 - r**2)))
    near = np.round(c)[:, None] + np.arange(-9, 10)
    kernel = np.exp(-((near - c[:, None]) ** 2) / (2 * r**2))
    weight = density[:, None] * kernel / kernel.sum(1, keepdims=True)
    rounded = np.bincount((near + 80).astype(int).ravel(), weight.ravel())[20:141]
    discrete = np.exp(-(z**2) / (2 * sigma**2))
    inner = slice(30, 91)  # the grid of c is cut at 12 deviations
    ratio = (rounded / rounded.sum() / (discrete / discrete.sum()))[inner]
    np.testing.assert_allclose(ratio, 1, atol=1e-7)


def test_with_sampling_the_claim_is_rdp_and_a_second_program_finds_the_same() -> None:
    for histogram, step, rate, steps in (
        (5.4, 3.55, 0.3, 60),
        (1.6, 1.2, 0.1, 300),
        (9, 0.8, 0.9, 3),
    ):
        events = [
            GaussianEvent(noise_multiplier=histogram),
            GaussianEvent(noise_multiplier=step, sample_rate=rate, num_steps=steps),
        ]
        spent = privacy_spent(events, delta=1e-5)
        assert spent.epsilon == epsilon_rdp(events, delta=1e-5)
        second = second_opinion(tuple(events), delta=1e-5)
        assert second == pytest.approx(spent.epsilon, rel=1e-6)
        assert accountants_agree(events, delta=1e-5)


def test_accountants_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [GaussianEvent(noise_multiplier=3.0)]
    claimed = privacy_spent(events, delta=1e-5).epsilon
    for factor, agree in ((1.0005, True), (1.002, False), (0.9, False), (float("nan"), False)):
        found = claimed * factor
        monkeypatch.setattr(accountant, "second_opinion", lambda *_, found=found, **__: found)
        assert accountants_agree(events, delta=1e-5) == agree


def test_the_indicative_value_is_below_the_claim_or_missing() -> None:
    events = (GaussianEvent(noise_multiplier=1.5, sample_rate=0.3, num_steps=20),)
    indicative = indicative_epsilon(events, delta=1e-5)
    assert indicative is not None
    assert 0.8 * epsilon_rdp(events, delta=1e-5) < indicative < epsilon_rdp(events, delta=1e-5)
    assert indicative_epsilon((GaussianEvent(noise_multiplier=3.3),), delta=1e-5) is None
    loud = (GaussianEvent(noise_multiplier=0.3, sample_rate=0.9, num_steps=9),)
    assert indicative_epsilon(loud, delta=1e-5) is None


def _divergence(p: np.ndarray, q: np.ndarray, alpha: int) -> float:  # type: ignore[type-arg]
    """Rényi divergence of two distributions on integers, by adding up."""
    return float(np.log(np.sum(q * (p / q) ** alpha)) / (alpha - 1))


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize(("sigma", "shift"), [(2.0, 1), (6.0, 4), (3.0, 5)])
def test_the_curve_holds_for_the_sampled_discrete_gaussian(
    rate: float, sigma: float, shift: int
) -> None:
    """Brute force over the integers, both neighbours, every integer order that fits a float."""
    x = np.arange(-60, 61 + shift)
    near, far = (np.exp(-((x - s) ** 2) / (2 * sigma**2)) for s in (0, shift))
    without = near / near.sum()
    with_patient = (1 - rate) * without + rate * far / far.sum()
    curve = rdp_curve([GaussianEvent(noise_multiplier=sigma / shift, sample_rate=rate)])
    for alpha, bound in zip(ORDERS[:7], curve, strict=False):
        assert _divergence(with_patient, without, alpha) <= bound * (1 + 1e-6)
        assert _divergence(without, with_patient, alpha) <= bound * (1 + 1e-6)
    tight = _divergence(with_patient, without, ORDERS[0])
    assert tight == pytest.approx(curve[0], rel=1e-3)  # and it is no looser than it need be


def test_a_sum_of_discrete_gaussians_is_one_within_the_stated_term() -> None:
    """The term of Kairouz, Liu, Steinke at a width where it can be seen, and at ours."""
    sigma, reach = 0.8, 40
    x = np.arange(-reach, reach + 1)
    one = np.exp(-(x**2) / (2 * sigma**2))
    two = np.convolve(one / one.sum(), one / one.sum())
    y = np.arange(-2 * reach, 2 * reach + 1)
    wide = np.exp(-(y**2) / (4 * sigma**2))
    inner = np.abs(y) <= 10
    worst = np.abs(np.log(two[inner] / (wide / wide.sum())[inner])).max()
    eta = 10 * np.exp(-(np.pi**2) * sigma**2)
    assert 0 < worst <= eta
    ours = log10_sum_divergence(num_shares=MAX_SHARES, log2_sigma=MIN_LOG2_SIGMA, size=MAX_SIZE)
    assert ours < np.log10(SUM_DIVERGENCE)
    assert log10_sum_divergence(num_shares=1, log2_sigma=8, size=1) == -math.inf


def test_accounting_by_opacus_brings_no_torch() -> None:
    """Every look at a ledger would wait for it; the functions are those of the installed Opacus."""
    spent = (
        "import sys\n"
        "from pratique_privacy.accountant import GaussianEvent, epsilon_rdp\n"
        "event = GaussianEvent(noise_multiplier=1.1, sample_rate=0.01, num_steps=100)\n"
        "print(repr(epsilon_rdp([event], delta=1e-5)))\n"
        "assert not {'torch', 'opacus', 'dp_accounting'} & set(sys.modules)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", spent], check=True, capture_output=True, text=True
    )
    curve = opacus_rdp.compute_rdp(q=0.01, noise_multiplier=1.1, steps=100, orders=ORDERS)
    epsilon, _ = opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=curve, delta=1e-5)
    assert float(shown.stdout) == pytest.approx(epsilon, rel=1e-12)


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
    plan = PrivacyPlan(
        small_study(
            privacy={"target_epsilon": epsilon, "expected_patients": 900},
            training={"histogram_share": 0.25},
        )
    )
    spent = plan.training_spent().epsilon
    assert 0.985 * epsilon <= spent <= epsilon
    # Precisions add up: the histograms have their share of what one release alone would have.
    whole = plan.histogram.noise_multiplier**-2 + 3 * plan.step.noise_multiplier**-2
    assert plan.histogram.noise_multiplier**-2 / whole == pytest.approx(0.25, rel=0.01)
    levels, finer = plan.histogram_sum(3).sections
    assert levels.sensitivity == pytest.approx(math.sqrt(3))
    assert finer.sensitivity == pytest.approx(math.sqrt(2))  # age and marker have bins
    # Both together are the one event that is charged.
    precision = levels.noise_multiplier**-2 + finer.noise_multiplier**-2
    assert precision == pytest.approx(plan.histogram.noise_multiplier**-2)


def test_audit_noise_is_the_one_of_the_design() -> None:
    # design/audit.md 6, δ = 1e-6: σ a cell 7.6 (ε=1), 15 (.5) by zCDP; the exact curve is tighter.
    for epsilon, sigma in ((1.0, 7.6), (0.5, 15.0)):
        plan = PrivacyPlan(small_study(audit={"epsilon_members": epsilon}))
        assert 0.65 * sigma < plan.audit_members.noise_multiplier * math.sqrt(2) < sigma
        assert privacy_spent([plan.audit_members], delta=1e-6).epsilon <= epsilon


def test_secure_sums_pay_the_noise_once_and_local_noise_pays_it_at_every_site() -> None:
    deviations = {}
    for noise in ("secure_sum", "local"):
        privacy = {"target_epsilon": 3.0, "expected_patients": 900, "noise": noise}
        study = small_study(privacy=privacy)
        plan = PrivacyPlan(study)
        form = plan.step_sum(1_000, 10)
        one_site = plan.step.noise_multiplier * study.training.max_grad_norm
        deviations[noise] = form.share_sigmas()[0] * math.sqrt(10) / one_site
        assert audit_sigmas(study, 10, 10)[0] == pytest.approx(
            plan.audit_members.noise_multiplier
            * AUDIT_SENSITIVITY * (math.sqrt(10 / 9) if noise == "secure_sum" else math.sqrt(10)),
            rel=0.005,
        )  # fmt: skip
    # One colluding site is not counted on: 10 shares, of which 9 make the whole noise.
    assert deviations["secure_sum"] == pytest.approx(math.sqrt(10 / 9), rel=0.005)
    assert deviations["local"] == pytest.approx(math.sqrt(10), rel=0.005)


@pytest.mark.parametrize(
    ("dropouts", "colluding", "least"), [(0, 1, 3), (1, 1, 4), (2, 1, 6), (1, 2, 5), (0, 4, 5)]
)
def test_the_least_number_of_sites_leaves_noise_shares_and_a_threshold(
    dropouts: int, colluding: int, least: int
) -> None:
    privacy = small_study(
        privacy={"target_epsilon": 3.0, "expected_patients": 900,
                 "tolerated_dropouts": dropouts, "colluding_sites": colluding}
    ).privacy  # fmt: skip
    assert privacy.least_sites == least
    for num_sites in range(least, least + 10):
        threshold = privacy.share_threshold(num_sites)
        assert 2 * threshold > num_sites + colluding  # two lists never both find a threshold
        assert num_sites - dropouts >= max(3, threshold, colluding + 1)


def test_the_headline_is_the_dearer_role() -> None:
    plan = PrivacyPlan(small_study())
    total = plan.total_spent()
    assert total.epsilon == pytest.approx(plan.training_spent().epsilon + 0.5)
    assert total.delta == pytest.approx(1.1e-5)
    rich = PrivacyPlan(small_study(audit={"epsilon_holdout": 6.0}))
    assert rich.total_spent().epsilon == pytest.approx(7.0)
