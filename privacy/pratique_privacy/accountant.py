"""What a sequence of Gaussian mechanisms costs, kept apart from what happened.

Neighbouring data sets differ by adding or removing one patient. A discrete Gaussian costs no more
than the continuous one of the same noise multiplier (Canonne, Kamath, Steinke 2020, theorem 4).

Opacus is imported where it is used: it brings torch, and showing a ledger must not take seconds.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AccountantName = Literal["prv", "rdp"]

# Integer orders only: fractional ones need a series that does not converge in practice at
# sample rates of .5 and more.
ORDERS: tuple[int, ...] = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 1024)

_PRV_MAX_EPSILON = 14.0
"""RDP's ε above which PRV's discretisation may fail: RDP is used and named."""


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
    """A claim (ε, δ) and the accountant that makes it."""

    epsilon: float
    delta: float
    accountant: AccountantName


@lru_cache(maxsize=4096)
def _rdp_of_one_step(noise_multiplier: float, sample_rate: float) -> tuple[float, ...]:
    from opacus.accountants.analysis import rdp as opacus_rdp

    # Mironov, Talwar, Zhang 2019, "Rényi differential privacy of the sampled Gaussian mechanism".
    curve = opacus_rdp.compute_rdp(
        q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS
    )
    return tuple(np.asarray(curve, float).tolist())


def rdp_curve(events: Iterable[GaussianEvent]) -> NDArray[np.float64]:
    """Return the composed Rényi divergence bound at every order of ``ORDERS``."""
    total = np.zeros(len(ORDERS))
    for event in events:
        one = np.array(_rdp_of_one_step(event.noise_multiplier, event.sample_rate))
        total += event.num_steps * one
    return total


def epsilon_of_curve(curve: NDArray[np.float64], *, delta: float) -> float:
    """Convert an RDP curve to ε at δ: Balle et al. 2020, arXiv 1905.09982v2, theorem 21."""
    if not curve.any():
        return 0.0
    from opacus.accountants.analysis import rdp as opacus_rdp

    with warnings.catch_warnings():
        # Opacus warns when the best order is the largest or smallest: the bound holds all the same.
        warnings.simplefilter("ignore", UserWarning)
        epsilon, _ = opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=curve, delta=delta)
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


def privacy_spent(events: Sequence[GaussianEvent], *, delta: float) -> PrivacySpent:
    """Return what events cost: the smaller of PRV and RDP, naming which.

    PRV is 8-10 % tighter but may fail at small noise or large ε; RDP always holds.
    """
    return _privacy_spent(tuple(events), delta)


@lru_cache(maxsize=1024)
def _privacy_spent(events: tuple[GaussianEvent, ...], delta: float) -> PrivacySpent:
    by_rdp = epsilon_rdp(events, delta=delta)
    if by_rdp <= _PRV_MAX_EPSILON:
        try:
            by_prv = epsilon_prv(events, delta=delta)
        except RuntimeError:
            by_prv = np.inf
        if by_prv <= by_rdp:
            return PrivacySpent(epsilon=by_prv, delta=delta, accountant="prv")
    return PrivacySpent(epsilon=by_rdp, delta=delta, accountant="rdp")
