"""What ``pratique audit`` costs as a user runs it: wall time, CPU time and peak memory.

    nice python -m benchmarks.audit_cost

24 columns of the encounters of Diabetes-130: 50,000 members, 12,500 held out, and 50,000 synthetic
rows, drawn from a smooth table of the others. One core, one thread; the whole command, from reading
files to the page, with the control and the exact audits that never leave a site.
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
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from rich.console import Console

from benchmarks.nearest_neighbours import load_rows
from pratique_common.study import load_study
from pratique_common.tables import check_table, to_arrow
from pratique_privacy.smooth import SmoothTable

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "audit_cost.json"
NUM_MEMBERS, NUM_HELD_OUT, NUM_SYNTHETIC = 50_000, 12_500, 50_000


def write_files(folder: Path) -> list[str]:
    """Write a study and three tables; return the command's arguments."""
    schema, frame = load_rows()
    study = {
        "name": "audit-cost",
        "data": schema.model_dump(mode="json", exclude_none=True),
        "privacy": {"target_epsilon": 3.0, "expected_patients": 60_000},
        "disclosure": {
            "purpose": "A benchmark", "recipients": ["Nobody"], "licence": "CC0-1.0",
            "expires": "2030-01-01",
        },
    }  # fmt: skip
    (folder / "study.toml").write_text(tomli_w.dumps(study))
    schema = load_study(folder / "study.toml").data
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    rows = check_table(arrow, schema, source="diabetes130", patient_id=None)
    rng = np.random.default_rng(0)
    parts = np.split(rng.permutation(rows.num_rows), [NUM_MEMBERS, NUM_MEMBERS + NUM_HELD_OUT])
    cut = [{name: values[part] for name, values in rows.columns.items()} for part in parts]
    cut[2] = SmoothTable(schema, cut[2], rng).draw(NUM_SYNTHETIC, rng)
    arguments = [str(folder / "study.toml")]
    for role, columns in zip(("members", "holdout", "synthetic"), cut, strict=True):
        pq.write_table(to_arrow(columns, schema), folder / f"{role}.parquet")
        arguments += [f"--{role}", str(folder / f"{role}.parquet")]
    return arguments


def run_once(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run the command and return what it cost."""
    program = "from pratique_server.cli import main; main()"
    command = [sys.executable, "-c", program, "audit", *arguments, "--out", str(folder / "out")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    core = {min(os.sched_getaffinity(0))}
    done = subprocess.run(
        [*command, "--json"],
        check=False,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": done.returncode,
        "wall_s": time.perf_counter() - start,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_megabytes": after.ru_maxrss / 1024,
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    runs = []
    for _ in range(args.repetitions):
        with tempfile.TemporaryDirectory() as name:
            runs.append(run_once(write_files(Path(name)), Path(name)))
            Console().print(runs[-1])
    sizes = {"members": NUM_MEMBERS, "holdout": NUM_HELD_OUT, "synthetic": NUM_SYNTHETIC}
    args.out.write_text(json.dumps({**sizes, "columns": 24, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
