"""Tables at equal ε, beside peers: Adult and Diabetes-130, one record a patient, pooled.

    .venv/bin/python -m benchmarks.tabular_peers

Every method gets the same rows as codes of the same public dictionary, the same (ε, δ) under add or
remove one row, and is asked for as many rows as it was given. Codes become values by the same
smooth curve through the bins' shares; the product also measures sub-bins, and pays for them within
ε. Peers run in environments of their own, in ``build/peers``; their recipes are in
``peers/requirements-*.txt``. A peer without one is left out, and the run says so.

* ``pratique``: the product's default generator, its noise, its choice of rows.
* ``masked-network``: the product's generator trained by DP-SGD, 60 steps (300 above ε = 3).
* ``independent``, ``copula``, ``tree``, ``vae``, ``diffusion``, ``gan``, ``wgan``: the product's
  baselines, on request (``--methods``).
* ``aim``, ``mst``: McKenna et al. 2022 and 2021, their authors' scripts on private-pgm. AIM has 100
  rounds and a model of 4 MB: its default of 80 MB takes many hours.
* ``mostlyai``: mostlyai-engine 2.7 on the values, 8 minutes a fit.
* ``adult-500`` and other sizes: so many of Adult's training rows, on request (``--tables``), with
  distances to all of them.
* No privacy: ``bins``: real training rows through the dictionary's bins; ``real``: distances of
  the test rows, and a model that learnt from the training rows.

TV: mean total variation distance to the training rows on 20 quantile bins that no method sees, over
all 1-way, all 2-way and 150 3-way marginals. TSTR: AUC of gradient boosting on the test rows.

Results are kept after each run and finished runs are skipped; delete the file to measure anew.
"""

import argparse
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from sklearn.metrics import roc_auc_score

from benchmarks.tabular_data import PARTS, TABLES, Data
from benchmarks.tabular_methods import OURS, PEERS, Setting, as_table, run_ours, run_peer
from pratique_common.encoding import TableEncoder
from pratique_common.tables import Table
from pratique_common.threads import use_one_thread
from pratique_common.utility import OutcomeModel, grid_codes, mean_tv

IntArray = NDArray[np.int64]

HERE = Path(__file__).resolve().parent
REFERENCES = ("bins", "real")
COLOURS = {
    "pratique": "#1f6f8b",
    "masked-network": "#7fb2c4",
    "aim": "#d08c3f",
    "mst": "#8a8a8a",
    "mostlyai": "#b0524f",
}
METRICS = ("tv1", "tv2", "tv3", "tstr_auc")


def score(data: Data, table: Table, *, learn_from: Table) -> dict[str, float]:
    """Return distances of a table, and the AUC of a model that learnt from another or the same."""
    real, synthetic = grid_codes(data.reference.columns, [table.columns], data.schema)
    weights = {"real_weight": np.ones(len(real)), "synthetic_weight": np.ones(len(synthetic))}
    found = {
        f"tv{order}": mean_tv(real, synthetic, order, most_marginals=most, **weights)
        for order, most in ((1, None), (2, None), (3, 150))
    }
    label, risk = OutcomeModel.fit(data.schema, learn_from.columns).auc_inputs(data.test.columns)
    return {**found, "tstr_auc": float(roc_auc_score(label, risk))}


def measure(setting: Setting, data: Data, peers: Path) -> dict[str, Any]:
    """Do one run."""
    codes = TableEncoder(data.schema).encode(data.train.columns)
    report = {"fit_s": 0.0}
    if setting.method == "real":
        table = data.test if data.reference is data.train else data.train
    elif setting.method == "bins":
        table = as_table(data.schema, codes, setting.seed)
    elif setting.method in OURS:
        table, report = run_ours(setting, data)
    else:
        table, report = run_peer(setting, data, codes, peers)
    learn_from = data.train if setting.method == "real" else table
    found = score(data, table, learn_from=learn_from)
    return {**asdict(setting), **found, **report}


def plan_runs(args: argparse.Namespace) -> list[Setting]:
    """Return all runs, those that tell most first."""
    references = [Setting(t, m, 0.0, 0) for t, m in product(args.tables, REFERENCES)]
    return references + [
        Setting(table, method, epsilon, seed)
        for table, epsilon, seed, method in product(
            args.tables, args.epsilons, args.seeds, args.methods
        )
    ]


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, least and largest over seeds of each kind of run."""
    rows = []
    for kind, same in pd.DataFrame(runs).groupby(["table", "epsilon", "method"]):
        row: dict[str, Any] = dict(zip(("table", "epsilon", "method"), kind, strict=True))
        row["num_seeds"] = len(same)
        for name in (*METRICS, "fit_s"):
            row[name] = {how: float(same[name].agg(how)) for how in ("mean", "min", "max")}
        rows.append(row)
    return sorted(rows, key=lambda r: (r["table"], r["epsilon"], r["tv2"]["mean"]))


def show(summary: list[dict[str, Any]], console: Console) -> None:
    """Print the summary as a table."""
    table = RichTable("table", "ε", "method", "seeds", *METRICS, "fit s")
    for row in summary:
        spread = ["{mean:.4f}\n{min:.4f}-{max:.4f}".format(**row[name]) for name in METRICS]
        epsilon = f"{row['epsilon']:g}" if row["epsilon"] else "none"
        seconds = f"{row['fit_s']['mean']:.0f}"
        table.add_row(row["table"], epsilon, row["method"], str(row["num_seeds"]), *spread, seconds)
    console.print(table)


def draw(summary: list[dict[str, Any]], path: Path) -> None:
    """Draw two-way distance and AUC over ε, one row of panels a table."""
    tables = sorted({row["table"] for row in summary})
    figure = Figure(figsize=(9, 3.6 * len(tables)), layout="constrained")
    axes = figure.subplots(len(tables), 2, squeeze=False)
    panels = (("tv2", "mean 2-way TV distance"), ("tstr_auc", "TSTR AUC"))
    for line, table in enumerate(tables):
        for place, (metric, title) in enumerate(panels):
            ax = axes[line][place]
            for method, colour in COLOURS.items():
                found = [r for r in summary if r["table"] == table and r["method"] == method]
                if found:
                    mean, low, high = (
                        np.array([r[metric][how] for r in found]) for how in ("mean", "min", "max")
                    )
                    x = [r["epsilon"] for r in found]
                    error = [mean - low, high - mean]
                    ax.errorbar(x, mean, error, color=colour, marker="o", capsize=3, label=method)
            for method, style in zip(REFERENCES, (":", "--"), strict=True):
                for row in summary:
                    if row["table"] == table and row["method"] == method:
                        ax.axhline(row[metric]["mean"], color="black", ls=style, lw=1, label=method)
            ax.set_xscale("log")
            if metric == "tv2":
                ax.set_yscale("log")  # peers differ by a factor of ten
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter("{x:g}")
            ax.set_xticks([1, 3, 10], ["1", "3", "10"])
            ax.set(xlabel="ε", ylabel=title, title=table)
            ax.spines[["top", "right"]].set_visible(False)
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncol=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tabular_peers.json")
    parser.add_argument("--peers", type=Path, default=HERE.parent / "build" / "peers")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=[*TABLES, *PARTS])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["pratique", "masked-network", *PEERS],
        choices=[*OURS, *PEERS],
    )
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="Adult at ε = 1, one seed")
    args = parser.parse_args()
    if args.quick:
        args.tables, args.epsilons, args.seeds = ["adult"], [1.0], [0]
    return args


def main() -> None:
    """Do all runs that are not in the results yet, then print and draw the summary."""
    args, console = parse_args(), Console(width=140)
    use_one_thread()
    for method in [m for m in args.methods if m in PEERS]:
        recipe = HERE / "peers" / f"requirements-{PEERS[method]}.txt"
        if not (args.peers / PEERS[method] / "bin" / "python").exists():
            console.print(f"{method} is left out: it has no environment, see {recipe}")
            args.methods.remove(method)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    if args.out.exists():
        runs = json.loads(args.out.read_text("utf-8"))["runs"]
    finished = {Setting(*(run[name] for name in Setting.__dataclass_fields__)) for run in runs}
    data = {table: {**TABLES, **PARTS}[table]() for table in args.tables}
    wanted = plan_runs(args)
    for number, setting in enumerate(wanted, start=1):
        if setting in finished:
            continue
        runs.append(measure(setting, data[setting.table], args.peers))
        console.print(f"{number}/{len(wanted)} {runs[-1]}", soft_wrap=True)
        partial = args.out.with_suffix(".part")
        summary = summarise(runs)
        partial.write_text(json.dumps({"runs": runs, "summary": summary}, indent=1) + "\n", "utf-8")
        partial.replace(args.out)  # all or nothing
    summary = summarise(runs)
    show(summary, console)
    draw(summary, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
