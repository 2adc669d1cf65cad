"""Rules of the gate in words: a table's row each; why one was not met, and what can be done."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

from pratique_privacy.audits import AUDITS
from pratique_privacy.canary_evidence import AS_PLANNED
from pratique_privacy.gate import CONTROL, SPLIT, WHOLE_FILE
from pratique_server.report import figures
from pratique_server.report.canary_words import CANARY_WORDS
from pratique_server.report.formats import (
    NOT_AVAILABLE,
    chance,
    listed,
    number,
    patients,
    percent,
    words,
)

_INTEGRITY = {
    "quorum: enough sites trained": (
        "Only {trained} took part in training; the study demands {min_sites}.",
        "Find out why hospitals dropped out (section 4), then run the study again with more.",
    ),
    "only sites of the study took part": (
        "Somebody who is not a hospital of this study took part in training.",
        "Treat this as an incident: compare keys and lists before any other run.",
    ),
    "all rounds of the study were done": (
        "Training ended early: {rounds_done} of {rounds} steps were done.",
        "Run the study again; patients pay for both runs.",
    ),
    "claimed epsilon within the study": (
        "Training costs patients more privacy than the approved study allows.",
        "Correct the study's settings; every hospital must approve it anew.",
    ),
    "two accountants agree on the claim": (
        "Two independent calculations of what training costs do not agree.",
        "Report this as a bug: nothing may be claimed until it is understood.",
    ),
    "every ledger's events reproduce the claim": (
        "A hospital's ledger does not show what this report claims, or its figures are missing.",
        "Check that hospital's ledger before any other run.",
    ),
    "the audit's sum is that of the sites' answers": (
        "The audit has no sum that the hospitals' answers add up to.",
        "Run the study again when all hospitals can be reached.",
    ),
    "hold-outs were committed before training": (
        "A hospital did not fix its comparison group before training began.",
        "Run the study again: a group chosen later could steer the audit.",
    ),
    "every site that trained audited": (
        "Not every hospital that took part in training audited the result{unaudited}.",
        "Run the study again when all hospitals can be reached.",
    ),
    "every ledger was charged": (
        "A hospital shows no entry that its patients' privacy budget was charged.",
        "Check that hospital's ledger before any other run.",
    ),
    "every site told of earlier audits": (
        "A hospital did not tell how often this study was audited there before.",
        "Run the study again: each try counts, so that every one must be shown.",
    ),
    "no site refused to sign": (
        "A hospital did not sign the conclusion{vetoes}.",
        "Ask that hospital: its own log names what did not agree.",
    ),
    "enough members and hold-out patients": (
        "The training group or the comparison group is too small for any conclusion.",
        "Add hospitals or patients, or hold back a larger comparison group in a new study.",
    ),
}
_BOUNDS = {
    "near_match_excess": (
        "share of patients with a near copy, beyond chance",
        "near copies of up to {value} of the patients in training, beyond chance",
    ),
    "near_match_patients": (
        "patients with a near copy, beyond chance",
        "near copies of up to {value}, beyond chance",
    ),
    "tail_tpr": (
        "members recognised when 1 % of outsiders are wrongly accused",
        "an attacker who recognises up to {value} of the patients in training while wrongly "
        "accusing 1 % of outsiders",
    ),
    "linkage_risk": (
        "share of patients whose record can be joined, beyond chance",
        "joining two parts of the record of up to {value} of the patients in training, beyond "
        "chance",
    ),
    "inference_risk": (
        "share of patients of whom a sensitive value is given away, beyond chance",
        "giving away a sensitive value of up to {value} of the patients in training, beyond chance",
    ),
    "attack_auc": (
        "area under the curve",
        "an attack with an area under the curve of up to {value} (0.5 is a coin)",
    ),
}
Remedy = Literal["retrain", "sharpen", "cap", "split", "whole"]
REMEDIES: dict[Remedy, str] = {
    "retrain": "Do not use this table. Train a new model with stronger protection, fewer columns "
    "or more patients; that costs privacy budget again.",
    "sharpen": "This is not proof of a leak: the audit is too uncertain to exclude one. More "
    "patients, a larger comparison group or more audit budget sharpen it, in a new study that "
    "every hospital approves. Tolerances cannot be loosened for this result.",
    "cap": "The share is within its tolerance and the cap in people is not: among so many patients "
    "chance alone leaves that many open. A larger comparison group or more audit budget narrows "
    "it, more patients do not; or agree on a cap that fits their number, before the next result "
    "is known.",
    "split": "Find out how the comparison group was made, and whether its patients stand among "
    "those in training under another id. Then decide on a new random split.",
}
_OWN_REMEDIES: dict[str, Remedy] = {SPLIT: "split", WHOLE_FILE: "whole"}


def _split_rule(rule: Mapping[str, Any]) -> tuple[str, str]:
    """Return the audit's id and the bound's name of a rule, empty where it has none."""
    audit, _, rest = rule["rule"].partition(": ")
    bound, end, _ = rest.partition(" within the tolerance")
    return audit, bound if end else ""


def _rule_value(bound: str, value: float | None) -> str:
    if value is None:
        return ""
    match bound:
        case "near_match_patients":
            return patients(value) if isfinite(value) else NOT_AVAILABLE
        case "attack_auc":
            return number(value, 3)
        case "":
            return chance(value)
        case _:
            return percent(value, 2)


def rule_label(audit: str, bound: str) -> str:
    """Return what a tolerance is of, in words."""
    if not audit:
        return "no conclusion at all"
    return f"{AUDITS[audit].title.lower()}: {_BOUNDS[bound][0]}"


def _canary_row(rule: Mapping[str, Any]) -> dict[str, Any]:
    said = CANARY_WORDS[rule["rule"]]
    value, limit = _canary_figures(rule) if said.comparison else ("", "")
    return {
        "tier": 1,
        "label": said.label,
        "value": value,
        "limit": limit,
        "comparison": said.comparison,
        "passed": rule["passed"],
    }


def _canary_figures(rule: Mapping[str, Any]) -> tuple[str, str]:
    spell = chance if rule["rule"] == AS_PLANNED else number
    return spell(rule["value"]), number(rule["limit"], 3 if spell is chance else 2)


def rule_row(rule: Mapping[str, Any], audits: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as the cells of a table's row."""
    if rule["tier"] == 1:
        return _canary_row(rule)
    audit, bound = _split_rule(rule)
    title = audits[audit]["title"] if audit in audits else audit
    label = rule["rule"][:1].upper() + rule["rule"][1:]
    if rule["tier"] == 2:
        label = f"{title}: no sign of memorisation (adjusted p-value)"
    elif bound in _BOUNDS:
        label = f"{title}: {_BOUNDS[bound][0]} (upper bound)"
    return {
        "tier": rule["tier"],
        "label": label,
        "value": _rule_value(bound, rule["value"]),
        "limit": _rule_value(bound, rule["limit"]),
        "comparison": "at most" if bound else "at least" if rule["limit"] is not None else "",
        "passed": rule["passed"],
    }


def explain(rule: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[str, str]:
    """Return why a rule failed and what can be done, a sentence or two each."""
    evidence, audits = report["evidence"], report["audits"]
    if rule["tier"] == 1:
        said, (value, limit) = CANARY_WORDS[rule["rule"]], _canary_figures(rule)
        return said.why.format(value=value, limit=limit), said.remedy
    if rule["rule"] in _INTEGRITY:
        why, remedy = _INTEGRITY[rule["rule"]]
        missing = sorted(set(evidence["trained"]) - set(evidence["answers"]))
        vetoes = [f"{site}: {words(code)}" for site, code in sorted(evidence["vetoes"].items())]
        return why.format(
            trained=f"{len(evidence['trained'])} of {len(evidence['asked'])} hospitals",
            min_sites=report["release"]["min_sites"],
            rounds_done=evidence["rounds_done"],
            rounds=report["privacy"]["rounds"],
            unaudited=f" ({listed(missing)})" if missing else "",
            vetoes=f" ({'; '.join(vetoes)})" if vetoes else "",
        ), remedy
    found = explain_attack(rule, audits)
    if found is None:
        what = f"for “{rule['rule']}”" if audits else "of every attack"
        why = f"The evidence {what} is missing or unusable, so there is no conclusion."
        return why, "Missing evidence always refuses. Find its cause, then run the study again."
    return found, REMEDIES[what_helps(rule, report)]


def what_helps(rule: Mapping[str, Any], report: Mapping[str, Any]) -> Remedy:
    """Return what can be done about an attack's rule that was not met."""
    audit, bound = _split_rule(rule)
    found = report["audits"].get(audit)
    if rule["rule"] in _OWN_REMEDIES:
        return _OWN_REMEDIES[rule["rule"]]
    if rule["tier"] == 2 or (found and _beyond(found, bound)):
        return "retrain"
    share = f"{audit}: near_match_excess within the tolerance"
    kept = any(other["rule"] == share and other["passed"] for other in report["reasons"])
    return "cap" if bound == "near_match_patients" and kept else "sharpen"


def _beyond(found: Mapping[str, Any], bound: str) -> bool:
    """Return whether the best estimate itself lies above the tolerance."""
    tolerance = figures.strictest_tolerance(found)
    on_scale = bool(bound) and bound != "tail_tpr" and tolerance is not None
    return on_scale and bool(found["statistic"] > tolerance)


def explain_attack(rule: Mapping[str, Any], audits: Mapping[str, Any]) -> str | None:
    """Return why an attack's rule failed, in a sentence or two; None if there is no evidence."""
    audit, bound = _split_rule(rule)
    if rule["rule"] == CONTROL:
        return (
            "The audit did not find rows of phantom patients that had been planted in a table, or "
            "could not be tried on one. With so few patients, or so much noise, it sees no leak."
        )
    if rule["rule"] == WHOLE_FILE:
        return (
            "The file holds rows that lie outside the study's domain or break its rules, or "
            "columns that the study does not name. They were left out: they may be anybody's "
            "records."
        )
    if rule["rule"] == SPLIT and rule["value"] is not None and isfinite(rule["value"]):
        return (
            "The table resembles patients of the comparison group more than patients in training, "
            "beyond what chance explains. Either the split was not random or the table has met the "
            "comparison group; then a leak can hide, and the other results mean little."
        )
    found = audits.get(audit)
    if found is None or rule["value"] is None or not isfinite(rule["value"]):
        return None
    if rule["tier"] == 2:
        return (
            f"{found['title']}: the attack succeeds on patients in training more often than on "
            f"patients never seen, beyond what chance explains (p-value {chance(rule['value'])}). "
            "This is a sign of memorisation."
        )
    value, limit = (_rule_value(bound, rule[key]) for key in ("value", "limit"))
    danger = _BOUNDS[bound][1].format(value=value) if bound in _BOUNDS else f"{bound} of {value}"
    why = f"{found['title']}: the audit cannot exclude {danger}. The study tolerates {limit}."
    more = " Even the best estimate lies above the tolerance: more data alone may not help."
    return why + more if _beyond(found, bound) else why
