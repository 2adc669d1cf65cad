"""``pratique study draft`` through the public command."""

import csv
import datetime
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.binned_columns import NumericColumn
from pratique_common.columns import CategoricalColumn
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import TO_BE_WRITTEN, StudySpec, load_study, parse_study_text
from pratique_common.tables import read_table
from pratique_common.time_columns import DateColumn, TimeColumn
from pratique_server.drafting import draft_study
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
        ("age,integer,old,110,,,,,,,,", "line 2: lower: 'old' is no number"),
        ("sex,categorical,,,,,,,,,,", "line 2: categories: list at least one"),
        ("day,date,,,1.1.2020,2020-12-31,,,,,,", "line 2: first: '1.1.2020' is no date: write"),
        ("sex,categorical,,,,,,a|b,,maybe,,", "line 2: ordered: write yes or no"),
        ("sex,categorical,,,,,,a,b,c,d,e,f", "line 2: more cells than columns"),
        ("age,integer,18,,,,,,,,,", "line 2: "),
        ("\n\nage,integer,old,110,,,,,,,,", "line 4: lower: 'old' is no number"),
        ("sex,categorical,3,,,,,a|b,,,,", "line 2: lower: a categorical column has none"),
        (",categorical,,,,,,a|b,,,,", "line 2: name: it has none"),
        ("a,time,,,,,,,,,,\na,time,,,,,,,,,,", "line 3: 'a' stands in a line before, too"),
        ("age,numeric,a,b,,,,,,,,", "line 2: lower: 'a' is no number"),
        ("x,picture,,,,,,,,,,", "line 2: type: write numeric, integer, cat"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(DICTIONARY.splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(InvalidFileError) as caught:
        _draft(tmp_path / "study.toml", "--dictionary", source)
    assert words in str(caught.value)
    assert not (tmp_path / "study.toml").exists()


def test_a_dictionary_takes_the_fields_of_a_study(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_text(
        "name,type,edges,integer,missing,may_lack,missing_values,decimals\n"
        "chol,numeric,80|160|200.0|400,yes,yes,yes,|-9|NA,\n"
        "lab,numeric,0|0.5|2,no,,,,1\n"
    )
    schema = _completed(_draft(tmp_path / "study.toml", "--dictionary", source)).data
    chol, lab = schema.columns
    assert isinstance(chol, NumericColumn) and isinstance(lab, NumericColumn)
    assert chol.edges == (80, 160, 200, 400) and chol.integer and chol.may_lack
    assert chol.missing_values == ("", "-9", "NA")
    assert lab.edges == (0, 0.5, 2) and lab.decimals == 1 and not lab.integer


def test_a_field_stands_once_and_a_study_has_a_plain_name(tmp_path: Path) -> None:
    source = tmp_path / "columns.csv"
    source.write_text("name,type,lower,lower\nage,integer,1,2\n")
    with pytest.raises(InvalidFileError, match="column 'lower': stands twice"):
        _draft(tmp_path / "study.toml", "--dictionary", source)
    source.write_text(DICTIONARY)
    with pytest.raises(UsageError, match=r"^--name: 'My Study' must be small letters"):
        _draft(tmp_path / "study.toml", "--dictionary", source, "--name", "My Study")


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c\n", "there are no rows; export the table again"),
        (",b\n1,x\n2,y\n", "column number 1: it has no name; name it in the header"),
        ("a,a\n1,x\n", "column 'a': stands twice"),
    ],
)
def test_odd_tables_are_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    source = tmp_path / "table.csv"
    source.write_text(text)
    with pytest.raises(InvalidFileError) as caught:  # which ends with exit code 2
        _draft(tmp_path / "study.toml", "--public-table", source)
    assert caught.value.exit_code == 2
    assert words in str(caught.value)


def test_a_header_cell_of_two_lines_is_a_name(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    source.write_text('"blood\npressure",sex\n' + "120,f\n130,m\n" * 30)
    text = _draft(tmp_path / "study.toml", "--public-table", source)
    schema = _completed(text).data
    assert schema.names == ("blood\npressure", "sex")
    assert read_table(source, schema).num_dropped == 0


def _drafted_of(tmp_path: Path, **columns: object) -> tuple[StudySpec, dict[str, str]]:
    """Return the draft of a table with these columns, and what it says of each column."""
    source = tmp_path / "table.csv"
    pd.DataFrame({**columns, "sex": ["f", "m"] * 200}).to_csv(source, index=False)
    text = _draft(tmp_path / "study.toml", "--public-table", source)
    notes = [line.removeprefix("#   * ") for line in text.splitlines() if line[:6] == "#   * "]
    told = dict(note.split(": ", 1) for note in notes if ": " in note)
    return _completed(text), told


@pytest.mark.parametrize("deviation", [1.0, 2.0, 3.0])
def test_the_heavier_a_tail_the_surer_its_bins_grow(tmp_path: Path, deviation: float) -> None:
    values = np.exp(np.random.default_rng(0).normal(2, deviation, 400)).round(3)
    column = _drafted_of(tmp_path, troponin=values)[0].data.column("troponin")
    assert isinstance(column, NumericColumn) and column.spacing == "log"


def test_numbers_written_with_exponents_keep_their_decimals(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1e-6, 9e-6, 400).round(8)
    cells = [*map(str, values[10:]), *["<1e-6"] * 10]
    column = _drafted_of(tmp_path, dose=cells)[0].data.column("dose")
    assert isinstance(column, NumericColumn) and column.decimals == 8


def test_numbers_that_name_records_are_ids_and_codes_stay_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    study, told = _drafted_of(
        tmp_path,
        mrn=1_000_000 + rng.permutation(400),
        encounter=rng.choice(10**7, 400, replace=False) + 10**7,
        case=np.repeat(50_000 + rng.permutation(250), 2)[:400],
        zip=[f"{k:05d}" for k in rng.choice([501, 1001, 2108, 60601], 400)],
        day=pd.date_range("2019-01-01", periods=400).strftime("%Y%m%d"),
        platelets=rng.normal(250, 50, 400).round(),
    )
    assert [each.name for each in study.data.ids] == ["mrn", "encounter"]
    assert "taken for an id" in told["mrn"]
    assert "if it is an id" in told["case"]
    zip_code, day = study.data.column("zip"), study.data.column("day")
    assert isinstance(zip_code, CategoricalColumn)
    assert zip_code.categories == ("00501", "01001", "02108", "60601")
    assert isinstance(day, DateColumn) and day.first == datetime.date(2019, 1, 1)
    assert isinstance(study.data.column("platelets"), NumericColumn)
    assert read_table(tmp_path / "table.csv", study.data).num_dropped == 0


@pytest.mark.parametrize(
    ("form", "last", "words"),
    [
        ("%d.%m.%Y", "2020-02-20", "DD.MM.YYYY"),
        ("%d.%m.%Y 08:30", "2020-02-20", "DD.MM.YYYY"),
        ("%d/%m/%Y", "2020-02-20", "DD/MM/YYYY in this table"),
        ("%m/%d/%Y", "2020-02-20", "written MM/DD/YYYY in this table"),
        ("%m/%d/%Y", "2020-01-12", "no day tells which"),
    ],
)
def test_dates_in_other_forms_are_dates_and_the_draft_says_how_to_write_them(
    tmp_path: Path, form: str, last: str, words: str
) -> None:
    days = pd.date_range("2020-01-01", last)
    seen = days[np.random.default_rng(1).integers(0, len(days), 400)]
    study, told = _drafted_of(tmp_path, seen=seen.strftime(form), age=np.arange(400) % 80)
    column = study.data.column("seen")
    assert isinstance(column, DateColumn)
    assert words in told["seen"] and "export" in told["seen"]
    if "no day" not in words:
        assert column.last == datetime.date.fromisoformat(last)


def test_diagnoses_are_rolled_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    icd10 = [f"{a}{k:02d}.{d}" for a, k, d in zip(rng.choice(list("AEIJ"), 400),
             rng.integers(0, 90, 400), rng.integers(0, 10, 400), strict=True)]  # fmt: skip
    icd9 = [f"{k / 100:.2f}" for k in rng.integers(25_000, 99_000, 400)]
    icd9[:40] = [f"V{k}" for k in rng.integers(10, 80, 40)]
    study, told = _drafted_of(
        tmp_path, ten=icd10, nine=icd9, note=[f"n{k % 90}" for k in range(400)]
    )
    ten, nine = study.data.column("ten"), study.data.column("nine")
    assert isinstance(ten, CategoricalColumn) and ten.codes == "icd10" and not ten.other
    assert isinstance(nine, CategoricalColumn) and nine.codes == "icd9"
    assert "chapters" in told["ten"]
    table = read_table(tmp_path / "table.csv", study.data)
    assert table.num_dropped == 0
    assert set(table.columns["ten"]) == {"A00-B99", "E00-E99", "I00-I99", "J00-J99"}
    assert "most rows" not in told.get("note", "")


def test_numbers_that_sites_cannot_read_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    value = rng.normal(50, 9, 400).round(1)
    texts = value.astype(str)
    study, told = _drafted_of(
        tmp_path,
        comma=[text.replace(".", ",") for text in texts],
        thousands=[f"{n:,}" for n in rng.integers(1, 2_000_000, 400)],
        either=[f"{n:,}" for n in rng.integers(1_000, 99_000, 400)],
        lactate=[f"{n / 1_000:.3f}".replace(".", ",") for n in rng.integers(300, 4_000, 400)],
        unit=[f"{text} mg" for text in texts],
        censored=[*["<0,5"] * 30, *[text.replace(".", ",") for text in texts[30:]]],
        beyond=[*["<0.5"] * 20, *texts[20:]],
        typing=["4o", *texts[1:]],
        null=[*["NULL"] * 30, *texts[30:]],
        level=[*["NULL"] * 30, *rng.choice(["None", "high"], 370)],
        at=[f"{n % 24}:{n % 60:02d}" for n in range(400)],
        tiny=[f"{n * 1e-12:.3g}" for n in range(400)],
        year=rng.integers(1_998, 2_025, 400),
    )
    assert "export them so" in told["comma"] and "commas between thousands" in told["thousands"]
    assert "may be decimal ones" in told["either"] and "decimal comma" in told["lactate"]
    assert "have a unit" in told["unit"] and "unit" not in study.data.names
    assert "limit of the measurement" in told["censored"]
    assert "('<0.5')" in told["beyond"] and "no numbers" in told["typing"]
    assert "NULL seem to spell missing" in told["null"] and "HH:MM" in told["at"]
    assert "another unit" in told["tiny"] and "tiny" not in study.data.names
    for name in ("comma", "beyond", "typing", "null", "censored"):
        column = study.data.column(name)
        assert isinstance(column, NumericColumn) and column.decimals == 1
        assert column.upper is not None and 70 < column.upper < 110
    level, year = study.data.column("level"), study.data.column("year")
    assert isinstance(level, CategoricalColumn) and level.categories == ("None", "high")
    assert level.missing and "NULL" in (level.missing_values or ())
    assert isinstance(year, NumericColumn) and (year.lower, year.upper) == (1990, 2030)
    assert isinstance(study.data.column("at"), TimeColumn)


def test_what_seems_to_spell_missing_is_said_and_bends_no_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    age = rng.integers(20, 90, 400)
    age[:30], age[30:50] = 9_999_999, -9
    weight = rng.normal(70, 10, 400).round(1)
    day = pd.date_range("2020-01-01", periods=90).strftime("%Y-%m-%d").to_numpy()[age % 90]
    day[:9] = "9999-12-31"
    study, told = _drafted_of(tmp_path, age=age, weight=weight, day=day, void=[""] * 400)
    column = study.data.column("age")
    assert isinstance(column, NumericColumn)
    assert column.missing and {"-9", "9999999"} < set(column.missing_values or ())
    assert (column.lower, column.upper) == (0, 89)
    assert "-9 and 9999999 seem to spell missing" in told["age"]
    seen = study.data.column("day")
    assert isinstance(seen, DateColumn) and seen.last.year == 2020
    assert "left out" in told["void"] and "weight" not in told
    table = read_table(tmp_path / "table.csv", study.data)
    assert np.isnan(table.columns["age"]).sum() == 50
    assert np.isnan(table.columns["day"]).sum() == 9


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "NA", "999", "-9", "-1", "0", "007", "inf", "1e300", "-0.0", "1_000", "١٢",
                     "2020-01-01", "31.12.2020", "1/2/2020", "9999-12-31", "08:30", "9:30",
                     "9:30 PM", "<0.5", "4,5", "1,234", "NULL", "-", "1e-12", "I21.4", "V27",
                     "20200101", "99999999", "other", "Other"]),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.dates().map(str),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.text(max_size=6), min_size=1, max_size=4),
    rows=st.lists(st.lists(CELLS, min_size=4, max_size=4), max_size=12),
    times=st.integers(1, 30),
)
def test_any_table_gives_a_study_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], rows: list[list[str]], times: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = folder / "table.csv"
    cells = [row[: len(names)] for row in rows * times]
    try:
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *cells])
    except UnicodeEncodeError:  # half a sign is no text
        return
    try:
        text = draft_study(
            source, dictionary=False, name="any", expected_patients=5_000, target=None
        )
    except UsageError as error:
        assert error.exit_code == 2
        return
    schema = _completed(text).data
    assert set(schema.names) <= set(names)
