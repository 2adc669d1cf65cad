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

from pratique_privacy.audits.family import FAMILY_ALPHA, bound_confidence
from pratique_privacy.local_audits.dcr import WHY_NOT_DECISIVE
from pratique_server.report import figures, standards
from pratique_server.report.canary_words import WEAK_EVIDENCE
from pratique_server.report.formats import (
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
from pratique_server.report.rules import REMEDIES, explain, rule_row

_STRENGTHS = ((0.62, "strong"), (0.75, "fairly strong"), (0.9, "moderate"))
_GROUPS = ("members", "controls")
_MOST_EXPOSED = "OUTLIER"
_SHOWN_ON_PAGE_ONE = 4
_URGENCY = {1: 0, 2: 0, 0: 1, 3: 2}


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
    audits, privacy, attempt = report["audits"], report["privacy"], 1 + len(report["history"])
    failed = [rule for rule in report["reasons"] if not rule["passed"]]
    failed.sort(key=lambda rule: _URGENCY.get(rule["tier"], 1))
    failures = [explain(rule, report) for rule in failed]
    if report["decision"] == "refused":  # more data is no remedy for a sign of memorisation
        more_data = REMEDIES["sharpen"], REMEDIES["cap"]
        failures = [(why, "" if remedy in more_data else remedy) for why, remedy in failures]
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
        confidence=bound_confidence(attempt),
        attempt=attempt,
        budgets=sorted(
            privacy["sites"].items(), key=lambda item: item[1]["budget"] - item[1]["spent"]
        ),
        gaps=_gaps(report["marginals"]),
        signed=signed,
        headings=standards.SECTIONS,
        numbers={key: place for place, key in enumerate(standards.SECTIONS, 1)},
        guidance=standards.answers(report),
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
    limits = [a["limit_of_detection"] for a in audits.values() if not figures.is_auc(a)]
    return {
        "report": report,
        "rules": [rule_row(rule, audits) for rule in report["reasons"]],
        "shown": _SHOWN_ON_PAGE_ONE,
        "strongest": _strongest(audits),
        "limits": sorted(limit for limit in limits if limit is not None),
        "blind": limits.count(None),
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


def _gaps(marginals: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return for every column where its two histograms differ most, and by how much."""
    gaps = []
    for name, column in marginals.items():
        pairs = zip(column["labels"], column["noised"], column["synthetic"], strict=True)
        label, gap = max(((label, abs(a - b)) for label, a, b in pairs), key=lambda pair: pair[1])
        gaps.append((name, str(label), gap))
    return gaps
