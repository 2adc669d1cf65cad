"""What the default generator costs on one core: a fit, a table, and rows drawn afterwards.

    nice python -m benchmarks.throughput

Adult at ε = 1, pooled, in one process with one thread, in CPU-seconds; and ``pratique sample`` as a
user runs it, on the bundle of ``pratique demo``: 1,000,000 rows, which are drawn plainly, and
60,000, which are matched to the model's two-way marginals.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.arithmetic import train
from benchmarks.tabular_data import load_adult
from benchmarks.tabular_methods import Setting, study_of
from pratique_common.encoding import TableEncoder
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.threads import use_one_thread

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "throughput.json"
EPSILON = 1.0
ROWS_DRAWN = 200_000
ROWS_OF_COMMAND = {"plain": 1_000_000, "matched": 60_000}


def in_process() -> dict[str, float]:
    """Fit Adult, make its table and draw rows; return CPU-seconds and rows a CPU-second."""
    data = load_adult()
    study = study_of(Setting("adult", "pratique", EPSILON, 0), data)
    start = time.process_time()
    derivation, _ = train(study, [data.train])
    fitted = time.process_time()
    derivation.sample()
    sampled = time.process_time()
    generator = derivation.generator
    assert isinstance(generator, PairwiseGenerator)
    codes = generator.sample(ROWS_DRAWN, torch.Generator().manual_seed(0)).numpy()
    drawn = time.process_time()
    TableEncoder(study.data).decode(codes, np.random.default_rng(0))
    decoded = time.process_time()
    return {
        "fit_cpu_s": fitted - start,
        "table_cpu_s": sampled - fitted,
        "codes_a_cpu_s": ROWS_DRAWN / (drawn - sampled),
        "rows_a_cpu_s": ROWS_DRAWN / (decoded - sampled),
    }


def of_command(bundle: Path, folder: Path) -> dict[str, float]:
    """Run ``pratique sample``; return its CPU-seconds, start and writing included."""
    found = {}
    for name, rows in ROWS_OF_COMMAND.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _pratique("sample", str(bundle), "--rows", str(rows), "--force",
                  "--out", str(folder / "more.parquet"))  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found |= {f"sample_{name}_cpu_s": cpu_s, f"sample_{name}_rows_a_cpu_s": rows / cpu_s}
    return found


def _pratique(*arguments: str, refused_too: bool = False) -> None:
    program = "from pratique_server.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=not refused_too,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def summary_of(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, least and most of each measure."""
    return {
        name: {
            "mean": float(np.mean(values)), "least": min(values), "most": max(values)
        }
        for name in runs[0]
        for values in [[run[name] for run in runs]]
    }  # fmt: skip


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Measure and write results."""
    args, console = parse_args(), Console(width=120)
    use_one_thread()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pratique("demo", "--out", str(folder / "demo"), refused_too=True)
        if not (folder / "demo" / "bundle").is_dir():
            sys.exit("the demo was refused, as one honest run in twenty is: start again")
        runs = [in_process() | of_command(folder / "demo" / "bundle", folder)
                for _ in range(args.runs)]  # fmt: skip
    found: dict[str, Any] = {
        "epsilon": EPSILON,
        "rows_of_command": ROWS_OF_COMMAND,
        "torch": torch.__version__,
        "runs": runs,
        "summary": summary_of(runs),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for measure, each in found["summary"].items():
        console.print(f"{measure:32} {each['mean']:12,.1f}  ({each['least']:,.1f} to "
                      f"{each['most']:,.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
