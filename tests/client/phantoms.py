"""A small table with every kind of column, and sites that find it in a source."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pratique_client.site import Site, load_site
from pratique_common.study import StudySpec
from tests.conftest import small_study

NUM_PATIENTS = 60

COLUMNS: list[dict[str, object]] = [
    {"name": "age", "type": "numeric", "lower": 18, "upper": 110, "integer": True},
    {"name": "marker", "type": "numeric", "lower": 0, "upper": 50, "missing": True},
    {"name": "sex", "type": "categorical", "categories": ["male", "female"]},
    {"name": "ward", "type": "categorical", "other": True, "missing": True,
     "categories": ["Herz, Gefäße", 'the "old" one', "None", "x:y %s"]},
    {"name": "seen", "type": "date", "first": "2015-01-01", "last": "2026-12-31"},
    {"name": "at", "type": "time", "missing": True},
    {"name": "alive", "type": "categorical", "categories": ["true", "false"]},
]  # fmt: skip


def study_of(**data: object) -> StudySpec:
    """Return a study of the table, whose rows are visits."""
    table = {
        "kind": "table", "patient_id": "patient", "max_rows_per_patient": 2,
        "visits": {"order_by": "seen", "fixed": ["sex"]}, "target": "alive", "columns": COLUMNS,
    }  # fmt: skip
    return small_study(data={**table, **data}, privacy={"target_epsilon": 3.0, "noise": "local",
                                                        "expected_patients": 900})  # fmt: skip


def rows(seed: int = 0) -> pa.Table:
    """Return typed cells: of each patient one to three visits on different days."""
    rng = random.Random(seed)
    cells: dict[str, list[object]] = {name: [] for name in ("patient", *(
        str(column["name"]) for column in COLUMNS), "not_used")}  # fmt: skip
    wards = ["Herz, Gefäße", 'the "old" one', "None", "x:y %s", "rare", None]
    for patient in range(NUM_PATIENTS):
        days = rng.sample(range(17_000, 20_000), rng.choice([1, 1, 2, 3]))
        for day in days:
            values = {
                "patient": f"p-{patient:03d}", "age": rng.randint(18, 99),
                "marker": rng.choice([None, round(rng.gammavariate(2, 3), 2)]),
                "sex": rng.choice(["male", "female"]), "ward": rng.choice(wards), "seen": day,
                "at": rng.choice([None, rng.randrange(24 * 60) * 60_000]),
                "alive": rng.random() < 0.7, "not_used": "marked-XYZZY",
            }  # fmt: skip
            for name, value in values.items():
                cells[name].append(value)
    types = {"age": pa.int64(), "marker": pa.float64(), "seen": pa.date32(),
             "at": pa.time32("ms"), "alive": pa.bool_()}  # fmt: skip
    return pa.table({n: pa.array(v, types.get(n, pa.string())) for n, v in cells.items()})


def write_files(folder: Path, table: pa.Table) -> None:
    """Write ``rows.csv`` and ``rows.parquet``."""
    pa.csv.write_csv(table, folder / "rows.csv")
    pa.parquet.write_table(table, folder / "rows.parquet")


def site_of(folder: Path, source: str) -> Site:
    """Return a site with this ``[source]``; all sites of a test share one secret of the split."""
    folder.mkdir(exist_ok=True)
    (folder / "split.secret").write_bytes(b"s" * 32)
    (folder / "site.toml").write_text(
        f'site = "quay"\n[source]\n{source}\n[budget]\nepsilon = 8\ndelta = 1e-5\n'
        f'[coordinator]\naddress = "127.0.0.1:8000"\npublic_key = "{"0" * 64}"\n'
    )
    return load_site(folder)
