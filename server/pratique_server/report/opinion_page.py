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
from pratique_server.report.rules import explain_attack

_UNUSABLE = "“{rule}”: the result is missing or unusable, which never counts as a pass."
_RETRAIN = (
    "Do not pass this table on. Make another one by a method that protects better, with fewer "
    "columns or from more {unit}s, and audit it against a new random split."
)
_SHARPEN = (
    "This is not proof of a leak: the files are too small, or the results too uncertain, to "
    "exclude one. More {unit}s, above all a larger hold-out, sharpen the audit. Tolerances are to "
    "be agreed before the result is known: do not loosen them for it."
)


def render_opinion(report: dict[str, Any]) -> str:
    """Return the opinion as one HTML file without scripts and without outside references."""
    audits, unit = report["audits"], report["unit"]
    failed = sorted(
        (rule for rule in report["reasons"] if not rule["passed"]), key=lambda rule: rule["tier"]
    )
    whys = [explain_attack(rule, audits) or _UNUSABLE.format(**rule) for rule in failed]
    remedy = _RETRAIN if report["decision"] == "refused" else _SHARPEN
    return render(
        "opinion.html.j2",
        **audited(report),
        unit=unit,
        failures=list(dict.fromkeys(whys)),
        remedy=remedy.format(unit=unit) if failed else None,
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
