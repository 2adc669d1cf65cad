"""A draft from the hospital's own records: said to be one, kept apart, resting on no few rows."""

import tomllib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pratique_client.cli import app
from pratique_client.drafting import LEAST_ROWS
from pratique_common.study import TO_BE_WRITTEN, parse_study_text
from tests.client.phantoms import rows, site_of, write_files
from tests.client.test_sources import SOURCES, write_sqlite

ARGUMENTS = ["--name", "heart-2026", "--expected-patients", "10000"]


def draft(folder: Path, source: str, *more: str) -> tuple[str, str]:
    """Return the draft and what was said."""
    table = rows()
    rare = table.slice(0, 3).set_column(1, "age", pa.array([107, 108, 109]))
    rare = rare.set_column(0, "patient", pa.array(["p-000"] * 3))
    rare = rare.set_column(table.column_names.index("ward"), "ward", pa.array(["RARE-WARD"] * 3))
    write_files(folder, pa.concat_tables([table, rare]))
    write_sqlite(folder)
    site, out = site_of(folder / "site", source), folder / "draft.toml"
    result = CliRunner().invoke(app, ["draft", str(site.folder), *ARGUMENTS, "--out", str(out),
                                      *more])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert out.stat().st_mode & 0o077 == 0
    return out.read_text(), result.output


@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_draft_says_what_it_is_and_is_no_study_yet(tmp_path: Path, kind: str) -> None:
    text, said = draft(tmp_path, SOURCES[kind], "--target", "alive")
    for written in (text, said):
        assert "DERIVED FROM PATIENTS' RECORDS" in written
    assert tomllib.loads(text)["disclosure"]["purpose"] == TO_BE_WRITTEN
    with pytest.raises(Exception, match="still to be written"):
        parse_study_text(text, source=tmp_path)
    study = parse_study_text(text.replace(TO_BE_WRITTEN, "x"), source=tmp_path)
    assert study.data.patient_id == "patient"
    assert study.data.target == "alive"
    assert {"age", "marker", "sex", "ward", "seen", "at"} <= set(study.data.names)


def test_no_limit_and_no_level_rests_on_few_rows(tmp_path: Path) -> None:
    text, _ = draft(tmp_path, SOURCES["csv"])
    study = parse_study_text(text.replace(TO_BE_WRITTEN, "x"), source=tmp_path)
    assert "RARE-WARD" not in text
    assert "# Left out, too few values alike: nothing" in text
    ages = sorted([*rows()["age"].to_pylist(), 107, 108, 109])
    age, ward = study.data.column("age"), study.data.column("ward")
    assert age.upper < 107 and age.upper == ages[-LEAST_ROWS]  # type: ignore[union-attr]
    assert ward.other  # type: ignore[union-attr]
    # One to three visits a patient: as many as the patient with the tenth most of them has.
    counts = sorted(Counter([*rows()["patient"].to_pylist(), *["p-000"] * 3]).values())
    assert study.data.max_rows_per_patient == counts[-LEAST_ROWS]


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    table = rows().slice(0, 40)
    unlike = pa.array([f"note {n}" for n in range(36)] + ["a"] * 4)
    write_files(tmp_path, table.append_column("note", unlike))
    site, out = site_of(tmp_path / "site", SOURCES["csv"]), tmp_path / "draft.toml"
    result = CliRunner().invoke(app, ["draft", str(site.folder), *ARGUMENTS, "--out", str(out)])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in out.read_text().splitlines() if line.startswith("# Left out")]
    assert "note" in line and "age" not in line
    assert "note" not in tomllib.loads(out.read_text())["data"]


def test_a_draft_replaces_no_file(tmp_path: Path) -> None:
    write_files(tmp_path, rows())
    site, out = site_of(tmp_path / "site", SOURCES["csv"]), tmp_path / "draft.toml"
    out.write_text("mine")
    result = CliRunner().invoke(app, ["draft", str(site.folder), *ARGUMENTS, "--out", str(out)])
    assert result.exit_code != 0
    assert out.read_text() == "mine"
