"""What clipping per patient costs: time of a step, and memory over the size of a batch.

    nice python benchmarks/clipping.py

One process and thread; the generators on the columns of ``adult.toml`` with random codes, 1,024
patients a step. A plain step is the gradient of the summed loss, without any clipping. Beside it:
the product's clipped sum (one pass, book-keeping), Opacus' ghost clipping (two backward passes)
and Opacus' per-sample gradients. The four take turns; figures are medians of ratios to the plain
step beside them, with their range; times are the processor's. Memory is the peak of a process of
its own a batch.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from rich.console import Console
from rich.table import Table

from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import trainable
from pratique_common.study import load_study
from pratique_privacy.dp_sgd import clipped_sum
from pratique_privacy.patient_sums import patient_sum

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "clipping.json"
GENERATORS = ("autoregressive", "vae", "diffusion", "adversarial")
ROWS, BATCH, BOUND = (1, 4), 1_024, 1.0
BATCHES = (1_024, 8_192, 65_536)
Step = Callable[[], Any]


def make(name: str) -> GradientGenerator:
    """Return a generator for the columns of Adult."""
    study = load_study(HERE / "adult.toml")
    generator = study.generator.model_copy(update={"name": name})
    training = study.training.model_copy(update={"rounds": 1})
    built = build_generator(study.model_copy(update={"generator": generator, "training": training}))
    assert isinstance(built, GradientGenerator)
    return built


def batch_of(num_patients: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random codes (B, K, D) and weights (B, K)."""
    rng = torch.Generator().manual_seed(0)
    shape = (num_patients, num_rows)
    levels = [column.num_levels for column in load_study(HERE / "adult.toml").data.columns]
    codes = torch.stack([torch.randint(0, n, shape, generator=rng) for n in levels], dim=-1)
    return codes, torch.full(shape, 1 / num_rows)


def steps_of(name: str, num_rows: int) -> dict[str, Step]:
    """Return one step by each way, on modules of their own."""
    codes, weight = batch_of(BATCH, num_rows)
    plain, ours = make(name), make(name)

    def plain_step() -> Any:
        return torch.autograd.grad(plain.loss(codes, weight).sum(), trainable(plain.module))

    def opacus_step(ghost: bool) -> Step:
        generator = make(name)
        hooked = GradSampleModuleFastGradientClipping(
            generator.module, loss_reduction="sum", max_grad_norm=BOUND, use_ghost_clipping=ghost
        )

        def step() -> None:
            hooked.enable_hooks()
            hooked.zero_grad(set_to_none=True)
            loss_B = generator.loss(codes, weight)
            loss_B.sum().backward(retain_graph=True)
            scale_B = hooked.get_clipping_coef().detach()
            hooked.zero_grad(set_to_none=True)
            hooked.disable_hooks()
            (scale_B * loss_B).sum().backward()

        return step

    return {
        "plain": plain_step,
        "product": lambda: clipped_sum(ours, BOUND, codes, weight),
        "opacus ghost": opacus_step(True),
        "opacus per-sample": opacus_step(False),
    }


def measure_time(name: str, num_rows: int, repetitions: int) -> list[dict[str, Any]]:
    """Return a line a way: seconds, and its ratio to the plain step of the same turn."""
    steps = steps_of(name, num_rows)
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for turn in range(repetitions + 2):
        for way, step in steps.items():
            start = time.process_time()
            step()
            if turn >= 2:  # the first are warm-up
                taken[way].append(time.process_time() - start)
    lines = []
    for way, seconds in taken.items():
        ratios = np.array(seconds) / np.array(taken["plain"])
        low, high = np.quantile(ratios, [0.1, 0.9])
        lines.append(
            {"generator": name, "rows": num_rows, "way": way, "milliseconds": 1e3 * median(seconds),
             "ratio": float(np.median(ratios)), "ratio_p10": float(low), "ratio_p90": float(high)}
        )  # fmt: skip
    return lines


def measure_memory(batch: int) -> dict[str, float]:
    """Return the peak of a process that adds up one batch, in megabytes."""
    code = f"import benchmarks.clipping as c; c.print_memory({batch})"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parent, check=True, capture_output=True, text=True
    )
    return {"batch": batch, "megabytes": float(found.stdout)}


def print_memory(batch: int) -> None:
    """Print this process's peak, in megabytes: all codes of the batch are in it."""
    generator = make("autoregressive")
    codes, weight = batch_of(batch, 1)
    patient_sum(generator, BOUND)(codes, weight)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot ratios, a panel for each number of rows a patient."""
    mpl.rcParams["svg.hashsalt"] = "pratique"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(ROWS), sharey=True)
    for axis, rows in zip(axes, ROWS, strict=True):
        for place, way in enumerate(("product", "opacus ghost", "opacus per-sample")):
            lines = [x for x in results["time"] if x["rows"] == rows and x["way"] == way]
            x = np.arange(len(lines)) + 0.27 * (place - 1)
            axis.bar(x, [line["ratio"] for line in lines], 0.25, label=way)
        axis.axhline(1.3, color="#666666", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(GENERATORS)), GENERATORS)
        axis.set_title(f"{rows} row{'s' * (rows > 1)} a patient", fontsize=10)
    axes[0].set_ylabel("time ÷ that of a plain step")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    time_lines = [
        line
        for name in GENERATORS
        for rows in ROWS
        for line in measure_time(name, rows, args.repetitions)
    ]
    results = {
        "batch": BATCH,
        "torch": torch.__version__,
        "time": time_lines,
        "memory": [measure_memory(batch) for batch in BATCHES],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, args.out.with_suffix(".svg"))
    table = Table("generator", "rows", "way", "ms", "ratio (10-90 %)")
    for line in time_lines:
        span = f"{line['ratio']:.2f} ({line['ratio_p10']:.2f}-{line['ratio_p90']:.2f})"
        table.add_row(
            line["generator"], str(line["rows"]), line["way"], f"{line['milliseconds']:.1f}", span
        )
    console = Console()
    console.print(table)
    for each in results["memory"]:
        console.print(f"{each['batch']:>7,} patients: {each['megabytes']:.0f} MB")


if __name__ == "__main__":
    main()
