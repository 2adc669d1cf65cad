"""SMOTE and its kin: for a hospital's own use. The audit catches every one of them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pratique_client.resampling import REPEATING, resample
from pratique_common.errors import InvalidFileError, NotEnoughDataError, UsageError
from pratique_common.generators import LOCAL_ONLY
from pratique_common.generators.build import build_generator
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.schema import TableSchema
from pratique_common.study import load_study
from pratique_common.tables import check_table, read_table
from tests.client.test_commands import client, failed
from tests.conftest import small_study
from tests.server.test_opinion import audit, read
from tests.sites import invite

MEMBERS, HOLDOUT = 1_600, 400


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cardiology study without rules, which lines between patients break."""
    text = study_path().read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(re.sub(r"\[\[data\.rules\]\].*?(?=\n\[)", "", text, flags=re.DOTALL))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    sizes = {"harbour": MEMBERS + HOLDOUT, "northgate": 20, "lakeside": 20}
    whole = read(write_cohort(folder, seed=12, num_patients=sizes)["harbour"])
    patients = np.random.default_rng(5).permutation(whole["patient"].unique())
    paths = {}
    for name, part in zip(("members", "holdout"), np.split(patients, [MEMBERS]), strict=True):
        paths[name] = folder / f"{name}.csv"
        whole[whole["patient"].isin(part)].to_csv(paths[name], index=False)
    return paths


def test_the_audit_of_an_honest_table_passes_here(
    study: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """The control: other patients' rows, of as many patients."""
    sizes = {"harbour": MEMBERS, "northgate": 20, "lakeside": 20}
    honest = read(write_cohort(tmp_path, seed=99, num_patients=sizes)["harbour"])
    path = tmp_path / "honest.csv"
    honest.drop(columns="patient").to_csv(path, index=False)
    opinion = audit(files | {"synthetic": path}, tmp_path / "out", study)
    assert opinion.exit_code in (0, 4)  # so few patients may leave bounds too wide
    assert all(found["p_adjusted"] >= 0.05 for found in opinion.report["audits"].values())


@pytest.mark.parametrize("method", LOCAL_ONLY)
def test_balanced_in_the_domain_and_caught(
    method: str, study: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    schema = load_study(study).data
    table = read_table(files["members"], schema)
    balanced = resample(table, schema, method, seed=1)
    assert resample(table, schema, method, seed=1).equals(balanced)
    checked = check_table(balanced, schema, source=method, patient_id=None)
    assert checked.num_dropped == 0
    outcome = pd.Series(balanced.column("cvd_event").to_pylist())
    before = pd.Series(table.columns["cvd_event"])
    assert before.value_counts(normalize=True).min() < 0.4
    assert outcome.value_counts(normalize=True).min() > 0.42
    path = tmp_path / "balanced.parquet"
    balanced.to_pandas().to_parquet(path)
    opinion = audit(files | {"synthetic": path}, tmp_path / "out", study)
    assert opinion.exit_code == 3
    assert opinion.report["audits"]["NEAR"]["p_adjusted"] < 1e-3


def test_smote_makes_new_rows_and_repeating_does_not(study: Path, files: dict[str, Path]) -> None:
    schema = load_study(study).data
    table = read_table(files["members"], schema)
    real = set(map(tuple, pd.DataFrame(table.columns).astype(str).to_numpy()))
    for method in LOCAL_ONLY:
        rows = resample(table, schema, method, seed=1).to_pandas().astype(object)
        as_read = check_table(
            resample(table, schema, method, seed=1), schema, source="rows", patient_id=None
        )
        made = list(map(tuple, pd.DataFrame(as_read.columns).astype(str).to_numpy()))
        new = sum(row not in real for row in made) / len(rows)
        assert (new == 0) == (method in REPEATING), method


@pytest.mark.parametrize("method", LOCAL_ONLY)
def test_no_study_can_ask_for_one(method: str) -> None:
    with pytest.raises(InvalidFileError, match="never released"):
        build_generator(small_study(generator={"name": method}))


def test_too_few_rows_and_no_target(files: dict[str, Path]) -> None:
    schema = load_study(study_path()).data
    table = read_table(files["members"], schema)
    untargeted = TableSchema.model_validate(
        schema.model_dump() | {"target": None, "target_positive": None}
    )
    with pytest.raises(UsageError, match="no target"):
        resample(table, untargeted, "smote", seed=0)
    event = table.columns["cvd_event"] == "yes"
    few = np.concatenate([np.flatnonzero(event)[:4], np.flatnonzero(~event)])
    table.columns.update({name: values[few] for name, values in table.columns.items()})
    with pytest.raises(NotEnoughDataError, match="more than 5 rows"):
        resample(table, schema, "smote", seed=0)


def test_one_outcome_alone_is_told(files: dict[str, Path]) -> None:
    schema = load_study(study_path()).data
    table = read_table(files["members"], schema)
    table.columns["cvd_event"][:] = "no"
    with pytest.raises(NotEnoughDataError, match="rows of two outcomes are needed"):
        resample(table, schema, "random_over", seed=0)


def test_the_command(tmp_path: Path, small_cohort: dict[str, Path]) -> None:
    site, out = tmp_path / "harbour", tmp_path / "balanced.csv"
    invitation = invite(tmp_path / "invitation.json", "harbour")
    client("init", invitation, "--folder", site, "--data", small_cohort["harbour"])
    command = ["resample", study_path(), "--site", site, "--out", out, "--method"]
    result = client(*command, "smote")
    assert result.returncode == 0, result.stderr
    assert "LOCAL ONLY" in result.stdout and "never be released" in result.stdout
    assert out.stat().st_mode & 0o077 == 0  # it holds patients' rows
    written = pd.read_csv(out)
    assert set(written) == set(load_study(study_path()).data.names)
    no, yes = (int((written["cvd_event"] == level).sum()) for level in ("no", "yes"))
    assert f"cvd_event {no:,} no, {yes:,} yes" in result.stdout.replace("\n", " ")
    failed(client(*command, "smote"), 2, "exists")
    failed(client(*command, "pairwise"), 2, "--method")
    visits = tmp_path / "visits.toml"
    visits.write_text(study_path().read_text() + '\n[data.visits]\norder_by = "age"\n')
    other = ["resample", visits, "--site", site, "--out", tmp_path / "v.csv", "--method", "smote"]
    failed(client(*other), 2, "visits")
