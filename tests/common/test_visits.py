"""Rows that are visits: their order, what a generator sees of them, and tables of them."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pratique_common import visits
from pratique_common.encoding import TableEncoder
from pratique_common.errors import InvalidFileError
from pratique_common.generators import TABLE_GENERATORS
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import cap_rows, parquet_bytes, read_candidate, read_table, to_arrow
from pratique_common.visits import may_follow, visits_that_follow, with_visits
from tests.conftest import small_study

DATA: dict[str, Any] = {
    "kind": "table",
    "patient_id": "who",
    "max_rows_per_patient": 3,
    "target": "ill",
    "columns": [
        {"name": "sex", "type": "categorical", "categories": ["f", "m"]},
        {"name": "ill", "type": "categorical", "categories": ["no", "yes"]},
        {"name": "lab", "type": "numeric", "edges": [0, 1, 2, 3], "missing": True},
    ],
    "visits": {"order_by": "day", "fixed": ["sex"]},
}
STUDY = small_study(data=DATA)
SCHEMA = STUDY.data


def _read(tmp_path: Path, frame: pd.DataFrame, suffix: str = ".csv") -> Any:
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return cap_rows(read_table(path, SCHEMA), SCHEMA)


def _frame(days: list[Any]) -> pd.DataFrame:
    size = len(days)
    return pd.DataFrame(
        {
            "who": ["b", *(["a"] * (size - 1))],
            "day": days,
            "sex": "f",
            "ill": "no",
            "lab": np.arange(size) / 2,
        }
    )


@pytest.mark.parametrize(
    "days",
    [
        [1, 30, 4, 100, 9],
        ["1", "30", "4", "100", "9"],
        ["2020-01-01", "2020-03-01", "2020-01-02", "2021-01-01", "2020-02-01T10:00"],
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_visits_are_put_in_time_before_the_first_ones_are_kept(
    tmp_path: Path, days: list[Any], suffix: str
) -> None:
    table = _read(tmp_path, _frame(days), suffix)
    mine = table.patients == "a"
    assert table.columns["lab"][mine].tolist() == [1.0, 2.0, 0.5]  # the last of four is left out


def test_parquet_dates_order_visits(tmp_path: Path) -> None:
    days = pd.to_datetime(["2020-01-01", "2020-03-01", "2020-01-02", "2021-01-01", "2020-02-01"])
    for kind in (days, days.date, days.tz_localize("UTC")):
        table = _read(tmp_path, _frame(list(kind)), ".parquet")
        assert table.columns["lab"][table.patients == "a"].tolist() == [1.0, 2.0, 0.5]


def test_a_visit_without_a_time_is_dropped(tmp_path: Path) -> None:
    frame = _frame(["1", "soon", *map(str, range(2, 60))])
    frame["lab"] = 1.0
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    assert read_table(path, SCHEMA).num_dropped == 1
    frame["day"] = "soon"
    frame.to_csv(path, index=False)
    with pytest.raises(InvalidFileError, match="column 'day'"):
        read_table(path, SCHEMA)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Auckland"])
def test_no_machines_time_zone_orders_visits(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour that a clock skips, offsets, and days that stand for unknown."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    days = ["0001-01-01", "2024-03-31T03:10:00", "2024-03-31T02:30:00", "2024-04-01T01:00+02:00",
            "2024-04-01T00:30+00:00", "9999-12-31T23:59"]  # fmt: skip
    frame = _frame(days)
    frame["who"] = ["c", "a", "a", "b", "b", "c"]
    table = _read(tmp_path, frame)
    assert table.columns["lab"][table.patients == "a"].tolist() == [1.0, 0.5]
    assert table.columns["lab"][table.patients == "b"].tolist() == [1.5, 2.0]
    assert table.columns["lab"][table.patients == "c"].tolist() == [0.0, 2.5]
    monkeypatch.undo()
    time.tzset()


def test_a_column_of_the_study_may_order_visits(tmp_path: Path) -> None:
    columns = [*DATA["columns"], {"name": "day", "type": "date", "first": "2020-01-01",
                                  "last": "2020-12-31"}]  # fmt: skip
    schema = TableSchema.model_validate({**DATA, "columns": columns})
    frame = _frame([f"2020-0{month}-01" for month in (1, 3, 2)])
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    table = read_table(path, schema)
    assert table.columns["lab"][table.patients == "a"].tolist() == [1.0, 0.5]
    cells = {name: values[[1, 2]] for name, values in table.columns.items()}
    good = to_arrow(cells, schema, np.array([0, 0]))
    assert read_candidate(parquet_bytes(good), schema, num_rows=2).num_rows == 2
    back = to_arrow({n: v[::-1] for n, v in cells.items()}, schema, np.array([0, 0]))
    with pytest.raises(InvalidFileError, match="not exactly a table"):
        read_candidate(parquet_bytes(back), schema, num_rows=2)


def test_a_generator_sees_the_visit_before() -> None:
    patients = np.array(["a", "b", "a", "a"], object)
    columns = {
        "sex": np.array(["f", "m", "f", "f"], object),
        "ill": np.array(["no", "yes", "yes", "no"], object),
        "lab": np.array([0.5, np.nan, np.nan, 2.5]),
    }
    found = with_visits(SCHEMA, columns, patients)
    assert SCHEMA.trained.names == (
        "sex", "ill", "lab", "first visit", "another visit", "previous ill", "previous lab",
    )  # fmt: skip
    assert found["first visit"].tolist() == ["yes", "yes", "no", "no"]
    assert found["another visit"].tolist() == ["yes", "no", "yes", "no"]
    assert found["previous ill"].tolist() == [None, None, "no", "yes"]
    np.testing.assert_array_equal(found["previous lab"], [np.nan, np.nan, 0.5, np.nan])
    codes = TableEncoder(SCHEMA.trained).encode(found)
    assert codes[:, 5].tolist() == [2, 2, 0, 1]  # no visit before is the last code
    assert SCHEMA.trained.trained == SCHEMA.trained


def test_one_column_may_be_remembered() -> None:
    visits = {"order_by": "day", "remembered": ["ill"]}
    schema = TableSchema.model_validate({**DATA, "visits": visits})
    assert schema.trained.names[-1] == "previous ill"
    assert schema.remembered == ("ill",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_rows_per_patient": 1}, "needs patient_id"),
        ({"visits": {"order_by": "day", "fixed": ["nose"]}}, "'nose' is not a column"),
        ({"visits": {"order_by": "day", "fixed": ["sex"], "remembered": ["sex"]}}, "is fixed"),
        ({"visits": {"order_by": "ill"}}, "is a category"),
        ({"visits": {"order_by": "lab"}}, "'lab' must not be missing"),
        ({"visits": {"order_by": "day", "fixed": ["day"]}}, "'day' is not a column"),
        ({"missing_values": ["", "P17"]}, "a synthetic patient may have such a name"),
        ({"visits": {"order_by": "who"}}, "does not grow"),
    ],
)
def test_impossible_visits_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TableSchema.model_validate({**DATA, **change})


def test_columns_may_not_take_the_names_that_visits_use() -> None:
    columns = [*DATA["columns"], {**DATA["columns"][0], "name": "first visit"}]
    with pytest.raises(ValidationError, match="'first visit' is a name that visits use"):
        TableSchema.model_validate({**DATA, "columns": columns})


@pytest.mark.parametrize("name", sorted(set(TABLE_GENERATORS) - {"pairwise"}))
def test_generators_of_single_rows_make_no_visits(name: str) -> None:
    with pytest.raises(InvalidFileError, match=r"generator\.name: '.*' makes rows one by one"):
        build_generator(small_study(data=DATA, generator={"name": name}))


# --- rules about the visit before ----------------------------------------------------------------

DAYS = {"type": "numeric", "lower": 0, "upper": 100, "bins": 5, "integer": True}
STAYS: dict[str, Any] = {
    **DATA,
    "max_rows_per_patient": 10,
    "max_dropped_share": 0.9,
    "columns": [*DATA["columns"][:2], {"name": "day", **DAYS},
                {"name": "left", **DAYS, "missing": True}],
    "rules": [
        {"when": "not missing(left)", "then": "left >= day"},
        {"when": "not missing(previous(left))", "then": "day >= previous(left)"},
        {"when": "not missing(previous(ill))", "then": "previous(ill) == 'no'"},
    ],
}  # fmt: skip


def _stays(rows: list[tuple[str, int, int | None, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["who", "day", "left", "ill"])
    return frame.assign(sex="f", left=frame["left"].astype("Int64"))


def _kept(tmp_path: Path, frame: pd.DataFrame, **change: Any) -> list[tuple[str, float]]:
    schema = TableSchema.model_validate({**STAYS, **change})
    frame.to_csv(tmp_path / "stays.csv", index=False)
    table = read_table(tmp_path / "stays.csv", schema)
    assert table.num_rows + table.num_dropped == len(frame)
    return list(zip(table.patients.tolist(), table.columns["day"].tolist(), strict=True))


def test_visits_that_may_not_follow_the_one_before_are_dropped(tmp_path: Path) -> None:
    frame = _stays([
        ("a", 30, 40, "no"), ("a", 1, 20, "no"), ("a", 5, 35, "no"),  # one begins in another
        ("b", 1, 9, "yes"), ("b", 20, 21, "no"), ("b", 30, 31, "no"),  # no visit after the first
        ("c", 1, None, "no"), ("c", 2, 3, "no"), ("c", 3, 2, "no"), ("c", 3, 4, "no"),
    ])  # fmt: skip
    assert _kept(tmp_path, frame) == [("a", 1), ("b", 1), ("c", 1), ("c", 2), ("c", 3), ("a", 30)]
    with pytest.raises(InvalidFileError, match=r"the visit before: 30.0% of the rows do not obey"):
        _kept(tmp_path, frame, max_dropped_share=0.2)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 99), st.integers(0, 9), st.booleans()),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_what_stays_follows_patient_by_patient(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int, bool]]
) -> None:
    """The same as reading one patient's visits one after the other."""
    frame = _stays(
        [(who, day, min(99, day + stay), "yes" if ill else "no") for who, day, stay, ill in rows]
    )
    expected = []
    for who, mine in frame.sort_values("day", kind="stable").groupby("who"):
        last: tuple[int, str] = (0, "no")
        for day, left, ill in zip(mine["day"], mine["left"], mine["ill"], strict=True):
            if day >= last[0] and last[1] == "no":
                expected.append((who, float(day)))
                last = (left, ill)
    assert sorted(_kept(tmp_path_factory.mktemp("stays"), frame)) == sorted(expected)


def test_one_patient_with_very_many_wrong_rows_takes_no_longer_than_it_is_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under one id for all unknown patients, say: each row is looked at twice at most."""
    looked_at = 0

    def count(
        schema: TableSchema, columns: dict[str, Any], before: dict[str, Any]
    ) -> np.ndarray[Any, Any]:
        nonlocal looked_at
        looked_at += len(columns["day"])
        return may_follow(schema, columns, before)

    monkeypatch.setattr(visits, "may_follow", count)
    schema, num = TableSchema.model_validate(STAYS), 2_000
    columns = {
        "sex": np.full(num, "f", object),
        "ill": np.full(num, "yes", object),
        "day": np.arange(num, dtype=float),
        "left": np.arange(num, dtype=float),
    }
    stays = visits_that_follow(schema, columns, np.full(num, "unknown", object))
    assert stays.tolist() == [0] and looked_at <= 2 * num


def test_a_candidate_whose_visits_may_not_follow_is_refused() -> None:
    schema = TableSchema.model_validate(STAYS)
    columns = {
        "sex": np.array(["f", "f"], object),
        "ill": np.array(["no", "no"], object),
        "day": np.array([1.0, 5.0]),
        "left": np.array([5.0, 9.0]),
    }
    good = to_arrow(columns, schema, np.array([0, 0]))
    assert read_candidate(parquet_bytes(good), schema, num_rows=2).num_rows == 2
    wrong = to_arrow({**columns, "left": np.array([6.0, 9.0])}, schema, np.array([0, 0]))
    with pytest.raises(InvalidFileError, match="not exactly a table"):
        read_candidate(parquet_bytes(wrong), schema, num_rows=2)
    two_patients = to_arrow({**columns, "left": np.array([6.0, 9.0])}, schema, np.array([0, 1]))
    assert read_candidate(parquet_bytes(two_patients), schema, num_rows=2).num_rows == 2


def test_rules_about_the_visit_before_need_visits() -> None:
    alone = {name: value for name, value in STAYS.items() if name != "visits"}
    with pytest.raises(
        ValidationError, match=r"rules: number 2: 'previous\(left\)' is not a column"
    ):
        TableSchema.model_validate({**alone, "max_rows_per_patient": 1})
    named = {
        **STAYS,
        "columns": [*STAYS["columns"], {**STAYS["columns"][0], "name": "previous(sex)"}],
    }
    with pytest.raises(ValidationError, match="is how rules name the visit before"):
        TableSchema.model_validate(named)


# --- tables ------------------------------------------------------------------------------------


def _columns() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "sex": np.array(["f", "f", "m", "f"], object),
        "ill": np.array(["no", "yes", "yes", "no"], object),
        "lab": np.array([0.5, np.nan, np.nan, 2.5]),
    }


def test_synthetic_visits_make_the_round_trip() -> None:
    number = np.array([0, 0, 1, 2])
    table = to_arrow(_columns(), SCHEMA, number)
    assert table.column_names == ["who", "sex", "ill", "lab"]
    assert table["who"].to_pylist() == ["P1", "P1", "P2", "P3"]
    again = read_candidate(parquet_bytes(table), SCHEMA, num_rows=4)
    assert again.patients.tolist() == ["P1", "P1", "P2", "P3"]


@pytest.mark.parametrize(
    "ids",
    [
        ["P1", "P2", "P1", "P3"],  # a patient's visits do not stand together
        ["P1", "P1", "P2", "secret"],
        ["P2", "P2", "P1", "P3"],
        ["P1", "P1", "P1", "P2"],  # the third is of another sex
    ],
)
def test_a_candidate_tells_nothing_by_its_patients_names(ids: list[str]) -> None:
    table = to_arrow(_columns(), SCHEMA, np.array([0, 0, 1, 2]))
    changed = table.set_column(0, "who", pa.array(ids, pa.string()))
    with pytest.raises(InvalidFileError, match="not exactly a table"):
        read_candidate(parquet_bytes(changed), SCHEMA, num_rows=4)


def test_a_candidates_patients_are_texts() -> None:
    """Whatever else a coordinator writes there is refused like any other change."""
    table = to_arrow(_columns(), SCHEMA, np.array([0, 0, 1, 2]))
    place = table.schema.get_field_index("who")
    for cells in (pa.array([[1], [1], [2], [3]]), pa.array([{"a": 1}] * 4), pa.array([1, 1, 2, 3])):
        changed = table.set_column(place, "who", cells)
        with pytest.raises(InvalidFileError, match="not exactly a table"):
            read_candidate(parquet_bytes(changed), SCHEMA, num_rows=4)


def test_a_candidate_carries_no_metadata_of_a_column() -> None:
    table = to_arrow(_columns(), SCHEMA, np.array([0, 0, 1, 2]))
    field = table.schema.field("ill").with_metadata({"secret": "x"})
    changed = table.cast(table.schema.set(table.schema.get_field_index("ill"), field))
    sink = io.BytesIO()
    pa.parquet.write_table(changed, sink, compression="zstd")
    with pytest.raises(InvalidFileError, match="not exactly a table"):
        read_candidate(sink.getvalue(), SCHEMA, num_rows=4)


def test_no_rows_are_a_table_too() -> None:
    columns = {name: values[:0] for name, values in _columns().items()}
    assert to_arrow(columns, SCHEMA).num_rows == 0


def test_a_candidates_patient_has_no_more_visits_than_the_study_allows() -> None:
    columns = {name: values[[0, 0, 0, 0]] for name, values in _columns().items()}
    table = to_arrow(columns, SCHEMA, np.zeros(4, np.int64))
    with pytest.raises(InvalidFileError, match="not exactly a table"):
        read_candidate(parquet_bytes(table), SCHEMA, num_rows=4)


# --- the generator -----------------------------------------------------------------------------


def _generator(study: StudySpec = STUDY) -> PairwiseGenerator:
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    return generator


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_whatever_its_weights_patients_are_whole(seed: int) -> None:
    generator = _generator()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        generator.module.weight.copy_(torch.randn(generator.module.weight.shape, generator=rng))
    codes, weight = generator.sample_patients(200, rng)
    assert codes.shape[:2] == weight.shape and codes.shape[1] <= 3
    assert weight.sum(1) == pytest.approx(np.ones(200))
    sex, ill, lab, first, more, was_ill, was_lab = np.moveaxis(codes, 2, 0)
    counted = weight > 0
    assert (first[:, 0] == 1).all() and (was_ill[:, 0] == 2).all() and (was_lab[:, 0] == 3).all()
    for visit in range(1, codes.shape[1]):
        here = counted[:, visit]
        assert (counted[:, visit - 1] >= here).all()
        assert (more[here, visit - 1] == 1).all() and (first[here, visit] == 0).all()
        assert (sex[here, visit] == sex[here, visit - 1]).all()
        assert (was_ill[here, visit] == ill[here, visit - 1]).all()
        assert (was_lab[here, visit] == lab[here, visit - 1]).all()
    last = counted.sum(1) - 1
    assert (more[np.arange(200), last] == 0).all()
