"""Real tables of the benchmarks, split as in the design, one record a patient."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tests.studies import diabetes130

from pratique_common.schema import TableSchema
from pratique_common.study import load_toml, parse_study
from pratique_common.tables import Table, check_table

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"


@dataclass(frozen=True)
class Data:
    """A table's split in its public dictionary."""

    study: dict[str, Any]
    schema: TableSchema
    train: Table
    test: Table
    reference: Table
    """To which distances are measured: the training rows, or all of them where a part is used."""


def _as_tables(schema: TableSchema, *parts: pd.DataFrame) -> list[Table]:
    arrow = (pa.Table.from_pandas(part) for part in parts)
    return [check_table(each, schema, source="benchmark", patient_id=None) for each in arrow]


def load_adult() -> Data:
    """Return the official split."""
    source = HERE / "adult.toml"
    study = load_toml(source)
    schema = parse_study(study, source=source).data
    file = SHARED / "adult" / "adult_clean.csv.gz"
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    parts = (frame.loc[frame["split"] == p, list(schema.names)] for p in ("train", "test"))
    train, test = _as_tables(schema, *parts)
    return Data(study, schema, train, test, train)


def load_adult_of(num_rows: int) -> Data:
    """Return Adult with so many training rows: a part of them, or all of them again and again."""
    whole = load_adult()
    rng = np.random.default_rng(num_rows)
    size = whole.train.num_rows
    keep = np.concatenate([rng.permutation(size) for _ in range(-(-num_rows // size))])[:num_rows]
    columns = {name: values[keep] for name, values in whole.train.columns.items()}
    part = Table(columns, np.arange(num_rows).astype(object), num_dropped=0)
    return replace(whole, train=part)


def load_diabetes130() -> Data:
    """Return the first encounters of 30,000 patients and of 20,000 others."""
    source = Path(diabetes130.__file__).with_name("diabetes-130.toml")
    study = load_toml(source)
    study["name"] = "diabetes130"
    study["data"] |= {"max_rows_per_patient": 1, "rules": []}
    del study["data"]["patient_id"]
    schema = parse_study(study, source=source).data
    frame = diabetes130.load(SHARED / "diabetes130").drop_duplicates("patient")
    frame = frame.sample(frac=1, random_state=7)[list(schema.names)]
    train, test = _as_tables(schema, frame.iloc[:30_000], frame.iloc[30_000:50_000])
    return Data(study, schema, train, test, train)


TABLES: dict[str, Callable[[], Data]] = {"adult": load_adult, "diabetes130": load_diabetes130}
SIZES = (500, 2_000, 8_000, 1_000_000)
PARTS: dict[str, Callable[[], Data]] = {f"adult-{n}": partial(load_adult_of, n) for n in SIZES}
"""On request: how the defaults hold from 500 to 1,000,000 patients."""
