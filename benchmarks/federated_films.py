"""Whole federations on real films: real SuperLink, a real daemon a site, audit, gate, bundle.

    .venv/bin/python -m benchmarks.federated_films

PneumoniaMNIST's training films as three hospitals, Hannover's as a fourth that is unlike them (one
finding, adults, up to eight films a patient). Each run is ``pratique simulate`` as a user calls it
at ε = 10, with the chain that starts from phantoms of chest x-rays. 600 of the released images are
then measured as in ``image_methods``, on PneumoniaMNIST's test films, beside 600 real ones of all
hospitals; films are all scaled as sites scale them.

Results are kept after each run and finished runs are skipped; delete the file to measure anew.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.federated_tables import simulate
from benchmarks.image_data import CHEST_PX, Data, chests
from benchmarks.image_methods import NUM_ROWS, Judge
from pratique_common.images.image_pixels import prepared
from pratique_common.images.spec import IMAGE
from pratique_common.study import load_study
from pratique_common.tables import Table, read_table

HERE = Path(__file__).resolve().parent
SITES = ("mnist-1", "mnist-2", "mnist-3", "hannover")


def write_sites(data: Data, folder: Path) -> None:
    """Write a CSV and, beside it, an array of images for each hospital."""
    for name, table in zip(SITES, data.sites, strict=True):
        lines = [
            f"{patient},{number},{kind}"
            for number, (patient, kind) in enumerate(
                zip(table.patients, table.columns["kind"], strict=True)
            )
        ]
        text = "\n".join(["patient,index,kind", *lines, ""])
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
        np.savez_compressed(folder / f"{name}.npz", images=table.columns[IMAGE])


def as_sites_read(table: Table) -> Table:
    """Return films with the grey values that they have once a site has read them."""
    films = [prepared(film, "percentile", CHEST_PX) for film in table.columns[IMAGE]]
    return replace(table, columns=table.columns | {IMAGE: np.stack(films)})


def released(folder: Path, study: Path) -> Table:
    """Return some of the released images, drawn at random."""
    path = folder / "run" / "bundle" / "synthetic.parquet"
    table = read_table(path, load_study(study).data, with_patients=False)
    return table.take(np.random.default_rng(0).permutation(table.num_rows)[:NUM_ROWS])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "federated_films.json")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Do all runs that are not in the results yet, and print them."""
    args, console, study = parse_args(), Console(width=160), HERE / "films.toml"
    runs: list[dict[str, Any]] = []
    if args.out.exists():
        runs = json.loads(args.out.read_text("utf-8"))["runs"]
    data = chests()
    seen = replace(data, sites=tuple(map(as_sites_read, data.sites)), test=as_sites_read(data.test))
    judge = Judge(seen)
    for number in range(len(runs), args.runs):
        with TemporaryDirectory() as made:
            folder = Path(made)
            write_sites(data, folder)
            run = {"run": number, **simulate(study, list(SITES), folder)}
            if run["decision"] == "granted":
                run["released"] = judge.measure(released(folder, study))
            run["real"] = judge.measure(seen.real(NUM_ROWS, seed=number))
        console.print(run)
        runs.append(run)
        args.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
