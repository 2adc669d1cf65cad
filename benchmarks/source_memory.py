"""What a large table costs a site: peak memory and time of reading, training and the audit.

    nice python -m benchmarks.source_memory

A phantom table of 1,000,000 rows and 50 columns (24 numbers, 20 categories, 4 dates, 2 times of
day; 590,000 patients with one to three rows) is written as CSV and as Parquet. A fresh process then
does what the daemon does in a run, through the same classes: it joins (reads, splits, encodes),
answers the histogram round and a round of pair statistics and, with ``--audit``, audits 10,000
synthetic rows. Other sources: ``duckdb`` queries the files, ``sqlite`` a database.
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
import pyarrow.csv
import pyarrow.parquet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from pratique_client.approval import approve
from pratique_client.session import SiteSession
from pratique_client.site import load_site
from pratique_common.canonical import sha256_hex
from pratique_common.generators.build import build_generator
from pratique_common.signing import create_key, public_hex
from pratique_common.study import StudySpec, parse_study
from pratique_common.tables import check_table, parquet_bytes, to_arrow

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "source_memory.json"
NUM_NUMBERS, NUM_LEVELS, NUM_DATES, NUM_TIMES = 24, 20, 4, 2
SHARES = (0.5, 0.3, 0.2)  # of patients with one, two and three rows
CANDIDATE_ROWS = 10_000
BLOCK_ROWS = 100_000
_DAYS = 10_000


def study_of() -> StudySpec:
    """Return the study of the phantom table."""
    columns: list[dict[str, Any]] = [
        {"name": f"number{n}", "type": "numeric", "lower": 0, "upper": 200, "missing": n % 3 == 0}
        for n in range(NUM_NUMBERS)
    ]
    columns += [
        {"name": f"level{n}", "type": "categorical", "missing": n % 4 == 0,
         "categories": [f"level {k}" for k in range(2 + n % 11)]}
        for n in range(NUM_LEVELS)
    ]  # fmt: skip
    columns += [
        {"name": f"date{n}", "type": "date", "first": "1990-01-01", "last": "2020-01-01"}
        for n in range(NUM_DATES)
    ]
    columns += [{"name": f"time{n}", "type": "time"} for n in range(NUM_TIMES)]
    data = {
        "kind": "table", "patient_id": "patient", "max_rows_per_patient": len(SHARES),
        "target": "level0", "columns": columns,
    }  # fmt: skip
    return parse_study(
        {
            "name": "source-memory",
            "simulated": True,
            "data": data,
            # Local noise: one process can then be a whole run.
            "privacy": {"target_epsilon": 3.0, "target_delta": 1e-7, "noise": "local",
                        "expected_patients": 600_000},
            "training": {"reply_interval_s": 0},
            "audit": {"delta": 1e-7},
            "release": {"rows": CANDIDATE_ROWS},
            "disclosure": {"purpose": "A benchmark", "recipients": ["Nobody"],
                           "licence": "CC0-1.0", "expires": "2030-01-01"},
        },
        source="study",
    )  # fmt: skip


def block_of(
    study: StudySpec, num_rows: int, first_patient: int, rng: np.random.Generator
) -> pa.Table:
    """Return rows of phantom patients, those of a patient together."""
    counts = rng.choice(len(SHARES), num_rows, p=SHARES) + 1
    owner = np.repeat(np.arange(num_rows), counts)[:num_rows] + first_patient
    cells: dict[str, pa.Array] = {"patient": pa.array([f"patient-{n:08d}" for n in owner])}
    for column in study.data.columns:
        absent = rng.random(num_rows) < 0.05 if column.missing else np.zeros(num_rows, bool)
        if column.type == "categorical":
            texts = np.array(column.categories, object)
            cells[column.name] = pa.array(texts[rng.integers(len(texts), size=num_rows)],
                                          pa.string(), mask=absent)  # fmt: skip
        elif column.type == "numeric":
            numbers = np.round(rng.gamma(4, 20, num_rows).clip(0, 199), 2)
            cells[column.name] = pa.array(numbers, mask=absent)
        elif column.type == "date":
            days = rng.integers(7_400, 7_400 + _DAYS, num_rows).astype(np.int32)
            cells[column.name] = pa.array(days, pa.date32())
        else:
            minutes = rng.integers(24 * 60, size=num_rows).astype(np.int32)
            cells[column.name] = pa.array(minutes * 60_000, pa.time32("ms"))
    return pa.table(cells)


def write_tables(folder: Path, study: StudySpec, num_rows: int) -> None:
    """Write the same phantom table as ``rows.parquet`` and ``rows.csv``."""
    rng = np.random.default_rng(0)
    schema = block_of(study, 1, 0, rng).schema
    with (
        pa.parquet.ParquetWriter(folder / "rows.parquet", schema) as parquet,
        pa.csv.CSVWriter(folder / "rows.csv", schema) as csv,
    ):
        for start in range(0, num_rows, BLOCK_ROWS):
            block = block_of(study, min(BLOCK_ROWS, num_rows - start), start, rng)
            parquet.write_table(block)
            csv.write_table(block)


def make_site(folder: Path, study: StudySpec, source: str) -> Path:
    """Write a site that approved the study."""
    folder.mkdir()
    (folder / "site.toml").write_text(
        f'site = "large"\nsimulated = true\n[source]\n{source}\n'
        '[budget]\nepsilon = 8\ndelta = 1e-7\n[coordinator]\naddress = "127.0.0.1:8000"\n'
        f'public_key = "{"0" * 64}"\n'
    )
    key = create_key(folder / "site.key")
    others = {n: public_hex(Ed25519PrivateKey.generate()) for n in ("quay", "pier")}
    approve(load_site(folder), study, {"large": public_hex(key), **others})
    return folder


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def take_part(site: Path, candidate: Path | None) -> dict[str, Any]:
    """Do a site's part of a run; return seconds and peak memory until the end of each phase."""
    study = study_of()
    phases: dict[str, Any] = {"imports": {"wall_s": 0.0, "peak_megabytes": _megabytes()}}
    begin = time.perf_counter()

    def done(phase: str) -> None:
        nonlocal begin
        now = time.perf_counter()
        phases[phase] = {"wall_s": now - begin, "peak_megabytes": _megabytes()}
        begin = now

    session = SiteSession(load_site(site), study.digest, "run1")
    session.joined()
    done("join")
    session.training.histograms(())
    done("histograms")
    generator = build_generator(study)
    session.training.step(1, np.asarray(generator.state(), np.float32), ())
    done("pair statistics")
    if candidate is not None:
        content = candidate.read_bytes()
        session.audit.answer(content, sha256_hex(content), 1, ())
        done("audit")
    return phases


def write_candidate(path: Path, study: StudySpec) -> None:
    """Write a candidate: other phantoms."""
    rows = block_of(study, CANDIDATE_ROWS, 0, np.random.default_rng(1))
    table = check_table(rows, study.data, source="candidate", patient_id=None)
    path.write_bytes(parquet_bytes(to_arrow(table.columns, study.data)))


def write_sqlite(folder: Path) -> None:
    """Copy the table into a database."""
    import sqlite3

    with pa.parquet.ParquetFile(folder / "rows.parquet") as parquet:
        names = parquet.schema_arrow.names
        with sqlite3.connect(folder / "rows.db") as database:
            database.execute(f"CREATE TABLE rows ({', '.join(names)})")
            marks = ", ".join("?" * len(names))
            for batch in parquet.iter_batches(BLOCK_ROWS):
                # SQLite knows neither dates nor times: texts.
                kinds = [pa.string() if pa.types.is_temporal(f.type) else f.type
                         for f in batch.schema]  # fmt: skip
                cells = [c.cast(k).to_pylist() for c, k in zip(batch.columns, kinds, strict=True)]
                rows = zip(*cells, strict=True)
                database.executemany(f"INSERT INTO rows VALUES ({marks})", rows)


def sources_of(folder: Path) -> dict[str, str]:
    """Return ``[source]`` of each way to the same rows."""
    return {
        "parquet": f'kind = "table_file"\npath = "{folder}/rows.parquet"',
        "csv": f'kind = "table_file"\npath = "{folder}/rows.csv"',
        "duckdb": f'kind = "sql"\nfiles = {{ rows = "{folder}/rows.parquet" }}\n'
        'query = "SELECT * FROM rows"',
        "sqlite": f'kind = "sql"\nurl = "sqlite:///{folder}/rows.db"\nquery = "SELECT * FROM rows"',
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sources", nargs="+", default=["parquet", "csv"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--audit", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)  # what a fresh process does
    parser.add_argument("--candidate", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.site is not None:
        Console().print_json(json.dumps(take_part(args.site, args.candidate)))
        return
    study, runs = study_of(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, study, args.rows)
        write_candidate(folder / "candidate.parquet", study)
        if "sqlite" in args.sources:
            write_sqlite(folder)
        for number in range(args.repetitions):
            for kind in args.sources:
                site = make_site(folder / f"{kind}{number}", study, sources_of(folder)[kind])
                command = [sys.executable, "-m", "benchmarks.source_memory", "--site", str(site)]
                if args.audit:
                    command += ["--candidate", str(folder / "candidate.parquet")]
                env = os.environ | {"OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, check=True, capture_output=True, env=env)
                runs.append({"source": kind, "phases": json.loads(done.stdout)})
                Console().print(runs[-1])
    result = {"rows": args.rows, "columns": len(study.data.columns), "runs": runs}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
