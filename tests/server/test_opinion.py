"""``pratique audit`` and ``pratique evaluate`` on files, through the public command."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pratique_common import console
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_privacy.audits import AUDITS
from pratique_privacy.gate import SPLIT
from pratique_privacy.local_audits import LOCAL_AUDITS
from pratique_server.cli import app
from tests.pages import assert_accessible

PATIENTS = {"harbour": 6_000, "northgate": 20, "lakeside": 20}
MEMBERS, HOLDOUT = 3_200, 800


@dataclass
class Opinion:
    """What one call of ``pratique audit`` left behind."""

    exit_code: int
    printed: str
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "report.json").read_text()))

    @property
    def page(self) -> str:
        return (self.out / "report.html").read_text(encoding="utf-8")

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", self.page)))


def invoke(*args: str | Path) -> tuple[int, str]:
    """Run a command that meets no error; return its exit code and what it prints."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.stdout


def arguments(files: dict[str, Path], out: Path, study: Path | None = None) -> list[str]:
    roles = [f"--{role}={files[role]}" for role in ("synthetic", "members", "holdout")]
    return ["audit", str(study or study_path()), *roles, f"--out={out}"]


def audit(files: dict[str, Path], out: Path, study: Path | None = None) -> Opinion:
    exit_code, printed = invoke(*arguments(files, out, study))
    return Opinion(exit_code, printed, out)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def copier(honest: pd.DataFrame, members: pd.DataFrame, share: float) -> pd.DataFrame:
    """Replace a share of honest rows by rows of members."""
    copies = members[honest.columns].sample(round(share * len(honest)), random_state=1)
    return pd.concat([copies, honest.iloc[len(copies) :]]).sample(frac=1, random_state=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantom patients of one hospital, split at random, and two synthetic tables."""
    folder = tmp_path_factory.mktemp("files")
    whole = read(write_cohort(folder, seed=11, num_patients=PATIENTS)["harbour"])
    patients = np.random.default_rng(5).permutation(whole["patient"].unique())
    members, holdout, other = (
        whole[whole["patient"].isin(part)]
        for part in np.split(patients, [MEMBERS, MEMBERS + HOLDOUT])
    )
    honest = other.drop(columns="patient")
    tables = {
        "members": members,
        "holdout": holdout,
        "honest": honest,
        "copier": copier(honest, members, 0.05),
        "few": members.groupby("patient").head(1).head(30),
        "train": members.head(2_000),
    }
    paths = {name: folder / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], index=False)
    return paths


@pytest.fixture(scope="module")
def refused(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Opinion:
    return audit(files | {"synthetic": files["copier"]}, tmp_path_factory.mktemp("copier") / "out")


@pytest.fixture(scope="module")
def granted(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Opinion:
    return audit(files | {"synthetic": files["honest"]}, tmp_path_factory.mktemp("honest") / "out")


def test_a_copier_is_refused(refused: Opinion) -> None:
    assert refused.exit_code == 3
    assert "FAILED THE AUDIT" in refused.printed and "not a release" in refused.printed
    assert refused.report["decision"] == "refused"
    assert refused.report["audits"]["EXACT"]["p_adjusted"] < 1e-6
    assert {rule["tier"] for rule in refused.report["reasons"]} == {2, 3}
    assert "✗ FAILED" in refused.text and "This is a sign of memorisation" in refused.text
    assert "Do not pass this table on" in refused.text


def test_rows_of_other_patients_pass(granted: Opinion) -> None:
    assert granted.exit_code == 0
    assert all(rule["passed"] for rule in granted.report["reasons"])
    assert "✓ PASSED THE AUDIT" in granted.text
    assert "What can be done" not in granted.text


def test_too_few_patients_do_not_decide(files: dict[str, Path], tmp_path: Path) -> None:
    few = read(files["members"])
    few[few["patient"].isin(few["patient"].unique()[:12])].to_csv(tmp_path / "m.csv", index=False)
    few = read(files["holdout"])
    few[few["patient"].isin(few["patient"].unique()[:3])].to_csv(tmp_path / "h.csv", index=False)
    read(files["honest"]).head(20).to_csv(tmp_path / "s.csv", index=False)
    tiny = {"synthetic": "s.csv", "members": "m.csv", "holdout": "h.csv"}
    opinion = audit({role: tmp_path / name for role, name in tiny.items()}, tmp_path / "out")
    assert opinion.exit_code == 4
    assert opinion.report["patients"] == {"members": 12, "holdout": 3}
    assert "? NOT ENOUGH DATA TO DECIDE" in opinion.text
    assert "This is not proof of a leak" in opinion.text
    assert "sign of memorisation" not in opinion.text.replace(
        "No sign of memorisation was shown", ""
    ).replace("no sign of memorisation (adjusted", "")


def test_report_names_files_groups_and_every_attack(
    refused: Opinion, files: dict[str, Path]
) -> None:
    report = refused.report
    assert (report["kind"], report["report_version"], report["unit"]) == ("opinion", 1, "patient")
    assert report["patients"] == {"members": MEMBERS, "holdout": HOLDOUT}
    for role, name in (("synthetic", "copier"), ("members", "members"), ("holdout", "holdout")):
        digest = hashlib.sha256(files[name].read_bytes()).hexdigest()
        assert report["files"][role] == {"name": f"{name}.csv", "sha256": digest}
        assert digest in refused.page and f"{name}.csv" in refused.page
    assert report["candidate_sha256"] == report["files"]["synthetic"]["sha256"]
    assert set(report["audits"]) == set(AUDITS)
    for audit_found in report["audits"].values():
        low, high = audit_found["interval"]
        assert low <= audit_found["statistic"] <= high and audit_found["confidence"] == 0.95
    assert [found["id"] for found in report["local_audits"]] == list(LOCAL_AUDITS)
    assert report["descriptive_note"].startswith("Descriptive only")
    assert not {"privacy", "evidence", "signatures"} & set(report)


def test_page_says_what_a_reader_must_know(refused: Opinion, granted: Opinion) -> None:
    for needed in (
        "OPINION ON FILES, NOT A RELEASE: integrity (tier 0) is not applicable, nothing was signed",
        "SIMULATED DATA",
        "Keep this page where the records are",
        "3,200 patients",
        "800 patients",
        "The split must be random by patient",
        "What this audit cannot see",
        "Descriptive only, no rule uses them: where 5 % of a table were copied",
        "Synthetic rows closest to a member (DCR)",
        "Nearest-neighbour distance ratio (median) (NNDR)",
        "pratique audit STUDY.toml --synthetic copier.csv --members members.csv",
        f"pratique {refused.report['version']}",
    ):
        assert needed in refused.text, needed
    exact = refused.report["audits"]["EXACT"]
    low, high = (f"{100 * bound:.2f}\u00a0%" for bound in exact["interval"])
    assert f"[{low}, {high}]" in refused.page and f"{100 * exact['members']:.2f}" in refused.page
    limits = [found["limit_of_detection"] for found in granted.report["audits"].values()]
    assert f"{max(filter(None, limits))} patients copied into the table" in granted.text
    assert re.findall(r"<h2>(\d+)\.", refused.page) == [str(i) for i in range(1, 8)]
    front = granted.page[: granted.page.index('<div class="sections"')]
    assert not re.search("[\u0370-\u03ff]", front), "a Greek letter on page one"


def test_page_runs_and_loads_nothing(refused: Opinion, granted: Opinion) -> None:
    for page in (refused.page, granted.page):
        assert "<script" not in page.lower() and "javascript:" not in page.lower()
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', page))
        assert not re.search(r"\bsrc\s*=|\bhref=.(?!#)|https?:|url\(|@import|<link", page)
        assert_accessible(page)
        assert not re.search(r"\banonymous\b", page, re.IGNORECASE)
        assert "@media print" in page and "@page" in page
        assert len(page.encode()) < 100_000


def test_page_escapes_names_and_quotes_the_command(
    files: dict[str, Path], tmp_path: Path, granted: Opinion
) -> None:
    from pratique_server.report.opinion_page import render_opinion

    report = granted.report | {"study": "<script>", "simulated": False, "unit": "row"}
    report["files"]["synthetic"]["name"] = "<b>my table</b>.csv"
    page = render_opinion(report)
    assert "<script>" not in page and "<b>my" not in page
    assert "&#39;&lt;b&gt;my table&lt;/b&gt;.csv&#39;" in page
    assert "SIMULATED" not in page and "exact results about real patients" in page
    assert "The study names no patient id" in page


def test_rows_left_out_of_the_audit_do_not_pass(files: dict[str, Path], tmp_path: Path) -> None:
    table = read(files["honest"])
    table.loc[table.index[0], "sex"] = "unheard of"
    table["shoe [size]"] = 41
    table.to_csv(tmp_path / "s.csv", index=False)
    opinion = audit(files | {"synthetic": tmp_path / "s.csv"}, tmp_path / "out")
    assert opinion.report["rows_outside_domain"]["synthetic"] == 1
    assert opinion.report["synthetic_rows"] == len(table) - 1
    assert opinion.exit_code == 4
    assert "every row and column of the file was audited" in opinion.printed
    assert "not seen  shoe [size]: no columns of the study" in opinion.printed
    assert "rows outside the study's domain or rules: 1" in opinion.printed
    assert "1 row of the synthetic table was not audited" in opinion.text
    assert "unheard of" not in opinion.page


def test_fresh_ids_are_no_column_left_out(files: dict[str, Path], tmp_path: Path) -> None:
    text = study_path().read_text("utf-8")
    fresh = '[[data.ids]]\nname = "case"\nprefix = "C"\n\n[[data.columns]]'
    (tmp_path / "study.toml").write_text(text.replace("[[data.columns]]", fresh, 1), "utf-8")
    table = read(files["honest"])
    table["case"] = [f"C{row}" for row in range(len(table))]
    table.to_csv(tmp_path / "s.csv", index=False)
    opinion = audit(
        files | {"synthetic": tmp_path / "s.csv"}, tmp_path / "out", tmp_path / "study.toml"
    )
    assert opinion.report["columns_left_out"] == []


def test_columns_left_out_of_the_audit_do_not_pass(files: dict[str, Path], tmp_path: Path) -> None:
    table = read(files["honest"])
    table["family name"] = "Unheard-of"
    table.to_csv(tmp_path / "s.csv", index=False)
    opinion = audit(files | {"synthetic": tmp_path / "s.csv"}, tmp_path / "out")
    assert opinion.report["columns_left_out"] == ["family name"]
    assert opinion.exit_code == 4
    assert "columns that the study does not name: family name" in opinion.text
    assert "Remove what was left out from the table" in opinion.text
    assert "sharpen the audit" not in opinion.text
    assert "Unheard-of" not in opinion.page


def test_a_holdout_that_the_table_has_met_does_not_pass(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """Members' records stand in the hold-out under other ids: a leak then hides behind them."""
    members, honest = read(files["members"]), read(files["honest"])
    leaked = copier(honest, members.head(900), 0.02)
    leaked.to_csv(tmp_path / "s.csv", index=False)
    again = members.head(900).assign(patient=lambda frame: "again-" + frame["patient"])
    pd.concat([read(files["holdout"]), again]).to_csv(tmp_path / "h.csv", index=False)
    met = {"synthetic": tmp_path / "s.csv", "holdout": tmp_path / "h.csv"}
    opinion = audit(files | met, tmp_path / "out")
    failed = [rule["rule"] for rule in opinion.report["reasons"] if not rule["passed"]]
    assert SPLIT in failed
    assert opinion.exit_code == 4
    assert "the table has met the comparison group" in opinion.text
    assert "make another table from a new random split" in opinion.text


def _error(capsys: pytest.CaptureFixture[str], args: list[str]) -> tuple[int, str]:
    """Run a command as the entry point does; return its exit code and its message."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["pratique", *args])
        console.run(app)
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_patient_in_both_files_is_wrong_use(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = pd.concat([read(files["holdout"]), read(files["few"]).head(1)])
    both.to_csv(tmp_path / "both.csv", index=False)
    wrong = files | {"synthetic": files["honest"], "holdout": tmp_path / "both.csv"}
    exit_code, message = _error(capsys, arguments(wrong, tmp_path / "out"))
    assert exit_code == 2
    assert "both.csv: column 'patient'" in message and "harbour-0" not in message
    assert not (tmp_path / "out").exists()


def test_a_wrong_column_is_named(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(files["honest"]).rename(columns={"age": "Age"}).to_csv(tmp_path / "s.csv", index=False)
    wrong = files | {"synthetic": tmp_path / "s.csv"}
    exit_code, message = _error(capsys, arguments(wrong, tmp_path / "out"))
    assert exit_code == 2
    assert "s.csv: column 'age': missing" in message


def test_two_synthetic_rows_are_not_enough(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(files["honest"]).head(2).to_csv(tmp_path / "s.csv", index=False)
    wrong = files | {"synthetic": tmp_path / "s.csv"}
    exit_code, message = _error(capsys, arguments(wrong, tmp_path / "out"))
    assert exit_code == 4 and "too few for an audit" in message


def test_an_older_report_is_replaced_by_force_only(files: dict[str, Path], tmp_path: Path) -> None:
    few = files | {"synthetic": files["honest"], "members": files["few"]}
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("older")
    command = [sys.executable, "-m", "pratique_server.cli", *arguments(few, out)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert "--force" in done.stderr and "Traceback" not in done.stderr
    assert (out / "report.json").read_text() == "older"
    exit_code, printed = invoke(*arguments(few, out), "--force", "--json")
    report = json.loads(printed)
    assert report == json.loads((out / "report.json").read_text())
    assert exit_code == {"granted": 0, "refused": 3, "not_enough_data": 4}[report["decision"]]


def test_ties_do_not_prefer_a_group(files: dict[str, Path], tmp_path: Path) -> None:
    """Every patient ties with many of both groups: the nearest record must not betray its file."""
    rng = np.random.default_rng(3)
    kinds = read(files["honest"]).head(60)
    tables = {}
    for role, size in (("members", 800), ("holdout", 200), ("synthetic", 600)):
        table = kinds.iloc[rng.integers(0, len(kinds), size)]
        if role == "synthetic":  # near is only defined among rows that differ
            table = pd.concat([table, read(files["honest"]).tail(60)])
        tables[role] = tmp_path / f"{role}.csv"
        table.assign(patient=[f"{role}-{i}" for i in range(len(table))]).to_csv(
            tables[role], index=False
        )
    found = audit(tables, tmp_path / "out").report["local_audits"]
    dcr = next(each for each in found if each["id"] == "DCR")
    assert 0.6 < dcr["members"] < 0.95 and 0.01 < dcr["p_value"] < 0.99
