"""The report's figures: matplotlib without pyplot, inlined as ``data:`` addresses.

One report gives the same bytes every time: no date, no random id. Text stays text (SVG), so that a
figure is small and can be searched. Fill and outline carry the meaning, colour only helps.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, isfinite
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

INK, MUTED, PALE = "#1b1f24", "#59636e", "#c9d3de"
ACCENT, LIMIT = "#0b4f7d", "#9a3412"

MAX_PANELS = 60
"""Columns that are drawn; a wider table's other columns stand in ``report.json``."""

_MAX_SVG_CELLS = 4_000
_PANELS_ACROSS = 4
_MAX_TICKS = 6
_MAX_LABEL = 11
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "pratique-report",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 8.5, "fontweight": "bold"}
_PREAMBLE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_CLIP = re.compile(r'(?<=[#"])p[0-9a-f]{10}\b')


def marginals_figure(
    marginals: Mapping[str, Any], *, real: str = "noised", title: str = "training histogram, noised"
) -> str:
    """Return small multiples: the real histogram against the table, every column.

    Args:
        marginals: column → ``labels``, ``synthetic`` and ``real``'s shares.
        real: key of the histogram that is drawn as an area.
        title: what it is.
    """
    shown = dict(list(marginals.items())[:MAX_PANELS])
    rows = ceil(len(shown) / _PANELS_ACROSS)
    cells = sum(len(column["labels"]) for column in shown.values())
    with mpl.rc_context():
        set_style()
        figure = Figure(figsize=(8.2, 1.62 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, _PANELS_ACROSS, squeeze=False).ravel()
        for ax, (name, column) in zip(axes, shown.items(), strict=False):
            _draw_marginal(ax, name, column, real, title)
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
        return data_address(figure, "svg" if cells <= _MAX_SVG_CELLS else "png")


def attacks_figure(audits: Mapping[str, Any]) -> str:
    """Return rates of members and controls, their excess with its tolerance, and the AUC."""
    rates = [audit for audit in audits.values() if not is_auc(audit)]
    aucs = [audit for audit in audits.values() if is_auc(audit)]
    heights = [max(1, len(part)) for part in (rates, rates, aucs)]
    with mpl.rc_context():
        set_style()
        figure = Figure(figsize=(8.2, 0.3 * sum(heights) + 2.0), layout="constrained")
        found, excess, auc = figure.subplots(3, 1, height_ratios=[h + 0.6 for h in heights])
        _draw_rates(found, rates)
        _draw_intervals(excess, rates, scale=100.0, null=0.0)
        excess.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        _draw_intervals(auc, aucs, scale=1.0, null=0.5)
        found.set_title("Attack succeeds on this share of patients, % (noised)", **TITLE)
        excess.set_title("Excess of members over controls, percentage points", **TITLE)
        auc.set_title("Area under the curve (AUC): 0.5 is a coin, 1 is certainty", **TITLE)
        return data_address(figure, "svg")


def budgets_figure(sites: Mapping[str, Any]) -> str:
    """Return one bar a site: what patients have spent at most, and what is left."""
    names = list(sites)[::-1]
    spent = np.array([sites[name]["spent"] for name in names])
    left = np.array([max(0.0, sites[name]["budget"] - sites[name]["spent"]) for name in names])
    with mpl.rc_context():
        set_style()
        figure = Figure(figsize=(8.2, 0.34 * len(names) + 0.95), layout="constrained")
        ax = figure.subplots()
        places = np.arange(len(names))
        ax.barh(places, spent, 0.56, color=ACCENT, label="spent")
        rest: dict[str, Any] = {"facecolor": "white", "edgecolor": ACCENT}
        ax.barh(places, left, 0.56, left=spent, label="left", **rest)
        for place, used, free in zip(places, spent, left, strict=True):
            if used > 0.12 * (used + free):
                ax.text(
                    used / 2, float(place), f"{used:.2f}", color="white", ha="center", va="center"
                )
            if free > 0.12 * (used + free):
                ax.text(used + free / 2, float(place), f"{free:.2f}", ha="center", va="center")
        ax.set_yticks(places, [short(name, 24) for name in names])
        ax.set_xlabel("ε of a patient at that site, over all studies (0 to its budget)")
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return data_address(figure, "svg")


def is_auc(audit: Mapping[str, Any]) -> bool:
    """Whether an audit's statistic is an area under the curve rather than a rate."""
    return any(bound["rule"] == "attack_auc" for bound in audit["bounds"])


def strictest_tolerance(audit: Mapping[str, Any]) -> float | None:
    """Return the tightest tolerance of an audit on the scale of its statistic, None without one.

    A cap in patients becomes a share by the ratio that the bounds themselves have. What is found
    with 1 % false alarms is on no such scale.
    """
    bounds = {bound["rule"]: bound for bound in audit["bounds"]}
    upper = _or_nan(audit["interval"][1])
    tolerances = []
    for rule, bound in bounds.items():
        if rule == "near_match_patients":
            if bound["value"]:
                tolerances.append(bound["limit"] * upper / bound["value"])
        elif rule != "tail_tpr":
            tolerances.append(bound["limit"])
    finite = [float(tolerance) for tolerance in tolerances if isfinite(tolerance)]
    return min(finite, default=None)


def _draw_marginal(ax: Axes, name: str, column: Mapping[str, Any], real: str, title: str) -> None:
    labels = [str(label) for label in column["labels"]]
    edges = np.arange(len(labels) + 1) - 0.5
    area, synthetic = 100 * np.array(column[real]), 100 * np.array(column["synthetic"])
    ax.stairs(area, edges, fill=True, facecolor=PALE, edgecolor=MUTED, linewidth=0.5, label=title)
    ax.stairs(synthetic, edges, color=ACCENT, linewidth=1.1, label="synthetic table")
    ax.set_title(short(name, 24), fontsize=8, loc="left", pad=3)
    every = ceil(len(labels) / _MAX_TICKS)
    ticks = list(range(0, len(labels), every))
    if labels[-1] == "missing" and ticks[-1] != len(labels) - 1:
        ticks = [tick for tick in ticks if tick <= len(labels) - 1 - every] + [len(labels) - 1]
    ax.set_xticks(ticks, [short(labels[tick], _MAX_LABEL) for tick in ticks])
    crowded = sum(len(short(labels[tick], _MAX_LABEL)) + 1 for tick in ticks) > 22
    turned: dict[str, Any] = (
        {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    )
    for label in ax.get_xticklabels():
        label.set(fontsize=6, **turned)
    ax.tick_params(axis="both", length=2, pad=1.5)
    ax.tick_params(axis="y", labelsize=6)
    ax.yaxis.set_major_formatter("{x:g} %")
    ax.locator_params(axis="y", nbins=4)
    ax.set_ylim(bottom=0)
    ax.set_xlim(edges[0], edges[-1])


def _draw_rates(ax: Axes, audits: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(audits))[::-1]
    members = [100 * _or_nan(audit["members"]) for audit in audits]
    controls = [100 * _or_nan(audit["controls"]) for audit in audits]
    ax.hlines(places, members, controls, color=PALE, linewidth=2, zorder=1)
    ax.scatter(members, places, s=38, color=ACCENT, label="members (in training)", zorder=3)
    hollow: dict[str, Any] = {
        "marker": "s",
        "facecolor": "white",
        "edgecolor": INK,
        "linewidth": 1.2,
    }
    ax.scatter(controls, places, s=34, label="controls (never seen)", zorder=2, **hollow)
    ax.axvline(0, color=MUTED, linewidth=0.7, linestyle=":")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _name_rows(ax, audits, places)


def _draw_intervals(
    ax: Axes, audits: Sequence[Mapping[str, Any]], *, scale: float, null: float
) -> None:
    places = np.arange(len(audits))[::-1]
    low, high = ([scale * _or_nan(audit["interval"][end]) for audit in audits] for end in (0, 1))
    estimates = [scale * _or_nan(audit["statistic"]) for audit in audits]
    limits = [scale * _or_nan(strictest_tolerance(audit)) for audit in audits]
    ax.axvline(scale * null, color=MUTED, linewidth=0.9, linestyle=":", label="no difference")
    level = f"{100 * audits[0]['confidence']:.3g} % bounds"
    ax.hlines(places, low, high, color=ACCENT, linewidth=2.2, label=level)
    ax.plot(estimates, places, "o", color=ACCENT, markersize=5, label="estimate")
    ax.vlines(
        limits,
        places - 0.34,
        places + 0.34,
        color=LIMIT,
        linewidth=2.4,
        label="strictest tolerance",
    )
    for place, limit in zip(places, limits, strict=True):
        if isfinite(limit):
            text = "tolerance " + f"{limit:.2f}".rstrip("0").rstrip(".")
            mark = ax.annotate(text, (limit, float(place)), (5, 0), textcoords="offset points")
            mark.set(va="center", fontsize=7, color=LIMIT)
    ax.margins(x=0.16)
    _name_rows(ax, audits, places)


def _name_rows(ax: Axes, audits: Sequence[Mapping[str, Any]], places: NDArray[np.int_]) -> None:
    ax.set_yticks(places, [audit["title"] for audit in audits])
    ax.set_ylim(-0.7, max(1, len(audits)) - 0.3)
    ax.tick_params(axis="y", length=0)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def short(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def set_style() -> None:
    """Use matplotlib's own defaults, not the machine's ``matplotlibrc``, and the report's style."""
    mpl.rcdefaults()
    mpl.rcParams.update(_STYLE)


def data_address(figure: Figure, kind: str) -> str:
    """Return a figure, ``svg`` or ``png``, as a ``data:`` address."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a column's name is not mathematics
    buffer = BytesIO()
    if kind == "png":
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = _PREAMBLE.sub("", buffer.getvalue().decode(), count=1)
    # A clip is named by a hash of where it lies, of which the layout's last digits are not stable.
    clips = {name: f"p{place}" for place, name in enumerate(dict.fromkeys(_CLIP.findall(svg)))}
    svg = _CLIP.sub(lambda found: clips[found.group()], svg)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
