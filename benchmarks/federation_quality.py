"""What a federation costs in quality: Adult at 4 and 10 sites that differ, at one claimed ε.

    python benchmarks/federation_quality.py --data FOLDER

Three modes share everything but the noise of a sum:

* ``pooled``: one site holds all rows and adds the noise once;
* ``secure_sum``: each of n sites adds a discrete Gaussian share and only the sum is read. One site
  may collude (the default), so the noise has n / (n - 1) times the pooled variance;
* ``local``: each site's sum is read by itself and carries the full noise, so n times the variance.

The parts are the product's own (study, plan, fixed point, clipping, optimizer, sampling), without
Flower and without masks: masks cancel exactly in the ring, so the coordinator reads the same
words. All rows are members: no hold-out is split off, nothing is audited, nobody drops out.

Sites: training rows sorted by standardised age plus years of education plus a little noise, cut
into equal parts (a fixed seed). Sums are added before the optimizer sees them, so how rows are
spread could only matter where a bound of ``FixedPoint`` cuts a site's sum.

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from sklearn.metrics import roc_auc_score

from pratique_client.histograms import exact_histograms
from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_common.generators.base import part_of
from pratique_common.generators.build import build_generator
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec, load_study, load_toml, parse_study
from pratique_common.tables import Table, check_table
from pratique_common.utility import OutcomeModel, grid_codes, mean_tv
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.patient_sums import patient_sum, sampled_sum
from pratique_privacy.post_processing.derivation import Derivation

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

HERE = Path(__file__).resolve().parent
STUDY_FILE, DATA_FILE = HERE / "adult.toml", "adult_clean.csv.gz"
RATIOS = ("tv2_test", "tv2_train")
METRICS = ("tv1_test", "tv1_train", *RATIOS, "tstr_auc")
COLOURS = {"pooled": "#8a8a8a", "secure_sum": "#1f6f8b", "local": "#d08c3f"}
MODES = tuple(COLOURS)
KIND = ("epsilon", "num_sites", "mode")


@dataclass(frozen=True)
class Setting:
    """One run; ``pooled`` is one site, whatever it is compared with."""

    epsilon: float
    mode: str
    num_sites: int
    seed: int
    rounds: int

    def study(self) -> StudySpec:
        """Return the study of this run, checked like any study file."""
        data = load_toml(STUDY_FILE)
        data["name"] = f"adult-seed-{self.seed}"
        data["training"] = {"rounds": self.rounds}
        data["privacy"]["target_epsilon"] = self.epsilon
        data["privacy"]["noise"] = "secure_sum" if self.mode == "secure_sum" else "local"
        return parse_study(data, source=STUDY_FILE)


@dataclass(frozen=True)
class Real:
    """The official split of Adult, in the study's domains."""

    train: Table
    test: Table

    @staticmethod
    def load(folder: Path, schema: TableSchema) -> "Real":
        """Read both parts; rows of a part are patients of their own."""
        frame = pd.read_csv(folder / DATA_FILE, dtype=str, keep_default_na=False)
        parts = (frame.loc[frame["split"] == p, list(schema.names)] for p in ("train", "test"))
        arrow = map(pa.Table.from_pandas, parts)
        return Real(*(check_table(a, schema, source=DATA_FILE, patient_id=None) for a in arrow))

    def sites(self, num_sites: int) -> list[Table]:
        """Return training rows by site: young and little schooled rows come first."""
        rng = np.random.default_rng(1)
        score = rng.normal(0, 0.5, self.train.num_rows)
        for name in ("age", "education-num"):
            values = self.train.columns[name].astype(float)
            score += (values - values.mean()) / values.std()
        parts = np.array_split(np.argsort(score), num_sites)
        return [
            Table({n: v[rows] for n, v in self.train.columns.items()}, self.train.patients[rows], 0)
            for rows in parts
        ]


def plan_runs(args: argparse.Namespace) -> list[Setting]:
    """Return all runs, those that tell most first."""
    runs = (
        Setting(epsilon, mode, 1 if mode == "pooled" else num_sites, seed, args.rounds)
        for num_sites, epsilon, seed, mode in product(args.sites, args.epsilons, args.seeds, MODES)
    )
    return list(dict.fromkeys(runs))  # pooled once for all numbers of sites


def read_sum(form: FixedPoint, noise: str, totals: list[Float64Array]) -> Float64Array:
    """Return what the coordinator learns of the sites' exact totals."""
    no_canaries = np.zeros(sum(section.reserved for section in form.sections))
    protected = [form.protect(form.join(total, no_canaries)) for total in totals]
    if noise == "local":
        return sum((form.read(words) for words in protected), np.zeros(form.size))
    return form.read(np.sum(protected, axis=0, dtype=form.word))  # modulo 2ᵏ


def train(
    study: StudySpec, sites: Sequence[Table], *, silent: bool = False
) -> tuple[Derivation, float]:
    """Train on the sites' rows; return what follows from the sums and a step's noise deviation.

    All sites get the same state, so one generator stands for all.

    Args:
        study: the study.
        sites: their rows.
        silent: sums of rounds hold nothing but their noise, as a control.
    """
    plan, noise = PrivacyPlan(study), study.privacy.noise
    derivation, step_noise = Derivation(study, len(sites)), 0.0
    groups = [Group(table.columns, table.patients) for table in sites]
    patients = [encode_patients(study, group) for group in groups]
    exact = [exact_histograms(study, *p, g) for p, g in zip(patients, groups, strict=True)]
    derivation.add_histograms(read_sum(derivation.histogram_form, noise, exact), len(sites))
    at_site = build_generator(study)
    rounds = range(1, study.training.rounds + 1)
    for number in rounds:
        part = part_of(at_site, number)
        part.load_state(derivation.part.state())
        add_up = patient_sum(part, study.training.max_grad_norm)
        totals = [
            sampled_sum(add_up, codes_PKD, weight_PK, sample_rate=plan.step.sample_rate)
            * (not silent)
            for codes_PKD, weight_PK in patients
        ]
        total = read_sum(derivation.step_form, noise, totals)
        _, step_noise = derivation.add_round(total, len(sites))
    derivation.fit()
    return derivation, step_noise


def score(schema: TableSchema, real: Real, table: Table) -> dict[str, float]:
    """Return ``METRICS`` of a table."""
    train_codes, test_codes, codes = grid_codes(
        real.train.columns, [real.test.columns, table.columns], schema
    )

    def distance(rows: IntArray, order: int) -> float:
        weights = {"real_weight": np.ones(len(rows)), "synthetic_weight": np.ones(len(codes))}
        return mean_tv(rows, codes, order, **weights)

    found = {
        f"tv{order}_{name}": distance(rows, order)
        for name, rows in (("test", test_codes), ("train", train_codes))
        for order in (1, 2)
    }
    label, risk = OutcomeModel.fit(schema, table.columns).auc_inputs(real.test.columns)
    return {**found, "tstr_auc": float(roc_auc_score(label, risk))}


def measure(setting: Setting, real: Real) -> dict[str, Any]:
    """Do one run."""
    study, start = setting.study(), time.monotonic()
    derivation, step_noise = train(study, real.sites(setting.num_sites))
    train_s = round(time.monotonic() - start, 1)
    candidate, _ = derivation.sample()
    table = check_table(candidate, study.data, source="candidate", patient_id=None)
    return {
        **asdict(setting),
        **score(study.data, real, table),
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
        pooled = done[(done["epsilon"] == row["epsilon"]) & (done["mode"] == "pooled")]
        for name in METRICS:
            row[name] = {how: float(same[name].agg(how)) for how in ("mean", "min", "max")}
            if name in RATIOS:
                row[f"{name}_ratio"] = row[name]["mean"] / float(pooled[name].mean())
        rows.append(row)
    return sorted(rows, key=lambda r: (r["epsilon"], r["num_sites"], MODES.index(r["mode"])))


def setting_of(run: dict[str, Any]) -> Setting:
    """Return which run a result is of."""
    return Setting(*(run[name] for name in Setting.__dataclass_fields__))


def show(summary: list[dict[str, Any]], real: dict[str, float], console: Console) -> None:
    """Print the summary as a table."""
    table = RichTable("ε", "sites", "mode", *METRICS, *(f"{name} ÷ pooled" for name in RATIOS))
    for row in summary:
        spread = ["{mean:.4f}\n{min:.4f}-{max:.4f}".format(**row[name]) for name in METRICS]
        ratios = (f"{row[f'{name}_ratio']:.3f}" for name in RATIOS)
        table.add_row(f"{row['epsilon']:g}", str(row["num_sites"]), row["mode"], *spread, *ratios)
    table.add_row("", "", "real", *(f"{real[name]:.4f}" for name in METRICS))
    console.print(table)


def draw(summary: list[dict[str, Any]], real: dict[str, float], path: Path) -> None:
    """Draw mean 2-way distances to the test rows; whiskers are the range over seeds."""
    axes = (figure := Figure(figsize=(7.5, 4), layout="constrained")).subplots()
    found = {(r["epsilon"], r["num_sites"], r["mode"]): r["tv2_test"] for r in summary}
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
    axes.axhline(real["tv2_test"], color="black", ls=":", lw=1, label="real training rows")
    axes.set_xticks(range(len(groups)), [f"ε = {e:g}\n{n} sites" for e, n in groups])
    axes.set_ylabel("mean 2-way TV distance to real test rows")
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "adult")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "federation_quality.json")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, help="instead of the study's, to try the script")
    return parser.parse_args()


def main() -> None:
    """Do all runs that are not in the results yet, then print and draw the summary."""
    args, console = parse_args(), Console(width=140)
    torch.set_num_threads(1)
    base = load_study(STUDY_FILE)
    if min(args.sites) < base.privacy.least_sites:
        raise SystemExit(f"a secure sum needs {base.privacy.least_sites} sites")
    args.rounds = base.training.rounds if args.rounds is None else args.rounds
    real = Real.load(args.data, base.data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"real": score(base.data, real, real.train), "runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text("utf-8"))
    wanted = plan_runs(args)
    finished = {setting_of(run) for run in results["runs"]}
    for number, setting in enumerate(wanted, start=1):
        if setting not in finished:
            results["runs"].append(measure(setting, real))
            console.print(f"{number}/{len(wanted)} {results['runs'][-1]}", soft_wrap=True)
        results["summary"] = summarise(results["runs"], wanted)
        partial = args.out.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        partial.replace(args.out)  # all or nothing
    show(results["summary"], results["real"], console)
    draw(results["summary"], results["real"], args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
