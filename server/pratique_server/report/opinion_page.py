"""The page of an opinion on files: one offline HTML file, made of ``report.json`` alone.

It shares its style and its tables with the report of a release and says on every fold that it is
none. It holds exact results about patients: for the eyes of those who hold the records.
"""

import shlex
from collections.abc import Mapping
from math import isfinite
from typing import Any

from pratique_privacy.audits.family import BOUND_CONFIDENCE
from pratique_server.report import figures
from pratique_server.report.formats import number
from pratique_server.report.page import audited, render
from pratique_server.report.rules import Remedy, explain_attack, what_helps

_UNUSABLE = "“{rule}”: the result is missing or unusable, which never counts as a pass."
_REMEDIES: dict[Remedy, str] = {
    "retrain": "Do not pass this table on. Make another one by a method that protects better, with "
    "fewer columns or from more {unit}s, and audit it against a new random split.",
    "whole": "Remove what was left out from the table, and audit the rest as a file of its own.",
    "split": "Find out how the hold-out was made, and whether its {unit}s stand among the members "
    "under another id. Then make another table from a new random split.",
    "cap": "The share is within its tolerance and the cap in {unit}s is not: among so many chance "
    "alone leaves that many open. A larger hold-out narrows it, more members do not; or agree on a "
    "cap that fits their number, before the next result is known.",
    "sharpen": "This is not proof of a leak: the files are too small, or the results too "
    "uncertain, to exclude one. More {unit}s, above all a larger hold-out, sharpen the audit. "
    "Tolerances are to be agreed before the result is known: do not loosen them for it.",
}
"""The most urgent one first."""


def render_opinion(report: dict[str, Any]) -> str:
    """Return the opinion as one HTML file without scripts and without outside references."""
    audits, unit = report["audits"], report["unit"]
    failed = sorted(
        (rule for rule in report["reasons"] if not rule["passed"]), key=lambda rule: rule["tier"]
    )
    whys = [explain_attack(rule, audits) or _UNUSABLE.format(**rule) for rule in failed]
    helps = {what_helps(rule, report) for rule in failed}
    if report["decision"] == "refused":  # more data is no remedy for a sign of memorisation
        helps -= {"sharpen", "cap"}
    return render(
        "opinion.html.j2",
        **audited(report),
        unit=unit,
        failures=list(dict.fromkeys(whys)),
        remedies=[text.format(unit=unit) for kind, text in _REMEDIES.items() if kind in helps],
        certainty=next((a["confidence"] for a in audits.values()), BOUND_CONFIDENCE),
        strips=[_strip(audit) for audit in audits.values()],
        command=_command(report["files"], report["scaling"]),
    )


def _strip(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return where bounds, estimate, tolerance and "no difference" lie on a line of 0 to 100."""
    null = 0.5 if figures.is_auc(audit) else 0.0
    low, high = audit["interval"]
    places = {
        "null": null,
        "low": low,
        "estimate": audit["statistic"],
        "high": high,
        "tolerance": figures.strictest_tolerance(audit),
    }
    known = {name: at for name, at in places.items() if at is not None and isfinite(at)}
    least, most = min(known.values()), max(known.values())
    scale = 92 / ((most - least) or 1)
    at = {name: round(4 + scale * (known[name] - least), 2) for name in known}
    digits = 3 if figures.is_auc(audit) else 4
    drawn = {"low": "lower bound", "estimate": "result", "high": "upper bound"}
    drawn |= {"tolerance": "strictest tolerance", "null": "no difference"}
    words = ", ".join(
        f"{drawn[name]} {number(known[name], digits)}" for name in drawn if name in at
    )
    return {
        "title": audit["title"],
        "at": at,
        "is_auc": figures.is_auc(audit),
        "words": f"{audit['title']}: {words}",
        **known,
    }


def _command(files: Mapping[str, Mapping[str, Any]], scaling: str | None) -> str:
    roles = " ".join(f"--{role} {shlex.quote(file['name'])}" for role, file in files.items())
    scaled = "" if scaling is None else f" --scaling {scaling}"
    return f"pratique audit STUDY.toml {roles}{scaled} --out FOLDER"
