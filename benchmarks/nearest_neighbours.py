"""What exact nearest neighbours of mixed rows cost, beside peers, on one core.

    nice python -m benchmarks.nearest_neighbours

24 columns (8 numbers, 16 of levels) of the encounters of Diabetes-130; missing is a level. Each
search runs in a process of its own that is held to one core and one thread, peers in environments
of their own (``build/peers``, recipes in ``peers/requirements-*.txt``); a peer without one is left
out, and the run says so. CPU seconds are those of the system and the user during the search; memory
is how far the process grew above what it held before. Ours are given with and without encoding,
after a first call that compiles, at 20,000 × 20,000 before and after the peers. A peer that needs
hours or all memory for so many runs on fewer rows; its seconds are multiplied by the square of what
is missing, and marked.

Ours returns the two least distances, the nearest row and whether one row is nearest on both halves
of the columns. What a peer computes instead is in its worker; of those with Gower's distance, on
ranges instead of ranks, 200 nearest distances are compared with plain NumPy.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable
from tests.studies import diabetes130

from benchmarks.peers.nearest_worker import measured
from benchmarks.tabular_data import SHARED
from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.study import load_toml, parse_study
from pratique_common.tables import check_table
from pratique_privacy.neighbours import MixedEncoder

HERE = Path(__file__).resolve().parent
LEFT_OUT = ("glipizide", "glyburide", "pioglitazone")
COMMON_SIZE = 20_000
PEERS = {
    "sdmetrics": ("sdmetrics", 2_000),
    "anonymeter": ("anonymeter", COMMON_SIZE),
    "syntheval": ("syntheval", 8_000),
    "mostlyai-qa": ("mostlyai-qa", COMMON_SIZE),
    "mostlyai-qa, one-hot": ("mostlyai-qa", COMMON_SIZE),
}
"""Peer → folder of its environment, and how many queries and rows it is given."""
SIZES = ((20_000, 20_000), (50_000, 50_000), (100_000, 100_000))
"""Queries and rows of ours alone; the last are a tenth of 1,000,000 queries."""
NUM_CHECKED = 200


def load_rows() -> tuple[TableSchema, pd.DataFrame]:
    """Return the schema and all encounters in random order; missing levels are None."""
    source = Path(diabetes130.__file__).with_name("diabetes-130.toml")
    study = load_toml(source)
    study["data"] |= {"max_rows_per_patient": 1, "rules": []}
    del study["data"]["patient_id"]
    study["data"]["columns"] = [c for c in study["data"]["columns"] if c["name"] not in LEFT_OUT]
    schema = parse_study(study, source=source).data
    frame = diabetes130.load(SHARED / "diabetes130").sample(frac=1, random_state=7)
    return schema, frame[list(schema.names)].reset_index(drop=True)


def split(frame: pd.DataFrame, num_queries: int, num_rows: int) -> tuple[pd.DataFrame, ...]:
    """Return queries and rows: others, or altered copies where there are not enough.

    A third of the cells of an altered copy is drawn anew from its column.
    """
    rows = frame.iloc[:num_rows]
    if num_queries + num_rows <= len(frame):
        return frame.iloc[num_rows : num_rows + num_queries], rows
    rng = np.random.default_rng(num_queries)
    start = rng.integers(0, len(frame), num_queries)
    cells = {
        name: np.where(
            rng.random(num_queries) < 1 / 3,
            values[rng.integers(0, len(frame), num_queries)],
            values[start],
        )
        for name, values in ((name, frame[name].to_numpy()) for name in frame)
    }
    return pd.DataFrame(cells).astype(frame.dtypes), rows


def print_ours(num_queries: int, num_rows: int) -> None:
    """Measure ours in this process; print JSON."""
    schema, frame = load_rows()
    parts = split(frame, num_queries, num_rows)
    query, rows = (
        check_table(pa.Table.from_pandas(p, preserve_index=False), schema, source="diabetes130",
                    patient_id=None).columns
        for p in parts
    )  # fmt: skip
    encoder = MixedEncoder(schema, rows)
    few = encoder.encode({name: values[:10] for name, values in rows.items()})
    encoder.nearest(few, few)  # compiles

    def encode() -> Any:
        fitted = MixedEncoder(schema, rows)
        return fitted, fitted.encode(query), fitted.encode(rows)

    (fitted, *encoded), encoding = measured(encode)
    found, search = measured(lambda: fitted.nearest(*encoded))
    report = {f"{name}_search": value for name, value in search.items()}
    report |= {f"{name}_encoding": value for name, value in encoding.items()}
    print(json.dumps({**report, "mean_distance": float(found.first.mean())}))


def held(command: list[str]) -> dict[str, Any]:
    """Return how to start a process that has one core and one thread."""
    threads = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
    environment = {**os.environ, **{f"{name}_NUM_THREADS": "1" for name in threads}}
    environment |= {"POLARS_MAX_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
    core = max(os.sched_getaffinity(0))
    return {
        "args": ["taskset", "--cpu-list", str(core), *command],
        "env": environment,
        "cwd": HERE.parent,
        "check": True,
        "stdout": subprocess.PIPE,
        "text": True,
    }


def run_ours(num_queries: int, num_rows: int, repetitions: int) -> dict[str, Any]:
    """Return medians and ranges over processes."""
    code = f"import benchmarks.nearest_neighbours as n; n.print_ours({num_queries}, {num_rows})"
    runs = [
        json.loads(subprocess.run(**held([sys.executable, "-c", code])).stdout)
        for _ in range(repetitions)
    ]
    return {
        "queries": num_queries,
        "rows": num_rows,
        "cpu_s": [run["cpu_s_search"] for run in runs],
        "cpu_s_with_encoding": [run["cpu_s_search"] + run["cpu_s_encoding"] for run in runs],
        "grown_mb": max(run["grown_mb_search"] for run in runs),
        "mean_distance": runs[0]["mean_distance"],
    }


def gower_by_ranges(query: pd.DataFrame, rows: pd.DataFrame, names: dict[str, list[str]],
                    within: pd.DataFrame) -> Any:  # fmt: skip
    """Return nearest distances where a number's gap is divided by its range in a table."""
    total = np.zeros((len(query), len(rows)))
    for name in names["numbers"]:
        apart = np.abs(query[name].to_numpy()[:, None] - rows[name].to_numpy())
        total += np.minimum(apart / np.ptp(within[name].to_numpy()), 1)
    for name in names["levels"]:
        total += query[name].to_numpy()[:, None] != rows[name].to_numpy()
    return total.min(1)


def run_peer(peer: str, peers: Path) -> dict[str, Any]:
    """Run a peer in its environment."""
    environment, size = PEERS[peer]
    schema, frame = load_rows()
    kinds = {True: "levels", False: "numbers"}
    task: dict[str, list[str]] = {"levels": [], "numbers": []}
    for column in schema.columns:
        task[kinds[isinstance(column, CategoricalColumn)]].append(column.name)
    frame[task["levels"]] = frame[task["levels"]].astype(object).fillna("missing").astype(str)
    frame[task["numbers"]] = frame[task["numbers"]].astype(float)
    query, rows = (part.reset_index(drop=True) for part in split(frame, size, size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.json").write_text(json.dumps(task), "utf-8")
        query.to_parquet(folder / "query.parquet")
        rows.to_parquet(folder / "rows.parquet")
        python = str(peers / environment / "bin" / "python")
        worker = str(HERE / "peers" / "nearest_worker.py")
        subprocess.run(**held([python, worker, peer, str(folder)]))
        report = json.loads((folder / "report.json").read_text("utf-8"))
    nearest = report.pop("nearest")
    factor = (COMMON_SIZE / size) ** 2
    agrees = None
    if nearest is not None:
        agrees = 0.0
        for within in (rows, pd.concat([query, rows])):
            expected = gower_by_ranges(query[:NUM_CHECKED], rows, task, within)
            same = np.isclose(nearest[:NUM_CHECKED], expected, atol=1e-4)
            agrees = max(agrees, float(same.mean()))
    return {
        "peer": peer,
        "size": size,
        **report,
        "cpu_s_common": report["cpu_s"] * factor,
        "agrees_with_gower_by_ranges": agrees,
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw CPU seconds at the common size."""
    mpl.rcParams["svg.hashsalt"] = "pratique"
    ours = results["ours"][0]
    lines = sorted(results["peers"], key=lambda line: -line["cpu_s_common"])
    names = [
        line["peer"] + (f"\n(from {line['size']:,})" if line["size"] < COMMON_SIZE else "")
        for line in lines
    ]
    seconds = [line["cpu_s_common"] for line in lines] + [median(ours["cpu_s_with_encoding"])]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh([*names, "pratique"], seconds, color=["#b8b8b8"] * len(lines) + ["#1f6f8b"])
    axis.bar_label(bars, [f"{v:,.0f}" if v >= 10 else f"{v:.2g}" for v in seconds], padding=3)
    axis.set_xscale("log")
    axis.margins(x=0.1)
    axis.set_xlabel(f"CPU seconds, {COMMON_SIZE:,} queries × {COMMON_SIZE:,} rows × 24 columns")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def show(results: dict[str, Any], console: Console) -> None:
    """Print the results."""
    reference = median(results["ours"][0]["cpu_s_with_encoding"])
    table = RichTable(
        "search", "queries × rows", "CPU s", "at 20,000", "÷ ours", "grew MB", "agrees"
    )
    for line in results["ours"]:
        both = ("cpu_s", "cpu_s_with_encoding")
        seconds = [f"{median(line[n]):.2f} ({min(line[n]):.2f}-{max(line[n]):.2f})" for n in both]
        size = f"{line['queries']:,} × {line['rows']:,}"
        table.add_row("pratique", size, "\nwith encoding ".join(seconds), "", "",
                      f"{line['grown_mb']:.0f}", "")  # fmt: skip
    for line in results["peers"]:
        ratio, agrees = line["cpu_s_common"] / reference, line["agrees_with_gower_by_ranges"]
        table.add_row(line["peer"], f"{line['size']:,} × {line['size']:,}", f"{line['cpu_s']:.1f}",
                      f"{line['cpu_s_common']:.1f}", f"{ratio:,.0f}", f"{line['grown_mb']:.0f}",
                      "other distance" if agrees is None else f"{agrees:.0%}")  # fmt: skip
    console.print(table)


def main() -> None:
    """Run, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "nearest_neighbours.json")
    parser.add_argument("--environments", type=Path, default=HERE.parent / "build" / "peers")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repetitions", type=int, default=3)
    args, console = parser.parse_args(), Console(width=120)
    results: dict[str, Any] = {"columns": 24, "ours": [], "peers": []}
    for num_queries, num_rows in SIZES:
        results["ours"].append(run_ours(num_queries, num_rows, args.repetitions))
        console.print(results["ours"][-1])
    for peer in args.peers:
        if not (args.environments / PEERS[peer][0] / "bin" / "python").exists():
            console.print(f"{peer} is left out: no environment, see peers/requirements-*.txt")
            continue
        results["peers"].append(run_peer(peer, args.environments))
        console.print(results["peers"][-1])
    again = run_ours(COMMON_SIZE, COMMON_SIZE, args.repetitions)  # other sessions come and go
    for name in ("cpu_s", "cpu_s_with_encoding"):
        results["ours"][0][name] += again[name]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, args.out.with_suffix(".svg"))
    show(results, console)


if __name__ == "__main__":
    main()
