"""What a sequence of Gaussian mechanisms costs, kept apart from what happened.

Neighbouring data sets differ by adding or removing one patient. Without Poisson sampling the claim
is the exact curve of the continuous Gaussian (Balle & Wang 2018, arXiv 1805.06530, theorem 8;
composition adds 1/σ², Dong, Roth, Su 2022, corollary 3.3), which holds for the discrete noise that
is really drawn, up to a factor that is written down:

    A discrete Gaussian of deviation σ is a rounded continuous one of variance σ² - r². Round a real
    c to the integer z with probability ρ_r(z - c) / ρ_r(Z - c), where ρ_r(x) = exp(-x²/2r²): what
    comes out has density proportional to ρ_σ(z) but for 1/ρ_r(Z - c), which by Poisson's summation
    differs from its mean by a factor within 1 ± 2.1 exp(-2π²r²) (Peikert 2010, theorem 3.1, has
    the same argument). Rounding commutes with adding an integer vector, so the discrete mechanism
    is post-processing of the continuous one, up to that factor a coordinate. With r = 4 and σ >= 2⁸
    the noise is that of a Gaussian smaller by 1.3e-4, and the factor is 1 ± 10⁻¹³⁶ (point 2 below
    does the same for a sum of shares).

With Poisson sampling, and for a ledger over studies that are chosen one after the other, it is
Rényi differential privacy (RDP) at integer orders:

1.  For integer α and an integer shift v, the α-th moment of the likelihood ratio of two discrete
    Gaussians is exp(α(α-1)‖v‖²/2σ²), exactly the continuous Gaussian's, since a sum over all
    integers does not change when it is shifted. So the Poisson-sampled discrete Gaussian has the
    curve of Mironov, Talwar, Zhang 2019 (arXiv 1908.10530), theorem 4 and section 3.3. Their
    theorem 5, on the order of the two data sets, needs only the reflection x → v - x, which maps
    integers onto integers.
2.  A sum of m discrete Gaussians of deviation σ is not one of deviation √m σ, but the densities'
    ratio lies within exp(±η), η = 10 size Σ_{k<m} exp(-2π²σ² k/(k+1)) (Kairouz, Liu, Steinke 2021,
    arXiv 2102.06387v4: their τ in theorem 1). That adds η (2α-1)/(α-1) to every step.

dp_accounting is imported where it is used, and of Opacus the one file that is: its package brings
torch, and showing a ledger must not take seconds.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

# Integer orders only: the discrete Gaussian's proof is for them, and fractional ones need a series
# that does not converge in practice at sample rates of .5 and more.
ORDERS: tuple[int, ...] = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 1024)

SUM_DIVERGENCE = 1e-300
"""Bound of η above for every form that ``fixed_point`` allows (σ ≥ 2⁸); the true one is below
10⁻¹⁰⁰⁰⁰⁰ (``log10_sum_divergence``)."""

ACCOUNTANT_TOLERANCE = 1e-3
"""Two accountants whose ε differ by more than this share do not agree, and the gate refuses."""

_VARIANCE_LOST = 2.0**-12
"""r² / σ² for r = 4, σ = 2⁸: what rounding takes from the variance that is counted on."""

_PRV_MAX_EPSILON = 14.0
"""RDP's ε above which PRV's discretisation may fail: no indicative value is shown."""


@dataclass(frozen=True, kw_only=True)
class GaussianEvent:
    """``num_steps`` releases of a Poisson-sampled sum with Gaussian noise.

    Attributes:
        noise_multiplier: deviation of the noise over the L2 sensitivity to one patient.
        sample_rate: probability of a patient to be in a batch; 1 is no sampling.
        num_steps: how many times.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    num_steps: int = 1

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and 0 < self.sample_rate <= 1 and self.num_steps >= 1):
            raise ValueError(f"not an event that can be accounted for: {self}")


@dataclass(frozen=True, kw_only=True)
class PrivacySpent:
    """A claim (ε, δ)."""

    epsilon: float
    delta: float


def log10_sum_divergence(*, num_shares: int, log2_sigma: int, size: int) -> float:
    """Return log₁₀ η for ``num_shares`` discrete Gaussians of deviation 2ˢ; -inf for one share."""
    if num_shares == 1:
        return -math.inf
    # The first of the sum's terms, exp(-π²σ²), is the largest.
    log_eta = math.log(10 * size * (num_shares - 1)) - math.pi**2 * 4.0**log2_sigma
    return log_eta / math.log(10)


@cache
def _opacus_rdp() -> ModuleType:
    """Return ``opacus.accountants.analysis.rdp``, which needs NumPy and SciPy alone."""
    package = find_spec("opacus")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "accountants" / "analysis" / "rdp.py"
    spec = spec_from_file_location("pratique_privacy._opacus_rdp", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=4096)
def _rdp_of_one_step(noise_multiplier: float, sample_rate: float) -> tuple[float, ...]:
    # Mironov, Talwar, Zhang 2019, "Rényi differential privacy of the sampled Gaussian mechanism".
    curve = _opacus_rdp().compute_rdp(
        q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS
    )
    return tuple(np.asarray(curve, float).tolist())


def rdp_curve(events: Iterable[GaussianEvent]) -> NDArray[np.float64]:
    """Return the composed Rényi divergence bound at every order of ``ORDERS``."""
    total = np.zeros(len(ORDERS))
    alpha = np.array(ORDERS, float)
    of_the_sum = SUM_DIVERGENCE * (2 * alpha - 1) / (alpha - 1)
    for event in events:
        one = np.array(_rdp_of_one_step(event.noise_multiplier, event.sample_rate)) + of_the_sum
        total += event.num_steps * one
    return total


def epsilon_of_curve(curve: NDArray[np.float64], *, delta: float) -> float:
    """Convert an RDP curve to ε at δ: Balle et al. 2020, arXiv 1905.09982v2, theorem 21."""
    if not curve.any():
        return 0.0
    with warnings.catch_warnings():
        # Opacus warns when the best order is the largest or smallest: the bound holds all the same.
        warnings.simplefilter("ignore", UserWarning)
        epsilon, _ = _opacus_rdp().get_privacy_spent(orders=ORDERS, rdp=curve, delta=delta)
    return max(0.0, float(epsilon))


def epsilon_rdp(events: Iterable[GaussianEvent], *, delta: float) -> float:
    """Return ε at δ by Rényi differential privacy."""
    return epsilon_of_curve(rdp_curve(events), delta=delta)


def epsilon_prv(events: Iterable[GaussianEvent], *, delta: float) -> float:
    """Return ε at δ by privacy-loss random variables (Gopi, Lee, Wutschitz 2021).

    Raises:
        RuntimeError: the discretisation fails, as it may at small noise.
    """
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sample_rate, e.num_steps) for e in events]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            epsilon = float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise RuntimeError("PRV accounting failed") from error
    if not np.isfinite(epsilon):
        raise RuntimeError("PRV accounting gave no finite epsilon")
    return epsilon


def is_gaussian(events: Iterable[GaussianEvent]) -> bool:
    """Return whether no event samples patients: then the claim is exact."""
    return all(event.sample_rate == 1 for event in events)


def epsilon_gaussian(events: Sequence[GaussianEvent], *, delta: float) -> float:
    """Return ε at δ of Gaussian mechanisms without sampling, exactly, to 1e-9 above it.

    Raises:
        ValueError: an event samples patients.
    """
    if not is_gaussian(events):
        raise ValueError("exact accounting is for events without sampling")
    from scipy.optimize import brentq

    squared = sum(event.num_steps / event.noise_multiplier**2 for event in events)
    mu = math.sqrt(squared / (1 - _VARIANCE_LOST))
    if mu == 0 or _gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # At twice Chernoff's bound of ε the curve is certainly below δ.
    highest = mu**2 + 2 * mu * math.sqrt(2 * math.log(1 / delta))
    root = brentq(lambda epsilon: _gaussian_delta(mu, epsilon) - delta, 0.0, highest, xtol=1e-10)
    return float(root) + 1e-9


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """Return δ at ε of a Gaussian mechanism with sensitivity over deviation ``mu``."""
    from scipy.special import log_ndtr

    above, below = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(above) * -math.expm1(below - above))


def accountant_of(events: Iterable[GaussianEvent]) -> str:
    """Return how events are accounted for: ``exact`` or ``rdp``."""
    return "exact" if is_gaussian(events) else "rdp"


def privacy_spent(events: Sequence[GaussianEvent], *, delta: float) -> PrivacySpent:
    """Return what events cost, as it is claimed: exactly without sampling, else by RDP."""
    exact = is_gaussian(events)
    epsilon = (epsilon_gaussian if exact else epsilon_rdp)(events, delta=delta)
    return PrivacySpent(epsilon=epsilon, delta=delta)


@lru_cache(maxsize=256)
def second_opinion(events: tuple[GaussianEvent, ...], *, delta: float) -> float:
    """Return ε at δ by Google's dp_accounting: other code for the same theorems."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    exact = is_gaussian(events)
    accountant = PLDAccountant() if exact else RdpAccountant(orders=ORDERS)
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(event.sample_rate, gaussian)
        accountant.compose(gaussian if event.sample_rate == 1 else sampled, event.num_steps)
    return float(accountant.get_epsilon(delta))


def accountants_agree(events: Sequence[GaussianEvent], *, delta: float) -> bool:
    """Return whether the claim and the second opinion are the same within the tolerance."""
    claimed = privacy_spent(events, delta=delta).epsilon
    other = second_opinion(tuple(events), delta=delta)
    return abs(claimed - other) <= ACCOUNTANT_TOLERANCE * claimed


@lru_cache(maxsize=256)
def indicative_epsilon(events: tuple[GaussianEvent, ...], *, delta: float) -> float | None:
    """Return ε at δ by PRV, or None where it may fail or the claim is exact already.

    It is 8-10 % smaller than RDP's; its error bounds are those of floating-point code that nobody
    proved, so it is shown beside the claim and never claimed.
    """
    if is_gaussian(events) or epsilon_rdp(events, delta=delta) > _PRV_MAX_EPSILON:
        return None
    try:
        return epsilon_prv(events, delta=delta)
    except RuntimeError:
        return None
