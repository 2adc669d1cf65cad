"""Whole federations on real tables: real SuperLink, a real daemon a site, audit, gate, bundle.

    .venv/bin/python -m benchmarks.federated_tables

* ``covid_mexico``: cases of ten states, each a site; structural gaps and rules of the study.
* ``diabetes130``: all encounters of 30,000 patients, up to 40 each, at three hospitals; rows are
  visits, and the patient is the unit of privacy.

Each run is ``pratique simulate`` as a user calls it, at the study's ε = 3, with its wall time and
the CPU time of all its processes. Of what was released: rows that break a rule of the study, as the
reader of hospitals' rows counts them; 2-way TV to the rows of all sites, beside that of other real
patients; AUC on other patients of a model that learnt from the released rows, and of one that
learnt from the real ones. Every patient counts once.

Results are kept after each run and finished runs are skipped; delete the file to measure anew.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from sklearn.metrics import roc_auc_score
from tests.studies import covid_mexico, diabetes130

from pratique_common.study import StudySpec, load_study
from pratique_common.tables import Table, cap_rows, read_table, row_weights
from pratique_common.threads import use_one_thread
from pratique_common.utility import OutcomeModel, grid_codes, mean_tv

HERE = Path(__file__).resolve().parent
STUDIES = Path(covid_mexico.__file__).parent


def cut_covid(data: Path, out: Path) -> tuple[str, list[str]]:
    """Write the tables of ten states; return the study and the sites."""
    states = covid_mexico.cut(covid_mexico.load(data / "covid_mexico"), out)
    return (STUDIES / "covid-mexico.toml").read_text("utf-8"), [each.lower() for each in states]


def cut_diabetes(data: Path, out: Path) -> tuple[str, list[str]]:
    """Write the encounters of three hospitals; return the study and the sites."""
    diabetes130.cut(diabetes130.load(data / "diabetes130"), out)
    return diabetes130.visits_study(), list(diabetes130.HOSPITAL_SHARES)


TABLES: dict[str, Callable[[Path, Path], tuple[str, list[str]]]] = {
    "covid_mexico": cut_covid,
    "diabetes130": cut_diabetes,
}


def simulate(study: Path, sites: list[str], folder: Path) -> dict[str, Any]:
    """Run the command; return what it took and what the gate decided."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    named = [f"--site={site}={folder / site}.csv" for site in sites]
    run = folder / "run"
    command = [sys.executable, "-m", "pratique_server.cli", "simulate", str(study), *named]
    done = subprocess.run([*command, f"--out={run}", "--json"], capture_output=True, text=True)
    wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    report = next(iter(run.glob("*/report.json")), None)
    if report is None:
        raise RuntimeError(f"no decision: {done.stderr or done.stdout}")
    found = json.loads(report.read_text("utf-8"))
    return {
        "sites": len(sites),
        "exit_code": done.returncode,
        "decision": found["decision"],
        "failed_rules": [rule["rule"] for rule in found["reasons"] if not rule["passed"]],
        "beats_prior": found["utility"]["beats_prior"] if found.get("utility") else None,
        "wall_s": round(wall_s),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
    }


def score(spec: StudySpec, folder: Path) -> dict[str, Any]:
    """Return how the released rows are, beside other patients' real ones."""
    schema = spec.data
    released = folder / "run" / "bundle" / "synthetic.csv"
    tables = {
        "real": cap_rows(read_table(folder / "train.csv", schema), schema),
        "other": cap_rows(read_table(folder / "test.csv", schema), schema),
        "released": read_table(
            released, schema, with_patients=schema.visits is not None, in_time=False
        ),
    }
    return {
        "rows": tables["released"].num_rows,
        "rows_that_break_a_rule": tables["released"].num_dropped,
        "tv2": _distance(spec, tables["real"], tables["released"]),
        "tv2_of_other_patients": _distance(spec, tables["real"], tables["other"]),
        "tstr_auc": _auc(spec, tables["released"], tables["other"]),
        "trtr_auc": _auc(spec, tables["real"], tables["other"]),
    }


def _distance(spec: StudySpec, one: Table, other: Table) -> float:
    codes = grid_codes(one.columns, [other.columns], spec.data)
    weights = {"real_weight": row_weights(one), "synthetic_weight": row_weights(other)}
    return round(mean_tv(*codes, 2, **weights), 4)


def _auc(spec: StudySpec, train: Table, test: Table) -> float:
    label, risk = OutcomeModel.fit(spec.data, train.columns).auc_inputs(test.columns)
    return round(float(roc_auc_score(label, risk, sample_weight=row_weights(test))), 4)


def show(runs: list[dict[str, Any]], console: Console) -> None:
    """Print the runs as a table."""
    names = [name for name in max(runs, key=len) if name != "failed_rules"]
    table = RichTable(*names)
    for run in runs:
        table.add_row(*(str(run.get(name, "")) for name in names))
    console.print(table)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "federated_tables.json")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Do all runs that are not in the results yet, then print them."""
    args, console = parse_args(), Console(width=160)
    use_one_thread()
    runs: list[dict[str, Any]] = []
    if args.out.exists():
        runs = json.loads(args.out.read_text("utf-8"))["runs"]
    done = {(run["table"], run["run"]) for run in runs}
    for number in range(args.runs):
        for name in args.tables:
            if (name, number) in done:
                continue
            with TemporaryDirectory() as made:
                folder = Path(made)
                text, sites = TABLES[name](args.data, folder)
                study = folder / "study.toml"
                study.write_text(text, "utf-8")
                run = {"table": name, "run": number, **simulate(study, sites, folder)}
                if run["decision"] == "granted":
                    run |= score(load_study(study), folder)
            console.print(run)
            runs.append(run)
            args.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n", "utf-8")
    show(runs, console)


if __name__ == "__main__":
    main()
