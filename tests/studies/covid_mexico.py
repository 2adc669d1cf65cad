"""Ten states as sites, and a test table, from the Mexican COVID-19 cases of 13 May 2020.

    python -m tests.studies.covid_mexico DATA_FOLDER OUT_FOLDER

The states with the most cases are sites; two tenths of their cases are the test table. Structural
gaps of the set ("not_applicable", no death) are conditions of the study.
"""

import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

NUM_SITES = 10
TEST_SHARE = 0.2
_DAY_ZERO = date(2020, 1, 1)


def load(folder: Path) -> pd.DataFrame:
    """Return the cases of the ten largest states with the study's columns."""
    frame = pd.read_csv(folder / "covid_mexico_20200513.csv.gz", dtype=str, keep_default_na=False)
    states = frame["site_state"].value_counts().index[:NUM_SITES]
    frame = frame[frame["site_state"].isin(states)]
    onset = [(_DAY_ZERO + timedelta(days=int(day))).isoformat() for day in frame["symptom_day"]]
    return frame.drop(columns="symptom_day").assign(onset=onset)


def cut(frame: pd.DataFrame, out: Path) -> list[str]:
    """Write a CSV a state, ``train.csv``, their union, and ``test.csv``; return the states."""
    out.mkdir(parents=True, exist_ok=True)
    tested = np.random.default_rng(19).random(len(frame)) < TEST_SHARE
    frame[tested].to_csv(out / "test.csv", index=False)
    frame[~tested].to_csv(out / "train.csv", index=False)
    states = sorted(frame["site_state"].unique())
    for state in states:
        here = frame[~tested & (frame["site_state"] == state)]
        here.to_csv(out / f"{state.lower()}.csv", index=False)
    return states


if __name__ == "__main__":
    cut(load(Path(sys.argv[1])), Path(sys.argv[2]))
