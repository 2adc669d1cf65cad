from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pratique_common.errors import InvalidFileError
from pratique_common.released_copies import table_csv
from pratique_common.tables import (
    check_table,
    parquet_bytes,
    read_candidate,
    read_table,
    to_arrow,
)
from tests.conftest import small_study

SCHEMA = small_study().data
SECRET = "MARKED-VALUE-4711"


def _rows(count: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": [f"p{i // 2}" for i in range(count)],
            "age": [str(20 + i) for i in range(count)],
            "marker": ["" if i % 4 == 0 else f"{i / 8:.3f}" for i in range(count)],
            "disease": ["yes" if i % 3 == 0 else "no" for i in range(count)],
            "name_of_patient": [SECRET] * count,
        }
    )


def _write(tmp_path: Path, frame: pd.DataFrame) -> Path:
    path = tmp_path / "rows.csv"
    frame.to_csv(path, index=False)
    return path


def test_reads_the_study_columns_and_no_other(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, _rows()), SCHEMA)
    assert set(table.columns) == {"age", "marker", "disease"}
    assert table.num_rows == 40
    assert table.num_dropped == 0
    assert np.isnan(table.columns["marker"][0])
    assert table.columns["disease"][0] == "yes"


def test_csv_and_parquet_of_any_types_agree(tmp_path: Path) -> None:
    frame = _rows()
    by_csv = read_table(_write(tmp_path, frame), SCHEMA)
    typed = frame.assign(
        age=frame["age"].astype(int),
        marker=pd.to_numeric(frame["marker"]),
        disease=frame["disease"].astype("category"),
    )
    typed.to_parquet(tmp_path / "rows.parquet")
    by_parquet = read_table(tmp_path / "rows.parquet", SCHEMA)
    for name, values in by_csv.columns.items():
        np.testing.assert_array_equal(values, by_parquet.columns[name])


def test_numbers_are_clamped_and_integers_may_be_written_as_floats(tmp_path: Path) -> None:
    frame = _rows()
    frame.loc[0, "age"], frame.loc[1, "age"] = "150", "33.0"
    table = read_table(_write(tmp_path, frame), SCHEMA)
    assert table.columns["age"][:2].tolist() == [100.0, 33.0]


@pytest.mark.parametrize(
    ("column", "value"),
    [("age", "33.5"), ("age", ""), ("age", "inf"), ("age", SECRET), ("marker", SECRET),
     ("disease", SECRET), ("disease", ""), ("patient", "")],
)  # fmt: skip
def test_rows_outside_the_domain_are_dropped(tmp_path: Path, column: str, value: str) -> None:
    frame = _rows()
    frame.loc[7, column] = value
    table = read_table(_write(tmp_path, frame), SCHEMA)
    assert (table.num_rows, table.num_dropped) == (39, 1)


def test_too_many_dropped_rows_stop_it_and_name_the_column_not_the_value(tmp_path: Path) -> None:
    frame = _rows()
    frame.loc[:9, "disease"] = SECRET
    with pytest.raises(InvalidFileError) as caught:
        read_table(_write(tmp_path, frame), SCHEMA)
    assert caught.value.code == "too_many_dropped"
    assert "rows.csv: column 'disease'" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_rows_that_break_a_rule_are_dropped(tmp_path: Path) -> None:
    schema = small_study(
        data={
            **SCHEMA.model_dump(mode="json"),
            "rules": [{"when": "age < 21", "then": "disease == 'no'"}],
        }
    ).data
    assert read_table(_write(tmp_path, _rows()), schema).num_dropped == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"patient,age,marker,disease\n", "no rows"),
        (b"patient,age,marker\np,1,1\n", "column 'disease': missing"),
        (b"patient;age;marker;disease\np;1;1;no\n", "commas"),
        (b"patient,age,age,marker,disease\np,1,1,1,no\n", "twice"),
        (b"patient,age,marker,disease\np,30,1,n\xffo\n", "UTF-8"),
        (b"\xff\xfep\x00a\x00", "UTF-8"),
        (f"patient,age,marker,disease\n{SECRET},30\n".encode(), "numbers of cells"),
    ],
)
def test_damaged_csv(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidFileError, match=problem) as caught:
        read_table(path, SCHEMA)
    assert "rows.csv" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    _rows().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InvalidFileError, match="not an intact Parquet"):
        read_table(path, SCHEMA)


def test_unreadable_cells_of_parquet(tmp_path: Path) -> None:
    frame = _rows().assign(disease=[["no"]] * 40)
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InvalidFileError, match="column 'disease'"):
        read_table(tmp_path / "rows.parquet", SCHEMA)


@pytest.mark.parametrize("name", ["rows.xlsx", "nothing.csv"])
def test_wrong_paths(tmp_path: Path, name: str) -> None:
    if name.endswith("xlsx"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(InvalidFileError, match=name):
        read_table(tmp_path / name, SCHEMA)


def test_a_listed_level_wins_over_a_spelling_of_missing() -> None:
    data = SCHEMA.model_dump(mode="json")
    data["columns"][2] |= {"categories": ["no", "yes", "NA"], "missing": True}
    schema = small_study(data=data).data
    rows = pa.table({"age": ["30", "30"], "marker": ["1", "1"], "disease": ["NA", "?"]})
    table = check_table(rows, schema, source="x", patient_id=None)
    assert table.columns["disease"].tolist() == ["NA", None]


def test_a_column_may_spell_missing_in_its_own_way() -> None:
    data = SCHEMA.model_dump(mode="json")
    data["columns"][1]["missing_values"] = ["-9"]
    schema = small_study(data=data).data
    rows = pa.table({"age": [30, 30], "marker": [-9.0, 2.0], "disease": ["no", "no"]})
    table = check_table(rows, schema, source="x", patient_id=None)
    assert np.isnan(table.columns["marker"]).tolist() == [True, False]


def test_synthetic_tables_make_the_round_trip() -> None:
    columns = {
        "age": np.array([30.0, 40.0, 50.0]),
        "marker": np.array([np.nan, 2.25, 9.5]),
        "disease": np.array(["no", "yes", "no"], object),
    }
    arrow = to_arrow(columns, SCHEMA)
    assert arrow.schema.field("age").type == pa.int64()
    table = read_candidate(parquet_bytes(arrow), SCHEMA, num_rows=3)
    for name, values in columns.items():
        np.testing.assert_array_equal(table.columns[name], values)
    assert table_csv(arrow).decode().splitlines()[1] == '30,,"no"'
    assert pa.parquet.read_schema(pa.BufferReader(parquet_bytes(arrow))).metadata is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.append_column("smuggled", pa.array([1, 2, 3])),
        lambda t: t.set_column(0, "age", pa.array([30, 40, 10**6])),
        lambda t: t.set_column(0, "age", pa.array([30.0, 40.0, 50.0])),
        lambda t: t.set_column(2, "disease", pa.array(["no", " yes ", "no"])),
        lambda t: t.set_column(2, "disease", pa.array(["no", "SECRET", "no"])),
        lambda t: t.slice(0, 2),
        lambda t: t.select(["disease", "age", "marker"]),
        lambda t: t.replace_schema_metadata({"payload": "x"}),
    ],
)
def test_a_candidate_is_exactly_what_is_audited(change: Callable[[pa.Table], pa.Table]) -> None:
    columns = {
        "age": np.array([30.0, 40.0, 50.0]),
        "marker": np.array([np.nan, 2.25, 9.5]),
        "disease": np.array(["no", "yes", "no"], object),
    }
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(change(to_arrow(columns, SCHEMA)), sink)
    with pytest.raises(InvalidFileError):
        read_candidate(sink.getvalue().to_pybytes(), SCHEMA, num_rows=3)


def test_rows_without_patients_have_ids_that_others_do_not_change() -> None:
    data = SCHEMA.model_dump(mode="json") | {"patient_id": None, "max_rows_per_patient": 1}
    schema = small_study(data=data).data
    rows = pa.table({"age": [30, 40, 30, 50], "marker": [1.0] * 4, "disease": ["no"] * 4})
    whole = check_table(rows, schema, source="x", patient_id=None).patients
    without = check_table(rows.slice(1), schema, source="x", patient_id=None).patients
    assert len(set(whole)) == 4
    assert set(without) < set(whole)


def test_a_clamped_whole_number_is_whole() -> None:
    data = SCHEMA.model_dump(mode="json")
    data["columns"][0] = {
        "name": "age", "type": "numeric", "edges": [-0.5, 10.5, 99.5], "integer": True
    }  # fmt: skip
    schema = small_study(data=data).data
    rows = pa.table({"age": [-7, 30, 150], "marker": [1.0, 1.0, 1.0], "disease": 3 * ["no"]})
    assert check_table(rows, schema, source="x", patient_id=None).columns["age"].tolist() == [
        0, 30, 99,
    ]  # fmt: skip


def test_a_column_may_be_called_image(tmp_path: Path) -> None:
    levels = {"type": "categorical", "categories": ["none", "chest"]}
    columns = [{"name": name, **levels} for name in ("image", "second")]
    schema = small_study(data={"kind": "table", "columns": columns}).data
    frame = pd.DataFrame({"image": ["none", "chest"] * 3, "second": ["chest"] * 6})
    table = read_table(_write(tmp_path, frame), schema)
    assert len(set(table.patients)) == 6  # a row each
