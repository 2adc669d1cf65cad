"""Figures of an evaluation of images: measures beside their floors, and features as a map."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pratique_server.report.figures import (
    ACCENT,
    INK,
    MUTED,
    TITLE,
    data_address,
    set_style,
    short,
)


def measures_figure(
    measures: Sequence[Mapping[str, Any]], points: Mapping[str, Sequence[Sequence[float]]] | None
) -> str:
    """Return measures between 0 and 1 with intervals and floors, and a map of features if any."""
    with mpl.rc_context():
        set_style()
        height = max(3.4, 0.3 * len(measures) + 0.9)
        figure = Figure(figsize=(8.2, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
        _draw_measures(left, measures)
        if points is None:
            right.set_axis_off()
        else:
            _draw_map(right, points)
        figure.legend(loc="outside upper left", ncols=4, frameon=False)
        return data_address(figure, "svg")


def _draw_measures(ax: Axes, measures: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(measures))[::-1]
    value, low, high, floor = (
        [float("nan") if m[key] is None else m[key] for m in measures]
        for key in ("value", "lower", "upper", "baseline")
    )
    ax.hlines(places, low, high, color=ACCENT, linewidth=2.2, label="95 % interval")
    ax.plot(value, places, "o", color=ACCENT, markersize=5, label="synthetic")
    hollow: dict[str, Any] = {"marker": "s", "facecolor": "white", "edgecolor": INK}
    ax.scatter(floor, places, s=30, label="real instead", zorder=3, **hollow)
    ax.set_yticks(places, [short(m["id"].replace("_", " "), 26) for m in measures])
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(measures) - 0.3))
    ax.tick_params(axis="y", length=0)
    ax.set_title("Measures from 0 to 1", **TITLE)


def _draw_map(ax: Axes, points: Mapping[str, Sequence[Sequence[float]]]) -> None:
    styles: dict[str, dict[str, Any]] = {
        "real": {"marker": "s", "facecolor": "none", "edgecolor": MUTED},
        "synthetic": {"marker": "o", "facecolor": ACCENT, "edgecolor": "none", "alpha": 0.6},
    }
    for role, style in styles.items():
        x, y = np.array(points[role]).T
        ax.scatter(x, y, s=11, linewidth=0.7, **style)
    ax.set_title("Features: □ real test images, ● synthetic", **TITLE)
    ax.set(xlabel="first direction of real images", ylabel="second")
