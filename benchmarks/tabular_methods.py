"""Methods of ``tabular_peers``: the product's own generators, and peers in their environments."""

import json
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.arithmetic import train
from benchmarks.tabular_data import Data
from pratique_common.binned_columns import NumericColumn
from pratique_common.columns import OTHER
from pratique_common.encoding import TableEncoder
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec, parse_study
from pratique_common.tables import Table, check_table, to_arrow

IntArray = NDArray[np.int64]

HERE = Path(__file__).resolve().parent
_MOST_AT_USUAL_DELTA = 50_000
_HOLDOUT_FACTOR = 1.25  # a study plans for members and hold-out; here all rows are members
_STEPS = {"rounds": 60, "sample_rate": 0.3}
_MANY_STEPS = {"rounds": 300, "sample_rate": 0.1}
OURS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pratique": ({}, {}),
    "masked-network": ({"name": "autoregressive"}, _STEPS),
    "independent": ({"name": "independent"}, {"rounds": 0}),
    "copula": ({"name": "copula"}, {}),
    "tree": ({"name": "tree"}, {}),
    "vae": ({"name": "vae"}, {"rounds": 200, "sample_rate": 0.1}),
    "diffusion": ({"name": "diffusion"}, _STEPS),
    "gan": ({"name": "adversarial"}, _MANY_STEPS),
    "wgan": ({"name": "adversarial", "objective": "wasserstein"}, _MANY_STEPS),
}
"""Method → generator and training of the study. The product's default has no settings at all."""
PEERS = {"aim": "private-pgm", "mst": "private-pgm", "mostlyai": "mostlyai"}
"""Method → folder of its environment."""
_PEER_SETTINGS = {
    "aim_megabytes": 4.0,
    "aim_rounds": 100,
    "aim_iterations": 300,
    "mostlyai_minutes": 8.0,
}


@dataclass(frozen=True)
class Setting:
    """One run."""

    table: str
    method: str
    epsilon: float
    seed: int


def delta_of(num_rows: int) -> float:
    """Return δ: 1e-5 as in the papers, .05 / rows where that is not far below 1 / rows."""
    return 1e-5 if num_rows <= _MOST_AT_USUAL_DELTA else 0.05 / num_rows


def study_of(setting: Setting, data: Data) -> StudySpec:
    """Return the study of one of our own runs."""
    rows = data.train.num_rows
    study = json.loads(json.dumps(data.study, default=str))
    study["name"] = f"{setting.table}-seed-{setting.seed}"
    study["privacy"] = {
        "target_epsilon": setting.epsilon,
        "target_delta": delta_of(rows),
        "expected_patients": round(rows * _HOLDOUT_FACTOR),
        "noise": "local",
    }
    study["release"]["rows"] = rows
    study["generator"], study["training"] = OURS[setting.method]
    if setting.method == "masked-network" and setting.epsilon > 3:
        study["training"] = {"rounds": 300, "sample_rate": 0.1, "learning_rate": 0.02}
    return parse_study(study, source=setting.table)


def run_ours(setting: Setting, data: Data) -> tuple[Table, dict[str, float]]:
    """Return a table and the seconds that it took."""
    study, start = study_of(setting, data), time.monotonic()
    derivation, _ = train(study, [data.train])
    candidate, _ = derivation.sample()
    seconds = time.monotonic() - start
    table = check_table(candidate, study.data, source="candidate", patient_id=None)
    return table, {"fit_s": seconds}


def run_peer(
    setting: Setting, data: Data, codes: IntArray, peers: Path
) -> tuple[Table, dict[str, float]]:
    """Run a peer in its own environment; return its table and what it reports."""
    environment = PEERS[setting.method]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {
            **asdict(setting),
            **_PEER_SETTINGS,
            "delta": delta_of(len(codes)),
            "rows": len(codes),
            "num_levels": TableEncoder(data.schema).num_levels,
        }
        (folder / "task.json").write_text(json.dumps(task), "utf-8")
        np.save(folder / "codes.npy", codes)
        pq.write_table(to_arrow(data.train.columns, data.schema), folder / "table.parquet")
        script = HERE / "peers" / f"{environment.replace('-', '_')}_worker.py"
        command = [str(peers / environment / "bin" / "python"), str(script), str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads((folder / "report.json").read_text("utf-8"))
        if (folder / "synthetic.npy").exists():
            drawn = np.load(folder / "synthetic.npy")
            return as_table(data.schema, drawn, setting.seed), report
        frame = _in_domain(pd.read_parquet(folder / "synthetic.parquet"), data.schema)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return check_table(table, data.schema, source="peer", patient_id=None), report


def _in_domain(frame: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """Give cells outside the public dictionary, such as "_RARE_", the column's commonest value."""
    columns = {}
    for column in schema.columns:
        values = frame[column.name]
        if isinstance(column, NumericColumn):
            values = pd.to_numeric(values, errors="coerce").astype(float)
            values = values.round() if column.integer else values
            columns[column.name] = values if column.missing else values.fillna(values.median())
            continue
        values = values.astype(object)
        known = values.isin(column.levels) | (values.isna() & column.missing)
        elsewhere = OTHER if column.other else values[values.isin(column.levels)].mode().iloc[0]
        columns[column.name] = values.where(known, elsewhere)
    return pd.DataFrame(columns)


def as_table(schema: TableSchema, codes: IntArray, seed: int) -> Table:
    """Return codes as values: inside bins by the product's function."""
    columns = TableEncoder(schema).decode(codes, np.random.default_rng(seed))
    return check_table(to_arrow(columns, schema), schema, source="codes", patient_id=None)
