"""All encounters of real patients, up to 40 each: visits follow as the real ones do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.arithmetic import train

from pratique_common.study import parse_study_text
from pratique_common.tables import cap_rows, read_table
from tests.studies import diabetes130

pytestmark = pytest.mark.statistical


TOLERANCE = 0.06
FAINTER = {"same diagnosis": 0.12, "same age": 0.1}
"""Later visits weigh little in sums in which each patient counts once (ADR 7): .296 to .333 of
.380 and .888 to .900 of .949 in six runs."""


def _course(frame: pd.DataFrame) -> dict[str, float]:
    by_patient = frame.groupby("patient", sort=False)
    size, before = by_patient.size(), by_patient.shift(1)
    later = before["age"].notna()
    more = by_patient.shift(-1)["age"].notna()
    again = frame["readmitted"] == "yes"
    return {
        "visits": size.mean(),
        "one visit": (size == 1).mean(),
        "five or more": (size >= 5).mean(),
        "readmitted, first": again[~later].mean(),
        "readmitted, later": again[later].mean(),
        "more after readmission": more[again].mean(),
        "more after none": more[~again].mean(),
        "same diagnosis": (frame["diag_1"] == before["diag_1"])[later].mean(),
        "same age": (frame["age"] == before["age"])[later].mean(),
    }


def test_all_encounters_with_the_patient_as_the_unit(shared_data: Path, tmp_path: Path) -> None:
    diabetes130.cut(diabetes130.load(shared_data / "diabetes130"), tmp_path)
    study = parse_study_text(diabetes130.visits_study(), source="visits")
    sites = []
    for name in diabetes130.HOSPITAL_SHARES:
        table = cap_rows(read_table(tmp_path / f"{name}.csv", study.data), study.data)
        sites.append(table)
    assert study.data.max_rows_per_patient == 40
    derivation, _ = train(study, sites)
    synthetic: pd.DataFrame = derivation.sample()[0].to_pandas()
    real = pd.read_csv(tmp_path / "train.csv", dtype=str, keep_default_na=False)
    found, wanted = _course(synthetic), _course(real)
    for name, share in wanted.items():
        assert found[name] == pytest.approx(share, abs=FAINTER.get(name, TOLERANCE)), name
    assert wanted["readmitted, later"] - wanted["readmitted, first"] > 0.15
    by_patient = synthetic.groupby("patient", sort=False)
    assert by_patient["gender"].nunique().max() == 1
    off = synthetic["diabetesMed"] == "No"
    assert (synthetic.loc[off, ["insulin", "metformin"]] == "No").all().all()
    assert (synthetic.loc[off, "change"] == "No").all()
    independent = np.square(synthetic["diag_1"].value_counts(normalize=True)).sum()
    assert found["same diagnosis"] > independent + 0.1
