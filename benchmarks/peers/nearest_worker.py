"""Nearest rows by a peer, for nearest_neighbours.py.

    python nearest_worker.py PEER FOLDER

FOLDER holds task.json (columns by kind), query.parquet and rows.parquet; CPU seconds, memory and
the nearest distances, where they can be compared, go to report.json. Each function makes the call
that is measured; rows are as the peer wants them before.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Search = Callable[[], Any]


def memory_mb(name: str) -> float:
    """Return a line of the process's status: VmRSS now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measured(search: Search) -> tuple[Any, dict[str, float]]:
    """Return what a search returns, its CPU seconds (user and system) and how memory grew."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak is now
    memory, before = memory_mb("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    result = search()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, {"cpu_s": cpu_s, "grown_mb": memory_mb("VmHWM") - memory}


def sdmetrics(query: pd.DataFrame, rows: pd.DataFrame, task: dict[str, Any]) -> Search:
    """One neighbour: the function behind DCRBaselineProtection and DCROverfittingProtection."""
    from sdmetrics.single_table.privacy.dcr_utils import calculate_dcr

    kinds = {name: {"sdtype": "numerical"} for name in task["numbers"]}
    kinds |= {name: {"sdtype": "categorical"} for name in task["levels"]}
    return lambda: calculate_dcr(query, rows, {"columns": kinds}) * len(kinds)


def anonymeter(query: pd.DataFrame, rows: pd.DataFrame, task: dict[str, Any]) -> Search:
    """Two neighbours by its public class."""
    # The class cannot be imported first: its package imports itself in a circle.
    import anonymeter.evaluators  # noqa: F401
    from anonymeter.neighbors.mixed_types_kneighbors import MixedTypeKNeighbors

    kinds = {"num": task["numbers"], "cat": task["levels"]}

    def search(few: int | None = None) -> Any:
        found = MixedTypeKNeighbors(n_neighbors=2, n_jobs=1).fit(rows, ctypes=kinds)
        return found.kneighbors(query[:few], return_distance=True)[0][:, 0]

    search(2)  # compiles
    return search


def syntheval(query: pd.DataFrame, rows: pd.DataFrame, task: dict[str, Any]) -> Search:
    """Two neighbours by the function behind its metrics dcr, nnaa and nndr; levels as codes."""
    from syntheval.utils.nn_distance import _knn_distance

    for name in task["levels"]:
        kind = pd.CategoricalDtype(sorted({*query[name], *rows[name]}))
        query[name], rows[name] = (t[name].astype(kind).cat.codes for t in (query, rows))
    width = query.shape[1]
    return lambda: _knn_distance(query, rows, task["levels"], 2, "gower")[0] * width


def mostlyai(query: pd.DataFrame, rows: pd.DataFrame, task: dict[str, Any]) -> Search:
    """Two neighbours of embedded rows on the unit sphere, as in its report."""
    del task
    from mostlyai.qa._distances import calculate_dcrs_nndrs
    from mostlyai.qa._sampling import prepare_data_for_embeddings

    def search() -> None:
        some, all_, _ = prepare_data_for_embeddings(syn_tgt_data=query, trn_tgt_data=rows)
        calculate_dcrs_nndrs(all_, some)

    return search


def mostlyai_one_hot(query: pd.DataFrame, rows: pd.DataFrame, task: dict[str, Any]) -> Search:
    """Two neighbours of one-hot rows, where levels that differ are 1 apart, by its search."""
    from mostlyai.qa._distances import calculate_dcrs_nndrs

    both = pd.concat([query, rows])
    numbers = both[task["numbers"]]
    numbers = (numbers - numbers.min()) / (numbers.max() - numbers.min())
    one_hot = pd.get_dummies(both[task["levels"]]) * 0.5**0.5
    codes = pd.concat([numbers, one_hot], axis=1).to_numpy(np.float32)
    return lambda: calculate_dcrs_nndrs(codes[len(query) :], codes[: len(query)]) and None


PEERS = {
    "sdmetrics": sdmetrics,
    "anonymeter": anonymeter,
    "syntheval": syntheval,
    "mostlyai-qa": mostlyai,
    "mostlyai-qa, one-hot": mostlyai_one_hot,
}


def main(peer: str, folder: Path) -> None:
    """Measure one search."""
    task = json.loads((folder / "task.json").read_text("utf-8"))
    query, rows = (pd.read_parquet(folder / f"{name}.parquet") for name in ("query", "rows"))
    found, report = measured(PEERS[peer](query, rows, task))
    nearest = None if found is None else np.asarray(found, float).tolist()
    (folder / "report.json").write_text(json.dumps({**report, "nearest": nearest}), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
