"""The page of an evaluation of images: one offline HTML file, of ``evaluation.json`` alone.

It holds exact results about real records, for the eyes of those who hold them, and no real image.
"""

from typing import Any

from pratique_server.report.image_evaluation_figures import measures_figure
from pratique_server.report.page import render

_GROUPS = {
    "Likeness": ("fd_", "fid", "precision", "recall", "density", "coverage"),
    "Utility": ("tstr", "trts", "trtr", "class_consistency"),
    "Pairs": ("paired_",),
    "Diversity": ("ms_ssim",),
    "Nearness to training images": ("nearest_ssim",),
    "Columns and features": ("tv", "association", "rank_correlation", "detection"),
}
_DRAWN = ("precision", "recall", "coverage", "tstr", "trts", "class_", "ms_ssim", "detect")
_SEEN_BY = {
    "phantom": "the public encoder, which was trained on phantoms",
    "site": "the network that learnt from the real training images",
    "file": "the network of the given weights",
}


def render_image_evaluation(found: dict[str, Any]) -> str:
    """Return the evaluation as one HTML file without scripts and without outside references."""
    measures = found["measures"].values()
    groups = {
        title: [m for m in measures if m["id"].startswith(prefixes)]
        for title, prefixes in _GROUPS.items()
    }
    drawn = [m for m in measures if m["id"].startswith(_DRAWN)]
    return render(
        "image_evaluation.html.j2",
        report=found,
        groups={title: chosen for title, chosen in groups.items() if chosen},
        seen_by=_SEEN_BY.get(found["features"]),
        overview=measures_figure(drawn, found["map"]),
    )
