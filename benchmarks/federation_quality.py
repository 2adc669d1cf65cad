"""What a federation costs in quality: tables at 4 and 10 sites that differ, at one claimed ε.

    .venv/bin/python -m benchmarks.federation_quality

Three modes share everything but the noise of a sum:

* ``pooled``: one site holds all rows and adds the noise once;
* ``secure_sum``: each of n sites adds a discrete Gaussian share and only the sum is read. One site
  may collude (the default), so the noise has n / (n - 1) times the pooled variance;
* ``local``: each site's sum is read by itself and carries the full noise, so n times the variance.

The parts are the product's own (study, plan, fixed point, clipping, optimizer, sampling), see
``arithmetic``.

Sites: training rows sorted by two standardised columns plus a little noise, cut into equal parts (a
fixed seed). Sums are added before the optimizer sees them, so how rows are spread could only matter
where a bound of ``FixedPoint`` cuts a site's sum.

A seed names a repetition: the protecting noise and the Poisson coins come from the system's
entropy, as in the product, and cannot be fixed.

TV: ``utility.mean_tv`` on its grid of 20 quantile bins of the training table, to the real test rows
and to the real training rows. Even real training rows differ from the test rows by sampling error
(``real`` in the results), which brings ratios nearer to one. TSTR: AUC of gradient boosting that is
fitted to synthetic rows and applied to the real test rows.

Results are kept after each run and finished runs are skipped; delete the file to measure anew.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from sklearn.metrics import roc_auc_score

from benchmarks.arithmetic import train
from benchmarks.tabular_data import TABLES, Data
from pratique_common.study import StudySpec, parse_study
from pratique_common.tables import Table, check_table
from pratique_common.utility import OutcomeModel, grid_codes, mean_tv

IntArray = NDArray[np.int64]

HERE = Path(__file__).resolve().parent
SORTED_BY = {
    "adult": ("age", "education-num"),
    "diabetes130": ("num_lab_procedures", "num_medications"),
}
"""Table → columns by which sites differ."""
RATIOS = ("tv2_test", "tv2_train")
METRICS = ("tv1_test", "tv1_train", *RATIOS, "tstr_auc")
COLOURS = {"pooled": "#8a8a8a", "secure_sum": "#1f6f8b", "local": "#d08c3f"}
MODES = tuple(COLOURS)
KIND = ("table", "epsilon", "num_sites", "mode")


@dataclass(frozen=True)
class Setting:
    """One run; ``pooled`` is one site, whatever it is compared with."""

    table: str
    epsilon: float
    mode: str
    num_sites: int
    seed: int

    def study(self, data: Data) -> StudySpec:
        """Return the study of this run, checked like any study file."""
        rows = data.train.num_rows
        privacy = {
            "target_epsilon": self.epsilon,
            "target_delta": 1e-5,
            "expected_patients": round(rows * 1.25),  # a study plans for members and hold-out
            "noise": "secure_sum" if self.mode == "secure_sum" else "local",
        }
        return parse_study(
            {
                **data.study,
                "name": f"{self.table}-seed-{self.seed}",
                "privacy": privacy,
                "release": {"rows": rows},
            },
            source=self.table,
        )


def cut(table: Table, columns: tuple[str, str], num_sites: int) -> list[Table]:
    """Return rows by site: those with little in both columns come first."""
    rng = np.random.default_rng(1)
    score = rng.normal(0, 0.5, table.num_rows)
    for name in columns:
        values = table.columns[name].astype(float)
        score += (values - values.mean()) / values.std()
    parts = np.array_split(np.argsort(score), num_sites)
    return [
        Table({n: v[rows] for n, v in table.columns.items()}, table.patients[rows], 0)
        for rows in parts
    ]


def plan_runs(args: argparse.Namespace) -> list[Setting]:
    """Return all runs, those that tell most first."""
    order = product(args.tables, args.sites, args.epsilons, args.seeds, MODES)
    runs = (
        Setting(table, epsilon, mode, 1 if mode == "pooled" else num_sites, seed)
        for table, num_sites, epsilon, seed, mode in order
    )
    return list(dict.fromkeys(runs))  # pooled once for all numbers of sites


def score(data: Data, table: Table) -> dict[str, float]:
    """Return ``METRICS`` of a table."""
    train_codes, test_codes, codes = grid_codes(
        data.train.columns, [data.test.columns, table.columns], data.schema
    )

    def distance(rows: IntArray, order: int) -> float:
        weights = {"real_weight": np.ones(len(rows)), "synthetic_weight": np.ones(len(codes))}
        return mean_tv(rows, codes, order, **weights)

    found = {
        f"tv{order}_{name}": distance(rows, order)
        for name, rows in (("test", test_codes), ("train", train_codes))
        for order in (1, 2)
    }
    label, risk = OutcomeModel.fit(data.schema, table.columns).auc_inputs(data.test.columns)
    return {**found, "tstr_auc": float(roc_auc_score(label, risk))}


def measure(setting: Setting, data: Data) -> dict[str, Any]:
    """Do one run."""
    study, start = setting.study(data), time.monotonic()
    sites = cut(data.train, SORTED_BY[setting.table], setting.num_sites)
    derivation, step_noise = train(study, sites)
    train_s = round(time.monotonic() - start, 1)
    candidate, _ = derivation.sample()
    table = check_table(candidate, study.data, source="candidate", patient_id=None)
    return {
        **asdict(setting),
        **score(data, table),
        "step_noise": step_noise,
        "train_s": train_s,
        "whole_s": round(time.monotonic() - start, 1),
        "study": study.digest,
    }


def summarise(runs: list[dict[str, Any]], wanted: list[Setting]) -> list[dict[str, Any]]:
    """Return mean, least and largest over seeds of each kind of run, and ratios to pooled."""
    done = pd.DataFrame([run for run in runs if setting_of(run) in set(wanted)])
    rows: list[dict[str, Any]] = []
    for kind, same in done.groupby(list(KIND)):
        row: dict[str, Any] = dict(zip(KIND, kind, strict=True), num_seeds=len(same))
        same_study = (done["table"] == row["table"]) & (done["epsilon"] == row["epsilon"])
        pooled = done[same_study & (done["mode"] == "pooled")]
        for name in METRICS:
            row[name] = {how: float(same[name].agg(how)) for how in ("mean", "min", "max")}
            if name in RATIOS:
                row[f"{name}_ratio"] = row[name]["mean"] / float(pooled[name].mean())
        rows.append(row)
    return sorted(rows, key=_in_order)


def _in_order(row: dict[str, Any]) -> tuple[str, float, int, int]:
    return row["table"], row["epsilon"], row["num_sites"], MODES.index(row["mode"])


def setting_of(run: dict[str, Any]) -> Setting:
    """Return which run a result is of."""
    return Setting(*(run[name] for name in Setting.__dataclass_fields__))


def show(summary: list[dict[str, Any]], real: dict[str, Any], console: Console) -> None:
    """Print the summary as a table."""
    ratios = [f"{name} ÷ pooled" for name in RATIOS]
    shown = RichTable("table", "ε", "sites", "mode", *METRICS, *ratios)
    for row in summary:
        spread = ["{mean:.4f}\n{min:.4f}-{max:.4f}".format(**row[name]) for name in METRICS]
        kind = (row["table"], f"{row['epsilon']:g}", str(row["num_sites"]), row["mode"])
        shown.add_row(*kind, *spread, *(f"{row[f'{name}_ratio']:.3f}" for name in RATIOS))
    for table, found in real.items():
        shown.add_row(table, "", "", "real", *(f"{found[name]:.4f}" for name in METRICS))
    console.print(shown)


def draw(summary: list[dict[str, Any]], real: dict[str, Any], path: Path) -> None:
    """Draw mean 2-way distances to the test rows; whiskers are the range over seeds."""
    figure = Figure(figsize=(7.5, 3.6 * len(real)), layout="constrained")
    panels = figure.subplots(len(real), squeeze=False)[:, 0]
    for axes, (table, of_table) in zip(panels, real.items(), strict=True):
        found = {
            (r["epsilon"], r["num_sites"], r["mode"]): r["tv2_test"]
            for r in summary
            if r["table"] == table
        }
        groups = sorted({(epsilon, sites) for epsilon, sites, mode in found if mode == "local"})
        for place, mode in enumerate(MODES):
            spread = [found[epsilon, 1 if mode == "pooled" else n, mode] for epsilon, n in groups]
            mean, low, high = (np.array([s[how] for s in spread]) for how in ("mean", "min", "max"))
            axes.bar(
                np.arange(len(groups)) + 0.27 * (place - 1),
                mean,
                width=0.25,
                yerr=[mean - low, high - mean],
                capsize=3,
                color=COLOURS[mode],
                label=mode.replace("_", " "),
            )
        axes.axhline(of_table["tv2_test"], color="black", ls=":", lw=1, label="real training rows")
        axes.set_xticks(range(len(groups)), [f"ε = {e:g}\n{n} sites" for e, n in groups])
        axes.set_ylabel("mean 2-way TV distance\nto real test rows")
        axes.set_title(table, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, ncols=2)
    figure.savefig(path, metadata={"Date": None})


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "federation_quality.json")
    parser.add_argument("--tables", nargs="+", default=list(SORTED_BY), choices=list(SORTED_BY))
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def main() -> None:
    """Do all runs that are not in the results yet, then print and draw the summary."""
    args, console = parse_args(), Console(width=150)
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"real": {}, "runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text("utf-8"))
    wanted = plan_runs(args)
    finished = {setting_of(run) for run in results["runs"]}
    loaded: dict[str, Data] = {}
    for number, setting in enumerate(wanted, start=1):
        if setting not in finished:
            if setting.table not in loaded:
                loaded[setting.table] = data = TABLES[setting.table]()
                results["real"][setting.table] = score(data, data.train)
            results["runs"].append(measure(setting, loaded[setting.table]))
            console.print(f"{number}/{len(wanted)} {results['runs'][-1]}", soft_wrap=True)
        results["summary"] = summarise(results["runs"], wanted)
        partial = args.out.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        partial.replace(args.out)  # all or nothing
    show(results["summary"], results["real"], console)
    draw(results["summary"], results["real"], args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
