"""The page of an evaluation: one offline HTML file, made of ``evaluation.json`` alone.

It holds exact results about real records: for the eyes of those who hold them.
"""

from typing import Any

from pratique_server.report.evaluation_figures import associations_figure
from pratique_server.report.figures import marginals_figure
from pratique_server.report.page import render

_GROUPS = {
    "Likeness": ("tv", "association", "rank_correlation", "detection"),
    "Utility": ("tstr", "trts"),
    "Calibration": ("calibration",),
}


def render_evaluation(found: dict[str, Any]) -> str:
    """Return the evaluation as one HTML file without scripts and without outside references."""
    groups = {
        title: [m for m in found["measures"].values() if m["id"].startswith(prefixes)]
        for title, prefixes in _GROUPS.items()
    }
    return render(
        "evaluation.html.j2",
        report=found,
        groups={title: measures for title, measures in groups.items() if measures},
        associations=associations_figure(found["pairs"], found["calibration"]),
        marginals=marginals_figure(found["marginals"], real="real", title="real training table"),
    )
