"""The page: one offline HTML file for an ethics board, made of ``report.json`` and nothing else.

The first page is for people who have five minutes: words, no Greek letters, and what is *not*
known as plainly as what is. Every value is escaped; nothing is loaded from anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pratique_privacy.audits.family import BOUND_CONFIDENCE, FAMILY_ALPHA
from pratique_privacy.canary_evidence import AS_PLANNED
from pratique_privacy.conclusion import MAX_AUDITS_PER_RUN
from pratique_privacy.gate import CONTROL
from pratique_privacy.local_audits.dcr import WHY_NOT_DECISIVE
from pratique_server.report import figures, standards
from pratique_server.report.canary_words import CANARY_WORDS, WEAK_EVIDENCE
from pratique_server.report.formats import (
    NOT_AVAILABLE,
    chance,
    css_string,
    day,
    listed,
    number,
    patients,
    percent,
    tiny,
    words,
)

_STRENGTHS = ((0.62, "strong"), (0.75, "fairly strong"), (0.9, "moderate"))
_GROUPS = ("members", "controls")
_MOST_EXPOSED = "OUTLIER"
_SHOWN_ON_PAGE_ONE = 4
_URGENCY = {1: 0, 2: 0, 0: 1, 3: 2}

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
    "no more audits than allowed": (
        "This model was audited more often than allowed.",
        "Train a new model: repeated audits would themselves reveal patients.",
    ),
    "every earlier candidate is listed": (
        "An earlier candidate of this run was audited, and this report does not list it.",
        "Treat this as an incident: every audit asks the patients, so every one must be shown.",
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
        "a distance attack with an area under the curve of up to {value} (0.5 is a coin)",
    ),
}
_SHARPEN = (
    "This is not proof of a leak: the audit is too uncertain to exclude one. More patients, a "
    "larger comparison group or more audit budget sharpen it, in a new study that every hospital "
    "approves. Tolerances cannot be loosened for this result."
)
_RETRAIN = (
    "Do not use this table. Train a new model with stronger protection, fewer columns or more "
    "patients; that costs privacy budget again."
)


@dataclass(frozen=True)
class Signed:
    """Who was found to have signed, where somebody checked: a bundle's own page cannot know."""

    fingerprints: Mapping[str, str]
    identities_checked: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Who signed."""
        return tuple(self.fingerprints)


def render_report(report: dict[str, Any], *, signed: Signed | None = None) -> str:
    """Return the report as one HTML file without scripts and without outside references.

    Args:
        report: ``report.json``.
        signed: who signed, for a copy that is printed after checking.
    """
    audits, evidence, privacy = report["audits"], report["evidence"], report["privacy"]
    failed = [rule for rule in report["reasons"] if not rule["passed"]]
    failed.sort(key=lambda rule: _URGENCY.get(rule["tier"], 1))
    failures = [_explain(rule, report) for rule in failed]
    if report["decision"] == "refused":  # more data is no remedy for a sign of memorisation
        failures = [(why, "" if remedy == _SHARPEN else remedy) for why, remedy in failures]
    return render(
        "report.html.j2",
        **audited(report),
        failures=list(dict.fromkeys(why for why, _ in failures)),
        remedies=list(dict.fromkeys(remedy for _, remedy in failures if remedy)),
        success=ceil(1000 * privacy["attacker_success"] - 1e-9) / 10,
        strength=_strength(privacy["attacker_success"]),
        unit=privacy["unit"] if report["data"]["patient_id"] else "row at one site",
        negative=any((a[group] or 0) < 0 for a in audits.values() for group in _GROUPS),
        weak_evidence=WEAK_EVIDENCE,
        confidence=1 - (1 - BOUND_CONFIDENCE) / max(1, evidence["attempt"]),
        max_audits=MAX_AUDITS_PER_RUN,
        budgets=sorted(
            privacy["sites"].items(), key=lambda item: item[1]["budget"] - item[1]["spent"]
        ),
        gaps=_gaps(report["marginals"]),
        signed=signed,
        headings=standards.SECTIONS,
        numbers={key: place for place, key in enumerate(standards.SECTIONS, 1)},
        guidance=standards.answers(report),
        submissions=_submissions(report),
    )


def render(template: str, **values: Any) -> str:
    """Return a page; every value is escaped and every name in the template must be known."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, chance, tiny, day, words, listed, patients, css_string)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template(template).render(figures=figures, **values)


def audited(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pages with attacks show of them."""
    audits = report["audits"]
    return {
        "report": report,
        "rules": [_rule_row(rule, audits) for rule in report["reasons"]],
        "shown": _SHOWN_ON_PAGE_ONE,
        "strongest": _strongest(audits),
        "limits": sorted(filter(None, (a["limit_of_detection"] for a in audits.values()))),
        "alpha": FAMILY_ALPHA,
        "exposed": audits.get(_MOST_EXPOSED),
        "unit_name": report.get("unit", "patient"),
        "why_descriptive": WHY_NOT_DECISIVE,
    }


def _strength(success: float) -> str:
    return next((word for most, word in _STRENGTHS if success <= most), "weak")


def _strongest(audits: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the audit that told members from controls best: the least p-value."""
    usable = [a for a in audits.values() if a["p_value"] is not None and isfinite(a["p_value"])]
    return min(usable, key=lambda audit: float(audit["p_value"]), default=None)


def _submissions(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every candidate of the run that was audited, in order; unlisted ones as unknown."""
    evidence = report["evidence"]
    own = {key: report[key] for key in ("candidate_sha256", "decision")}
    own["attempt"] = evidence["attempt"]
    unknown = {"candidate_sha256": None, "decision": None}
    tries = range(1, min(evidence["attempt"], MAX_AUDITS_PER_RUN + 1))
    known = {attempt: {**unknown, "attempt": attempt} for attempt in tries}
    known |= {one["attempt"]: one for one in (*evidence["earlier"], own)}
    return [known[attempt] for attempt in sorted(known)]


def _gaps(marginals: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return for every column where its two histograms differ most, and by how much."""
    gaps = []
    for name, column in marginals.items():
        pairs = zip(column["labels"], column["noised"], column["synthetic"], strict=True)
        label, gap = max(((label, abs(a - b)) for label, a, b in pairs), key=lambda pair: pair[1])
        gaps.append((name, str(label), gap))
    return gaps


def _split_rule(rule: Mapping[str, Any]) -> tuple[str, str]:
    """Return the audit's id and the bound's name of a rule, empty where it has none."""
    audit, _, rest = rule["rule"].partition(": ")
    return audit, rest.removesuffix(" within the tolerance") if rule["tier"] == 3 else ""


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


def _rule_row(rule: Mapping[str, Any], audits: Mapping[str, Any]) -> dict[str, Any]:
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
        "comparison": {2: "at least", 3: "at most"}.get(rule["tier"], ""),
        "passed": rule["passed"],
    }


def _explain(rule: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[str, str]:
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
    return found, _RETRAIN if rule["tier"] == 2 else _SHARPEN


def explain_attack(rule: Mapping[str, Any], audits: Mapping[str, Any]) -> str | None:
    """Return why an attack's rule failed, in a sentence or two; None if there is no evidence."""
    audit, bound = _split_rule(rule)
    if rule["rule"] == CONTROL:
        return (
            "The audit passed a table in which rows of phantom patients had been planted, or could "
            "not be tried on one. With so few patients, or so much noise, it sees no leak."
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
    tolerance = figures.strictest_tolerance(found)
    beyond = tolerance is not None and found["statistic"] > tolerance
    value, limit = (_rule_value(bound, rule[key]) for key in ("value", "limit"))
    danger = _BOUNDS[bound][1].format(value=value) if bound in _BOUNDS else f"{bound} of {value}"
    why = f"{found['title']}: the audit cannot exclude {danger}. The study tolerates {limit}."
    more = " Even the best estimate lies above the tolerance: more data alone may not help."
    return why + more if beyond else why
