"""``pratique study draft`` through the public command."""

import datetime
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pratique_common.binned_columns import DateColumn, NumericColumn
from pratique_common.columns import CategoricalColumn
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import TO_BE_WRITTEN, StudySpec, load_study, parse_study_text
from pratique_common.tables import read_table
from tests.server.test_opinion import invoke

DICTIONARY = """\
name,type,lower,upper,first,last,unit,categories,codes,ordered,missing,asked_if
age,integer,18,110,,,years,,,,no,
sex,categorical,,,,,,female|male,,,,
pregnant,categorical,,,,,,no|yes,,,,sex == 'female'
stage,categorical,,,,,,I|II|III,,yes,yes,
admitted,date,,,2020-01-01,2020-12-31,,,,,,
diagnosis,categorical,,,,,,,icd10,,,
crp,numeric,0,500,,,mg/l,,,,yes,
"""


def _draft(out: Path, *arguments: str | Path) -> str:
    exit_code, printed = invoke(
        "study", "draft", "--name", "drafted", "--expected-patients", "5000", "--out", out,
        *arguments,
    )  # fmt: skip
    assert exit_code == 0
    assert "study check" in printed
    return out.read_text(encoding="utf-8")


def _completed(text: str) -> StudySpec:
    return parse_study_text(text.replace(TO_BE_WRITTEN, "written"), source="draft")


def test_a_dictionary_becomes_a_study(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(DICTIONARY)
    text = _draft(tmp_path / "study.toml", "--dictionary", source, "--target", "stage")
    schema = _completed(text).data
    assert schema.target == "stage"
    age, pregnant, admitted = (schema.column(n) for n in ("age", "pregnant", "admitted"))
    assert isinstance(age, NumericColumn) and age.integer and age.unit == "years"
    assert pregnant.asked_if == "sex == 'female'" and not age.missing
    assert isinstance(admitted, DateColumn) and admitted.last == datetime.date(2020, 12, 31)
    stage, diagnosis = schema.column("stage"), schema.column("diagnosis")
    assert isinstance(stage, CategoricalColumn) and stage.ordered and stage.missing
    assert isinstance(diagnosis, CategoricalColumn) and "I00-I99" in diagnosis.categories


def test_a_draft_is_no_study_before_somebody_wrote_what_it_is_for(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(DICTIONARY)
    out = tmp_path / "study.toml"
    _draft(out, "--dictionary", source)
    with pytest.raises(InvalidFileError, match="still to be written"):
        load_study(out)
    with pytest.raises(UsageError, match="exists"):
        _draft(out, "--dictionary", source)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("age,integer,110,18,,,,,,,,", "line 2: lower must be below upper"),
        ("age,integer,old,110,,,,,,,,", "line 2: could not convert"),
        ("sex,categorical,,,,,,,,,,", "line 2: categories: list at least one"),
        ("day,date,,,1.1.2020,2020-12-31,,,,,,", "line 2: Invalid isoformat"),
        ("sex,categorical,,,,,,a|b,,maybe,,", "line 2: ordered: write yes or no"),
        ("sex,categorical,,,,,,a,b,c,d,e,f", "line 2: more cells than columns"),
        ("age,integer,18,,,,,,,,,", "line 2: "),
        ("x,picture,,,,,,,,,,", "line 2: type: input tag 'picture'"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(DICTIONARY.splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(InvalidFileError) as caught:
        _draft(tmp_path / "study.toml", "--dictionary", source)
    assert words in str(caught.value)
    assert not (tmp_path / "study.toml").exists()


@pytest.mark.parametrize("name", ["columns.xlsx", "nothing.csv"])
def test_a_dictionary_is_a_csv_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "columns.xlsx").write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(InvalidFileError, match="no CSV file"):
        _draft(tmp_path / "study.toml", "--dictionary", tmp_path / name)


def test_a_dictionary_in_another_encoding(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_bytes(DICTIONARY.encode("utf-8") + b"\xff,categorical\n")
    with pytest.raises(InvalidFileError, match="UTF-8"):
        _draft(tmp_path / "study.toml", "--dictionary", source)


def test_tables_with_strange_cells_give_studies_that_load(tmp_path: Path) -> None:
    """Infinite numbers, one day only, levels that say 'other', an empty column, nobody."""
    size = 300
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "patient_id": [f"p{i // 2}" if i > 9 else "" for i in range(size)],
            "lab": [*rng.normal(5, 1, size - 2).round(2).astype(str), "inf", "1e300"],
            "day": "2020-01-01",
            "site": [*(f"s{i % 60}" for i in range(size - 30)), *(30 * ["other"])],
            "void": "",
            "sex": rng.choice(["f", "m"], size),
        }
    )
    source = tmp_path / "table.csv"
    frame.to_csv(source, index=False)
    found = _completed(_draft(tmp_path / "study.toml", "--public-table", source))
    assert found.data.names == ("lab", "day", "site", "sex")
    assert found.data.max_rows_per_patient == 2  # and not ten, the rows of nobody known
    site = found.data.column("site")
    assert isinstance(site, CategoricalColumn) and site.other and "other" not in site.categories
    frame[["sex"]].to_csv(source, index=False)
    with pytest.raises(InvalidFileError, match="fewer than two usable columns"):
        _draft(tmp_path / "other.toml", "--public-table", source)


def test_a_public_table_becomes_a_study_that_accepts_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = 400
    frame = pd.DataFrame(
        {
            "case_no": [f"X{i:05d}" for i in range(size)],
            "patient": [f"p{i // 2}" for i in range(size)],
            "age": rng.integers(20, 90, size),
            "cost": np.exp(rng.normal(4, 2, size)).round(2),
            "sex": rng.choice(["f", "m"], size),
            "city": rng.choice([f"city {i}" for i in range(80)], size),
            "admitted": pd.date_range("2021-03-01", periods=300)[rng.integers(0, 300, size)],
            "lab": np.where(rng.random(size) < 0.2, np.nan, rng.normal(5, 1, size).round(1)),
            "empty": "",
        }
    )
    source = tmp_path / "public.csv"
    frame.to_csv(source, index=False)
    study = _completed(_draft(tmp_path / "study.toml", "--public-table", source))
    schema = study.data
    assert schema.patient_id == "patient" and schema.max_rows_per_patient == 2
    assert [each.name for each in schema.ids] == ["case_no"]
    assert schema.names == ("age", "cost", "sex", "city", "admitted", "lab")
    cost, city = schema.column("cost"), schema.column("city")
    assert isinstance(cost, NumericColumn) and cost.spacing == "log"
    assert isinstance(city, CategoricalColumn) and city.other and len(city.categories) == 50
    assert isinstance(schema.column("admitted"), DateColumn)
    assert schema.column("lab").missing and not schema.column("age").missing
    assert read_table(source, schema).num_dropped == 0


def test_the_demos_own_table_is_drafted_much_like_its_study(tmp_path: Path) -> None:
    source = write_cohort(
        tmp_path, seed=3, num_patients={"harbour": 800, "northgate": 1, "lakeside": 1}
    )
    drafted = _completed(
        _draft(
            tmp_path / "study.toml", "--public-table", source["harbour"], "--target", "cvd_event"
        )
    ).data
    real = load_study(study_path()).data
    assert set(drafted.names) == set(real.names)
    assert drafted.patient_id == real.patient_id
    for column in real.columns:
        found = drafted.column(column.name)
        assert isinstance(found, CategoricalColumn) == isinstance(column, CategoricalColumn)
    read_table(source["harbour"], drafted)


def test_one_source_and_a_target_of_it(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(DICTIONARY)
    with pytest.raises(UsageError, match="either"):
        _draft(tmp_path / "study.toml")
    with pytest.raises(UsageError, match="--target: 'x'"):
        _draft(tmp_path / "study.toml", "--dictionary", source, "--target", "x")
    text = _draft(tmp_path / "study.toml", "--dictionary", source)
    assert tomllib.loads(text)["privacy"]["expected_patients"] == 5000
