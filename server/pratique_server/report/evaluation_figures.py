"""Figures of an evaluation: associations of pairs of columns, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pratique_server.report.figures import (
    ACCENT,
    INK,
    LIMIT,
    MUTED,
    TITLE,
    data_address,
    set_style,
    short,
)

_NAMED_PAIRS = 2
_LEAST_SHIFT = 0.05  # smaller differences of associations get no name in the figure


def associations_figure(
    pairs: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[Mapping[str, float]]]
) -> str:
    """Return real against synthetic association of every pair, and calibration if there is one."""
    with mpl.rc_context():
        set_style()
        figure = Figure(figsize=(8.2, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_associations(left, pairs)
        if curves:
            _draw_calibration(right, curves)
        else:
            right.set_axis_off()
        return data_address(figure, "svg" if len(pairs) <= 2_000 else "png")


def _draw_associations(ax: Axes, pairs: Sequence[Mapping[str, Any]]) -> None:
    real = [pair["real_association"] for pair in pairs]
    synthetic = [pair["synthetic_association"] for pair in pairs]
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=":")
    ax.scatter(real, synthetic, s=14, facecolor="none", edgecolor=ACCENT, linewidth=0.9)
    by_shift = sorted(
        pairs, key=lambda pair: -abs(pair["real_association"] - pair["synthetic_association"])
    )
    for pair in by_shift[:_NAMED_PAIRS]:
        at = pair["real_association"], pair["synthetic_association"]
        if abs(at[0] - at[1]) < _LEAST_SHIFT:
            continue
        name = f"{short(pair['first'], 14)}, {short(pair['second'], 14)}"
        on_right = at[0] > 0.6
        mark = ax.annotate(name, at, (-5 if on_right else 5, -2), textcoords="offset points")
        mark.set(fontsize=6.5, color=LIMIT, va="top", ha="right" if on_right else "left")
    ax.set_title("Association of two columns (Cramér's V)", **TITLE)
    ax.set(xlabel="real training table", ylabel="synthetic table", xlim=(-0.02, 1.02))
    ax.set_ylim(-0.02, 1.02)


def _draw_calibration(ax: Axes, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    styles: dict[str, dict[str, Any]] = {
        "synthetic": {"color": ACCENT, "marker": "o", "label": "learnt from synthetic rows"},
        "real": {
            "color": INK,
            "marker": "s",
            "markerfacecolor": "white",
            "linewidth": 0.8,
            "label": "learnt from real rows",
        },
    }
    ends = [point[end] for curve in curves.values() for point in curve for end in point]
    most = max(ends, default=1.0)
    ax.plot([0, most], [0, most], color=MUTED, linewidth=0.9, linestyle=":")
    for name, curve in curves.items():
        x, y = ([point[end] for point in curve] for end in ("predicted", "observed"))
        ax.plot(x, y, markersize=4, **styles[name])
    ax.set_title("Predicted and observed risk, by tenths", **TITLE)
    ax.set(xlabel="mean predicted risk of real test patients", ylabel="share with the outcome")
    ax.legend(loc="upper left", frameon=False)
