"""How good are images at equal ε? Generators beside the prior, which knows no patient.

    OMP_NUM_THREADS=1 python -m benchmarks.image_methods [--data t1ce|flair|pair|contrasts|chest]

* ``t1``, ``t1ce``, ``t2``, ``flair``, ``pair`` (of T1ce and FLAIR), ``contrasts`` (all four):
  phantoms of a stand-in hospital (SHIFTED), an image a patient; 3,800 are learnt from and 1,500
  tested on. Generators start from RANDOMISED phantoms, which do not follow that hospital.
* ``chest``: real films. PneumoniaMNIST as three hospitals and, as a fourth unlike them, Hannover's;
  tested on PneumoniaMNIST's test set. Generators start from phantoms of chest x-rays.

Some lines learn nothing of images: the prior's own phantoms, and ``votes-of-noise``,
``moments-of-noise`` and ``gradients-of-noise``, where sums hold nothing but noise. Real images in
their place are the ceiling.

Every line: 600 images. TSTR: balanced accuracy and macro AUC of networks that learn from them, on
real test images, mean of three networks. FD, precision and recall as in ``pratique evaluate``, in
features of the public encoder and, FD, of a network that learnt from the real images.

Finished runs are kept and skipped; delete the file to measure anew.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table as RichTable
from threadpoolctl import threadpool_limits

from benchmarks.arithmetic import train
from benchmarks.image_data import DATA, Data, joined
from pratique_common.images.features import FeatureEncoder
from pratique_common.images.spec import IMAGE
from pratique_common.study import StudySpec, parse_study
from pratique_common.tables import Table, check_table
from pratique_server.evaluation.images.frechet import Moments, frechet_distance
from pratique_server.evaluation.images.image_learner import ImageClassifier, Training
from pratique_server.evaluation.images.image_scores import MacroAuc, balanced_accuracy
from pratique_server.evaluation.images.precision_recall import reaches

RESULTS = Path(__file__).parent / "results" / "image_methods.json"
NUM_ROWS = 600
METRICS = (
    *("tstr_balanced_accuracy", "tstr_auc", "class_consistency"),
    *("fd_phantom", "fd_site", "precision", "recall"),
)
KIND = ["data", "epsilon", "method"]
EPSILONS, SEEDS = (1.0, 3.0, 10.0), (0, 1, 2)
_ACROSS, _SHEET_PX = 16, 1_024
_HOLDOUT_FACTOR = 1.25  # a study plans for members and hold-out; here all rows are members

SILENT = {"votes-of-noise", "moments-of-noise", "gradients-of-noise"}
GENERATORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sim_pe": ({"name": "sim_pe"}, {"rounds": 5}),
    "votes-of-noise": ({"name": "sim_pe"}, {"rounds": 5}),
    "sim_moments": ({"name": "sim_moments"}, {"rounds": 2}),
    "moments-of-noise": ({"name": "sim_moments"}, {"rounds": 2}),
    "chain": ({"name": "image_chain"}, {"rounds": 3}),
    "votes-and-gradients": (
        {"name": "image_chain", "first": "sim_pe", "vote_rounds": 4, "network": {}},
        {"rounds": 10},
    ),
    "diffusion": ({"name": "image_diffusion"}, {"rounds": 10}),
    "gradients-of-noise": ({"name": "image_diffusion"}, {"rounds": 10}),
    "scratch": (
        {"name": "image_diffusion", "pretrain_steps": 0, "trained": "all"},
        {"rounds": 60, "sample_rate": 0.3, "learning_rate": 4e-3},
    ),
    "vae": ({"name": "image_vae"}, {"rounds": 10}),
    **{
        name: ({"name": "image_gan", "variant": name}, {"rounds": 300, "sample_rate": 0.1})
        for name in ("dcgan", "conditional", "wasserstein", "r3")
    },
}
"""Method → generator and training of the study."""
WITHOUT_EPSILON = ("real", "prior")
COLOURS = {
    "sim_pe": "#1f6f8b",
    "votes-of-noise": "#8a8a8a",
    "sim_moments": "#2e7d32",
    "moments-of-noise": "#b8b8b8",
    "chain": "#6a4c93",
    "diffusion": "#d08c3f",
    "scratch": "#b0413e",
}


@dataclass(frozen=True)
class Setting:
    """One run; ε is 0 where no patient is looked at."""

    data: str
    method: str
    epsilon: float
    seed: int


def study_of(setting: Setting, data: Data) -> StudySpec:
    """Return the study of a run, checked like any study file."""
    generator, training = GENERATORS[setting.method]
    study = {
        "name": f"images-seed-{setting.seed}",
        "data": data.schema,
        "generator": generator,
        "training": training,
        "privacy": {
            "target_epsilon": setting.epsilon,
            "expected_patients": round(data.num_patients * _HOLDOUT_FACTOR),
            "noise": "local",
        },
        "release": {"rows": NUM_ROWS},
        "disclosure": {
            "purpose": "Benchmark",
            "recipients": ["Anyone"],
            "licence": "CC0-1.0",
            "expires": "2035-12-31",
        },
    }
    return parse_study(json.loads(json.dumps(study)), source=setting.method)


class Judge:
    """Measures sets of images against the stand-in hospital's."""

    def __init__(self, data: Data) -> None:
        self._data, self._training = data, Training()
        self._test = data.test.columns[IMAGE]
        self._label = data.labels(data.test)
        self._of_real = self._networks(joined(data.sites))
        self._encode = {
            "phantom": FeatureEncoder.of(data.schema["image"]["prior"]).features,
            "site": self._of_real[0].features,
        }
        self._seen = {kind: encode(self._test) for kind, encode in self._encode.items()}

    def measure(self, table: Table) -> dict[str, float]:
        """Return ``METRICS``."""
        pixels, label = table.columns[IMAGE], self._data.labels(table)
        chances = [network.probabilities(self._test) for network in self._networks(table)]
        alike = np.ones(len(self._label))
        found = {
            "tstr_balanced_accuracy": np.mean(
                [balanced_accuracy(self._label, chance, alike) for chance in chances]
            ),
            "tstr_auc": np.mean([MacroAuc(self._label, chance)(alike) for chance in chances]),
            "class_consistency": np.mean(
                [(net.probabilities(pixels).argmax(1) == label).mean() for net in self._of_real]
            ),
        }
        for kind, encode in self._encode.items():
            one, other = Moments.of(encode(pixels)), Moments.of(self._seen[kind])
            found[f"fd_{kind}"] = frechet_distance(one, other)
        some = self._seen["phantom"][: len(pixels)]
        near = reaches(some, self._encode["phantom"](pixels))
        found |= {"precision": near.precise.mean(), "recall": near.recalled.mean()}
        return {name: float(found[name]) for name in METRICS}

    def _networks(self, table: Table) -> list[ImageClassifier]:
        label = self._data.labels(table)
        fitted = (
            ImageClassifier.fit(
                table.columns[IMAGE],
                label,
                np.ones(len(label)),
                num_classes=len(self._data.levels),
                seed=seed,
                training=self._training,
            )
            for seed in self._training.seeds
        )
        return [network for network in fitted if network is not None]


def images_of(setting: Setting, data: Data) -> Table:
    """Return a run's 600 images."""
    if setting.method == "real":
        return data.real(NUM_ROWS, seed=setting.seed)
    if setting.method == "prior":
        return data.of_prior(NUM_ROWS, seed=setting.seed)
    study = study_of(setting, data)
    site = joined(data.sites)  # sums are added up anyway
    derivation, _ = train(study, [site], silent=setting.method in SILENT)
    candidate, _ = derivation.sample()
    return check_table(candidate, study.data, source="candidate", patient_id=None)


def plan_runs(args: argparse.Namespace) -> list[Setting]:
    """Return all runs: first those that need no ε."""
    without = [Setting(args.data, m, 0.0, s) for m in WITHOUT_EPSILON for s in args.seeds]
    return without + [
        Setting(args.data, method, epsilon, seed)
        for epsilon in args.epsilons
        for seed in args.seeds
        for method in args.methods
    ]


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, least and largest over seeds."""
    rows = []
    for kind, same in pd.DataFrame(runs).groupby(KIND):
        row: dict[str, Any] = dict(zip(KIND, kind, strict=True), num_seeds=len(same))
        for name in (*METRICS, "cpu_s"):
            row[name] = {how: float(same[name].agg(how)) for how in ("mean", "min", "max")}
        rows.append(row)
    return sorted(rows, key=lambda row: [row[name] for name in KIND])


def show(summary: list[dict[str, Any]], console: Console) -> None:
    """Print the summary as a table."""
    table = RichTable("ε", "method", *METRICS, "CPU-s")
    for row in summary:
        spread = ["{mean:.3f}\n{min:.3f}-{max:.3f}".format(**row[name]) for name in METRICS]
        table.add_row(f"{row['epsilon']:g}", row["method"], *spread, f"{row['cpu_s']['mean']:.0f}")
    console.print(table)


def draw(summary: list[dict[str, Any]], path: Path) -> None:
    """Draw utility and likeness over ε; whiskers are the range over seeds."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    of_kind = {row["method"]: row for row in summary if not row["epsilon"]}
    titles = {
        "tstr_balanced_accuracy": "TSTR, balanced accuracy",
        "fd_site": "FD (site), less is better",
    }
    for axes, (metric, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        shown = [method for method in COLOURS if any(r["method"] == method for r in summary)]
        for place, method in enumerate(shown):
            rows = [row for row in summary if row["method"] == method]
            mean, low, high = (
                np.array([row[metric][how] for row in rows]) for how in ("mean", "min", "max")
            )
            axes.errorbar(
                [row["epsilon"] * 1.04 ** (place - len(shown) / 2) for row in rows],  # side by side
                mean, yerr=[mean - low, high - mean],
                color=COLOURS[method], label=method, marker="o", capsize=3,
            )  # fmt: skip
        for method, style in (("real", ":"), ("prior", "--")):
            if method in of_kind:
                axes.axhline(
                    of_kind[method][metric]["mean"], color="black", ls=style, lw=1, label=method
                )
        axes.set_xscale("log")
        axes.set(xlabel="ε", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(ticks := sorted({r["epsilon"] for r in summary if r["epsilon"]}))
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{epsilon:g}" for epsilon in ticks])
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    figure.savefig(path, metadata={"Date": None})


def save_sheet(table: Table, data: Data, path: Path) -> None:
    """Write a PNG of images, a row for each level, channels one below the other."""
    pixels, label = table.columns[IMAGE], data.labels(table)
    rows = []
    for number in range(len(data.levels)):
        shown = pixels[label == number][:_ACROSS]
        shown = np.pad(shown, ((0, _ACROSS - len(shown)), *((0, 0),) * 3))
        rows += [np.concatenate(list(shown[..., c]), axis=1) for c in range(shown.shape[-1])]
    Image.fromarray(np.concatenate(rows)).resize(
        (_SHEET_PX, _SHEET_PX * len(rows) // _ACROSS), Image.Resampling.NEAREST
    ).save(path)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=DATA, default="t1ce")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--sheets", type=Path, help="folder for PNGs of each run's images")
    parser.add_argument("--epsilons", type=float, nargs="+", default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", default=list(GENERATORS), choices=GENERATORS)
    return parser.parse_args()


def main() -> None:
    """Do all runs that are not in the results yet, then print and draw the summary."""
    args, console = parse_args(), Console(width=140)
    torch.set_num_threads(1)
    data = DATA[args.data]()
    judge = Judge(data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text("utf-8"))
    finished = {Setting(*(r[f] for f in Setting.__dataclass_fields__)) for r in results["runs"]}
    wanted = plan_runs(args)
    for number, setting in enumerate(wanted, start=1):
        if setting in finished:
            continue
        start = time.process_time()
        with threadpool_limits(1):
            table = images_of(setting, data)
            cpu_s = round(time.process_time() - start, 1)
            run = {**asdict(setting), **judge.measure(table), "cpu_s": cpu_s}
        results["runs"].append(run)
        if args.sheets:
            name = f"{setting.data}_{setting.method}_{setting.epsilon:g}_{setting.seed}.png"
            args.sheets.mkdir(parents=True, exist_ok=True)
            save_sheet(table, data, args.sheets / name)
        console.print(f"{number}/{len(wanted)} {run}", soft_wrap=True)
        results["summary"] = summarise(results["runs"])
        partial = args.out.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        partial.replace(args.out)  # all or nothing
    summary = [row for row in results["summary"] if row["data"] == args.data]
    show(summary, console)
    draw(summary, args.out.with_name(f"{args.out.stem}_{args.data}.svg"))


if __name__ == "__main__":
    main()
