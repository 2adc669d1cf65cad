"""Trust factors T1 to T5 of a segmenter that learns from a mix of real and synthetic images.

    OMP_NUM_THREADS=1 nice python -m benchmarks.trust_factors

Phantoms of a stand-in hospital (SHIFTED) are "real", those of BASE "synthetic"; all masks are
exact. A share α of the training cases is real, their number is fixed. Tests are on pairs that share
a mask: the hospital's heads in its own scanner, and the same heads in BASE's. Each seed draws its
own training cases and network; intervals (95 %) are of a bootstrap of seeds and test cases. JSON
and a figure in ``results/``. With generators of images in the place of BASE it measures them.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import (
    BASE,
    KINDS,
    SHIFTED,
    Phantoms,
    Population,
    draw,
)
from pratique_server.evaluation.images.segmenter import Segmenter, SegmenterTraining
from pratique_server.evaluation.images.trust_factors import (
    REGIONS,
    dice,
    paired_factors,
    trust_factors,
)

RESULTS = Path(__file__).parent / "results"
SCANNER = (
    *("field_tesla", "t1_tr_ms", "t1_te_ms", "t2_tr_ms", "t2_te_ms", "flair_tr_ms", "flair_te_ms"),
    *("flair_nulling", "agent_mm", "noise", "bias", "blur_px", "gamma", "tissue_spread"),
)
TWIN = Population(
    "twin", MappingProxyType({**SHIFTED.ranges, **{name: BASE.ranges[name] for name in SCANNER}})
)
MARKS = tuple(sorted((0, *REGIONS.values())))
RESAMPLES = 200
TEST_SEED = 1_000  # of the phantoms that are tested on

Float64Array = NDArray[np.float64]
Cases = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Plan:
    """How much is computed."""

    size_px: int = 32
    train_cases: int = 240
    test_cases: int = 120
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    width: int = 8


QUICK = Plan(train_cases=60, test_cases=40, shares=(0.0, 0.5, 1.0), steps=60)


def rendered(phantoms: Phantoms, population: Population, size_px: int) -> Cases:
    """Return all contrasts as grey values, (N, H, W, 4), and the masks, (N, H, W)."""
    slices = render_slices(phantoms, population, size=size_px)
    return np.rint(slices.image * 255).astype(np.uint8).transpose(0, 2, 3, 1), slices.label


def heads(num: int, seed: int) -> Phantoms:
    """Return phantoms with a glioblastoma: the kind that has all three regions."""
    kinds = np.full(num, KINDS.index("glioblastoma"))
    return draw(num, np.random.default_rng(seed), kinds=kinds)


def measure(plan: Plan) -> dict[float, dict[str, Float64Array]]:
    """Return for each α the Dice scores of both test sets, (S, N, R)."""
    training = SegmenterTraining(steps=plan.steps, width=plan.width)
    tested = heads(plan.test_cases, TEST_SEED)
    tests = {"real": rendered(tested, SHIFTED, plan.size_px)}
    tests["synthetic"] = rendered(tested, TWIN, plan.size_px)
    np.testing.assert_array_equal(tests["real"][1], tests["synthetic"][1])
    found: dict[float, dict[str, list[Float64Array]]] = {
        share: {role: [] for role in tests} for share in plan.shares
    }
    for seed in plan.seeds:
        phantoms = heads(2 * plan.train_cases, seed)
        real = rendered(phantoms[: plan.train_cases], SHIFTED, plan.size_px)
        synthetic = rendered(phantoms[plan.train_cases :], BASE, plan.size_px)
        for share in plan.shares:
            num = round(share * plan.train_cases)
            pixels, mask = (
                np.concatenate([one[:num], other[num:]])
                for one, other in zip(real, synthetic, strict=True)
            )
            start = time.process_time()
            network = Segmenter.fit(pixels, mask, MARKS, seed=seed, training=training)
            for role, (images, truth) in tests.items():
                found[share][role].append(dice(network.masks(images), truth))
            print(
                f"α {share:.2f}, seed {seed}: {time.process_time() - start:.0f} CPU-s", flush=True
            )
    return {
        share: {role: np.stack(parts) for role, parts in scores.items()}
        for share, scores in found.items()
    }


def factors(scores: dict[str, Float64Array]) -> dict[str, float]:
    """Return every factor as the mean over seeds, by a flat name."""
    lines = []
    for real, synthetic in zip(scores["real"], scores["synthetic"], strict=True):
        line: dict[str, float] = {}
        for role, dice_NR in (("real", real), ("synthetic", synthetic)):
            one = trust_factors(dice_NR)
            line |= {f"t1 {role} {r}": t for r, t in zip(REGIONS, one.t1_regions, strict=True)}
            line |= {
                f"t1 {role}": one.t1,
                f"t2 over cases {role}": one.t2_over_cases,
                f"t2 over regions {role}": one.t2_over_regions,
                f"t5 {role}": one.t5,
            }
        pairs = paired_factors(real, synthetic)
        lines.append(line | {"t3": pairs.t3, "t4": pairs.t4})
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}


def summary(scores: dict[str, Float64Array]) -> dict[str, dict[str, float | None]]:
    """Return each factor with its interval; None where it is not defined."""
    rng = np.random.default_rng(0)
    num_seeds, num_cases, _ = scores["real"].shape
    resamples = []
    for _ in range(RESAMPLES):
        seeds = rng.integers(num_seeds, size=num_seeds)
        cases = rng.integers(num_cases, size=num_cases)
        resamples.append(
            factors({role: dice_SNR[seeds][:, cases] for role, dice_SNR in scores.items()})
        )
    found = {}
    for name, value in factors(scores).items():
        low, high = np.quantile([each[name] for each in resamples], [0.025, 0.975])
        ends = {"value": value, "lower": float(low), "upper": float(high)}
        found[name] = {key: end if np.isfinite(end) else None for key, end in ends.items()}
    return found


def draw_figure(found: dict[str, dict[str, dict[str, float | None]]], path: Path) -> None:
    """Write all factors over α."""
    styles: dict[str, Any] = {"real": "#0b4f7d", "synthetic": "#9a3412"}
    with mpl.rc_context({"svg.hashsalt": "trust", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots(2, 3)
        panels: list[tuple[Axes, str, Callable[[str], str]]] = [
            (axes[0, 0], "T1 mean Dice", lambda role: f"t1 {role}"),
            (axes[0, 1], "T2 1 - deviation over cases", lambda role: f"t2 over cases {role}"),
            (axes[0, 2], "T2 1 - deviation over regions", lambda role: f"t2 over regions {role}"),
            (axes[1, 0], "T3 cosine of pairs", lambda _: "t3"),
            (axes[1, 1], "T4 mean difference of pairs", lambda _: "t4"),
            (axes[1, 2], "T5 coefficient of variation", lambda role: f"t5 {role}"),
        ]
        shares = [float(share) for share in found]
        for ax, title, name in panels:
            for role, colour in styles.items():
                line = [found[share][name(role)] for share in found]
                value, low, high = (
                    np.array([each[key] for each in line], np.float64)  # None is NaN
                    for key in ("value", "lower", "upper")
                )
                paired = name(role) in ("t3", "t4")
                ink = "#1b1f24" if paired else colour
                label = "pairs" if paired else f"tested on {role}"
                ax.plot(shares, value, "o-", color=ink, markersize=3, label=label)
                ax.fill_between(shares, low, high, color=ink, alpha=0.15, linewidth=0)
                if paired:
                    break
            ax.set_title(title, loc="left", fontsize=8.5)
            ax.set_xlabel("α, share of real training cases")
        axes[0, 0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train, test, and write figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS / "trust_factors.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = QUICK if arguments.quick else Plan()
    with threadpool_limits(1):
        scores = measure(plan)
        found = {f"{share:g}": summary(each) for share, each in scores.items()}
    setting = {"size_px": plan.size_px, "train_cases": plan.train_cases}
    setting |= {"test_cases": plan.test_cases, "seeds": len(plan.seeds)}
    setting |= {"steps": plan.steps, "width": plan.width}
    arguments.out.write_text(json.dumps({"setting": setting, "factors": found}, indent=1) + "\n")
    draw_figure(found, arguments.out.with_suffix(".svg"))
    for share, line in found.items():
        print(share, {name: each["value"] for name, each in line.items() if "over" not in name})


if __name__ == "__main__":
    main()
