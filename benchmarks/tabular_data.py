"""Real tables of the benchmarks, split as in the design, one record a patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.studies import diabetes130

from benchmarks.federation_quality import STUDY_FILE, Real
from pratique_common.schema import TableSchema
from pratique_common.study import load_toml, parse_study
from pratique_common.tables import Table, check_table

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Data:
    """A table's split in its public dictionary."""

    study: dict[str, Any]
    schema: TableSchema
    train: Table
    test: Table


def load_adult() -> Data:
    """Return the official split."""
    study = load_toml(STUDY_FILE)
    schema = parse_study(study, source=STUDY_FILE).data
    real = Real.load(SHARED / "adult", schema)
    return Data(study, schema, real.train, real.test)


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
    parts = frame.iloc[:30_000], frame.iloc[30_000:50_000]
    return Data(
        study,
        schema,
        *(
            check_table(pa.Table.from_pandas(part), schema, source="diabetes130", patient_id=None)
            for part in parts
        ),
    )


TABLES = {"adult": load_adult, "diabetes130": load_diabetes130}
