"""Acceptance on real records: ``pratique audit`` of two tables of Diabetes-130."""

from pathlib import Path

import numpy as np

from tests.server.test_opinion import audit, copier, read
from tests.studies import diabetes130

STUDY = Path(diabetes130.__file__).with_name("diabetes-130.toml")


def test_acceptance_on_diabetes_130(shared_data: Path, tmp_path: Path) -> None:
    """Real encounters: 5 % copies among other patients' rows fail, other patients' rows pass."""
    frame = diabetes130.load(shared_data / "diabetes130")
    diabetes130.cut(frame, tmp_path, num_patients=7_500)
    train, other = read(tmp_path / "train.csv"), read(tmp_path / "other.csv")
    patients = train["patient"].unique()
    held_out = np.random.default_rng(2).choice(patients, len(patients) // 5, replace=False)
    is_held_out = train["patient"].isin(held_out)
    members = train[~is_held_out]
    honest = other[diabetes130.COLUMNS].sample(7_000, random_state=3)
    tables = {
        "members": members,
        "holdout": train[is_held_out],
        "honest": honest,
        "copier": copier(honest, members, 0.05),
    }
    paths = {name: tmp_path / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], index=False)
    bad = audit(paths | {"synthetic": paths["copier"]}, tmp_path / "bad", STUDY)
    good = audit(paths | {"synthetic": paths["honest"]}, tmp_path / "good", STUDY)
    assert (bad.exit_code, good.exit_code) == (3, 0)
    assert bad.report["patients"] == {"members": 6_000, "holdout": 1_500}
    for name in ("EXACT", "NEAR", "LINK"):
        assert bad.report["audits"][name]["p_adjusted"] < 1e-3
    assert "SIMULATED" not in bad.page
    dcr = next(each for each in bad.report["local_audits"] if each["id"] == "DCR")
    assert dcr["members"] - dcr["controls"] < 0.04  # why it is descriptive: it hardly moves
