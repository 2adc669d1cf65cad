"""How many copied members a test would see."""

import numpy as np
from scipy import stats

from pratique_privacy.intervals import Positives


def limit_of_detection(counts: Positives, *, alpha: float, power: float) -> int | None:
    """Return how many verbatim copied members the test at level α finds with this power.

    The share of other patients that is positive by chance stays as it is. None: not even all
    members would do.
    """
    most = int(counts.num_members)
    if not counts.exact:
        copies = _by_deviations(counts, alpha, power)
        return copies if copies <= most else None
    if _power(counts, most, alpha) < power:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(counts, middle, alpha) >= power else (middle, high)
    return high


def _power(counts: Positives, copies: int, alpha: float) -> float:
    """Return how often the hypergeometric test finds so many copies.

    Of the others that are positive, any may be members, the copied ones left out.
    """
    members, everybody = int(counts.num_members), int(counts.num_members + counts.num_controls)
    others = round((counts.members + counts.controls) / everybody * (everybody - copies))
    # The fewest positive members at which the p-value, Pr[X ≥ fewest], is α at most.
    fewest = int(stats.hypergeom.isf(alpha, everybody, others + copies, members)) + 1
    by_chance = stats.hypergeom(everybody - copies, members - copies, others)
    return float(by_chance.sf(fewest - copies - 1))


def _by_deviations(counts: Positives, alpha: float, power: float) -> int:
    """Return the same of noised counts, of which only sizes and noise are known well.

    k copies add k to the members' positives, of which chance would have made a share members:
    with r the odds of membership, sd² = r (K + k) + σ_m² + r² σ_c² and k ≥ (z_α + z_power) sd.
    """
    odds = counts.num_members / counts.num_controls
    base = max(0.0, counts.members + counts.controls)
    reach = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    noise = counts.sigma_members**2 + (odds * counts.sigma_controls) ** 2
    # Solve k² = reach² (r (K + k) + noise) for k.
    b = reach**2 * odds
    c = reach**2 * (odds * base + noise)
    return int(np.ceil((b + np.sqrt(b * b + 4 * c)) / 2))
