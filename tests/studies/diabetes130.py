"""Three hospitals of whole patients, and tables to audit and evaluate, from Diabetes-130.

    python -m tests.studies.diabetes130 DATA_FOLDER OUT_FOLDER

The set (Strack et al. 2014, UCI 296) names no hospital: patients are sorted by a noisy mix of
medication and laboratory counts and cut, so that the three differ. ICD-9 codes are rolled up to
chapters by the public mapping of Strack et al., table 2.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

NUM_PATIENTS = 30_000
NUM_TEST_PATIENTS = 20_000
NUM_OTHER_PATIENTS = 15_000
HOSPITAL_SHARES = {"east": 0.45, "north": 0.33, "west": 0.22}

COLUMNS = [
    "race",
    "gender",
    "age",
    "admission_type_id",
    "discharge_disposition_id",
    "admission_source_id",
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "diag_1",
    "diag_2",
    "diag_3",
    "number_diagnoses",
    "max_glu_serum",
    "A1Cresult",
    "metformin",
    "glipizide",
    "glyburide",
    "pioglitazone",
    "insulin",
    "change",
    "diabetesMed",
    "readmitted",
]

_CHAPTERS = (
    (390, 460, "circulatory"), (785, 786, "circulatory"), (460, 520, "respiratory"),
    (786, 787, "respiratory"), (520, 580, "digestive"), (787, 788, "digestive"),
    (800, 1000, "injury"), (710, 740, "musculoskeletal"), (580, 630, "genitourinary"),
    (788, 789, "genitourinary"), (140, 240, "neoplasms"),
)  # fmt: skip


def icd9_chapter(code: str) -> str:
    """Return the chapter of an ICD-9 code; missing stays missing."""
    if code in ("", "?", "nan"):
        return ""
    if code[0] in "EV":
        return "supplementary"
    number = float(code)
    if int(number) == 250:
        return "diabetes"
    return next((name for low, high, name in _CHAPTERS if low <= number < high), "other")


def load(folder: Path) -> pd.DataFrame:
    """Return all encounters with the study's columns, in order of time."""
    frame = pd.read_csv(folder / "diabetes130_clean.csv.gz", dtype=str, keep_default_na=False)
    frame = frame.sort_values("encounter_id", key=lambda ids: ids.astype(int))
    for name in ("diag_1", "diag_2", "diag_3"):
        frame[name] = frame[name].map(icd9_chapter)
    frame["readmitted"] = np.where(frame["readmitted"] == "NO", "no", "yes")
    frame = frame[frame["gender"].isin(["Male", "Female"])]
    names = {"patient_nbr": "patient", "encounter_id": "encounter"}
    return frame[[*names, *COLUMNS]].rename(columns=names)


def visits_study() -> str:
    """Return the study of all encounters, up to 40 a patient, in the order of time."""
    text = Path(__file__).with_name("diabetes-130.toml").read_text(encoding="utf-8")
    text = text.replace('name = "diabetes-130"', 'name = "diabetes-130-visits"', 1)
    text = text.replace("max_rows_per_patient = 3", "max_rows_per_patient = 40", 1)
    return text + '\n[data.visits]\norder_by = "encounter"\nfixed = ["race", "gender"]\n'


def cut(frame: pd.DataFrame, out: Path, *, num_patients: int = NUM_PATIENTS) -> None:
    """Write hospitals, their union, a test table and a table of yet other patients as CSV."""
    rng = np.random.default_rng(130)
    patients = rng.permutation(frame["patient"].unique())
    ends = np.cumsum([num_patients, NUM_TEST_PATIENTS, NUM_OTHER_PATIENTS])
    trained, test, other = (set(part) for part in np.split(patients, ends)[:3])
    out.mkdir(parents=True, exist_ok=True)
    train = frame[frame["patient"].isin(trained)]
    train.to_csv(out / "train.csv", index=False)
    frame[frame["patient"].isin(test)].to_csv(out / "test.csv", index=False)
    frame[frame["patient"].isin(other)].to_csv(out / "other.csv", index=False)
    first = train.drop_duplicates("patient").set_index("patient")
    mix = sum(
        (values - values.mean()) / values.std()
        for values in (first[n].astype(float) for n in ("num_lab_procedures", "num_medications"))
    )
    order = (mix + rng.normal(0, 0.5, len(first))).sort_values().index.to_numpy()
    cuts = (np.cumsum(list(HOSPITAL_SHARES.values())) * len(order)).round().astype(int)
    for name, part in zip(HOSPITAL_SHARES, np.split(order, cuts)[:3], strict=True):
        train[train["patient"].isin(set(part))].to_csv(out / f"{name}.csv", index=False)


if __name__ == "__main__":
    cut(load(Path(sys.argv[1])), Path(sys.argv[2]))
