"""The decision: a pure function of evidence that fails closed.

    tier 0  integrity         any miss: refused
    tier 1  canaries          the claimed ε, or the planned noise, refuted: refused, an incident
    tier 2  memorisation      any Holm-adjusted p < .05: refused
    tier 3  non-inferiority   any upper bound above its tolerance: not enough data
            planted leak      an audit that would not have seen one is void: not enough data
            split             so is one whose controls are betrayed instead of members

"We found nothing" never passes: release needs bounds that are *shown* to be within tolerances
agreed beforehand. Missing evidence refuses. There is no override.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from pratique_common.bundle import Decision
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.family import FAMILY_ALPHA, ConcludedAudit
from pratique_privacy.control import PlantedLeak

WHOLE_FILE = "every row and column of the file was audited"
CONTROL = "control: rows planted of phantom patients were found"
SPLIT = "split: no sign that the table resembles controls more than members"

_SPLIT_ALPHA = 0.01
"""Of honest runs so many are lost at most; what the rule is for is far beyond chance."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the gate, passed or not; numbers where the rule has them."""

    tier: int
    rule: str
    passed: bool
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """The decision and every rule that led to it."""

    decision: Decision
    rules: tuple[Rule, ...]


def integrity(rule: str, passed: bool) -> Rule:
    """Return a rule of tier 0."""
    return Rule(tier=0, rule=rule, passed=passed)


def decide(
    integrity_rules: Sequence[Rule],
    audits: Mapping[str, ConcludedAudit] | None,
    planted: PlantedLeak | None,
    *,
    required: bool = True,
) -> GateDecision:
    """Decide from evidence.

    Args:
        integrity_rules: tiers 0 and 1; for an opinion on files that all of it was audited.
        audits: conclusions by audit id; every audit of the family must be there. None: members
            or hold-out are too few for any conclusion.
        planted: the control of these audits; None if it could not be run.
        required: refuse if there is no tier 0 at all; false only for opinions, never a release.
    """
    rules = list(integrity_rules)
    if required and not integrity_rules:
        rules.append(integrity("integrity evidence is there", False))
    if audits is None:
        rules.append(Rule(tier=3, rule="enough members and hold-out patients", passed=False))
    else:
        for name in AUDITS:
            rules.extend(_rules_of_audit(name, audits.get(name)))
        found = planted is not None and planted.found
        rules.append(Rule(tier=3, rule=CONTROL, passed=found))
        rules.append(_rule_of_split(audits))
    failed_tiers = {rule.tier for rule in rules if not rule.passed}
    decision: Decision = "granted"
    if failed_tiers & {0, 1, 2}:
        decision = "refused"
    elif failed_tiers:
        decision = "not_enough_data"
    return GateDecision(decision=decision, rules=tuple(rules))


def _rules_of_audit(name: str, concluded: ConcludedAudit | None) -> list[Rule]:
    if concluded is None:
        return [integrity(f"{name}: the audit was run", False)]
    p = concluded.p_adjusted
    # Written so that NaN fails: "not (p < .05)" would pass it.
    memorisation = Rule(
        tier=2,
        rule=f"{name}: no sign of memorisation",
        passed=isfinite(p) and p >= FAMILY_ALPHA,
        value=p,
        limit=FAMILY_ALPHA,
    )
    tolerances = [
        Rule(
            tier=3,
            rule=f"{name}: {bound.rule} within the tolerance",
            passed=isfinite(bound.value) and bound.passed,
            value=bound.value,
            limit=bound.limit,
        )
        for bound in concluded.result.bounds
    ]
    return [memorisation, *tolerances]


def _rule_of_split(audits: Mapping[str, ConcludedAudit]) -> Rule:
    """Return the rule that nothing is wrong with the split, by Bonferroni's correction.

    Controls who were in training, or a split that is not random, hide what the tests look for.
    """
    p_values = [audit.result.p_opposite for audit in audits.values()]
    p = min(1.0, len(p_values) * min(p_values, default=nan))
    passed = all(isfinite(each) for each in p_values) and p >= _SPLIT_ALPHA
    return Rule(tier=3, rule=SPLIT, passed=passed, value=p, limit=_SPLIT_ALPHA)
