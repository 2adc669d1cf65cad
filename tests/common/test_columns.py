"""Dates, times, heavy tails, codes, cells that are asked for under a condition, and fresh ids."""

from datetime import date, time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pratique_common.binned_columns import NumericColumn
from pratique_common.columns import CategoricalColumn
from pratique_common.encoding import TableEncoder
from pratique_common.errors import InvalidFileError
from pratique_common.in_bins import ValuesInBins
from pratique_common.schema import TableSchema
from pratique_common.tables import (
    parquet_bytes,
    read_candidate,
    read_table,
    to_arrow,
    with_fresh_ids,
)
from pratique_common.time_columns import DateColumn, TimeColumn

SCHEMA = TableSchema.model_validate(
    {
        "kind": "table",
        "columns": [
            {"name": "sex", "type": "categorical", "categories": ["female", "male"]},
            {"name": "pregnant", "type": "categorical", "categories": ["no", "yes"],
             "asked_if": "sex == 'female'", "missing_values": ["", "not_applicable"]},
            {"name": "admitted", "type": "date", "first": "2020-01-01", "last": "2020-05-13"},
            {"name": "at", "type": "time", "missing": True},
            {"name": "died_on", "type": "date", "first": "2020-01-01", "last": "2020-06-30",
             "asked_if": "admitted >= date('2020-02-01')", "missing": True},
            {"name": "cost", "type": "numeric", "lower": 0, "upper": 1e6, "bins": 12,
             "spacing": "log", "decimals": 0},
            {"name": "diagnosis", "type": "categorical", "codes": "icd10", "other": True},
        ],
        "ids": [{"name": "case", "prefix": "SYN-"}],
        "rules": [{"when": "not missing(died_on)", "then": "died_on >= admitted"}],
    }
)  # fmt: skip
GOOD = {
    "sex": ["female", "male", "male", "female"],
    "pregnant": ["yes", "not_applicable", "", "no"],
    "admitted": ["2020-03-01", "2020-01-01 23:10:00", "2020-05-13T01:00", "2020-02-01"],
    "at": ["08:30", "2020-01-01 23:10:00", "", "00:00:59"],
    "died_on": ["2020-03-02", "", "", "2020-02-01"],
    "cost": ["0", "12.5", "2000000", "100"],
    "diagnosis": ["E11.9", "I21", "??", "other"],
}


def _read(tmp_path: Path, columns: dict[str, list[str]]) -> Any:
    path = tmp_path / "rows.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return read_table(path, SCHEMA)


def test_cells_of_every_kind_are_read(tmp_path: Path) -> None:
    table = _read(tmp_path, GOOD)
    assert table.num_dropped == 0
    days = [(date.fromisoformat(text[:10]) - date(1970, 1, 1)).days for text in GOOD["admitted"]]
    assert table.columns["admitted"].tolist() == days
    assert table.columns["at"][[0, 1, 3]].tolist() == [510, 23 * 60 + 10, 0]
    assert np.isnan(table.columns["at"][2])
    assert table.columns["pregnant"].tolist() == ["yes", None, None, "no"]
    assert table.columns["cost"].tolist() == [0, 12.5, 1e6, 100]  # beyond the limit: clamped
    assert table.columns["diagnosis"].tolist() == ["E00-E99", "I00-I99", "other", "other"]


def test_typed_parquet_says_the_same(tmp_path: Path) -> None:
    by_csv = _read(tmp_path, GOOD)
    stamps = pd.to_datetime(pd.Series(GOOD["admitted"]), format="ISO8601")
    frame = pd.DataFrame(GOOD)
    arrow = pa.Table.from_pandas(frame).set_column(2, "admitted", pa.array(stamps))
    at = pa.array([time(8, 30), time(23, 10), None, time(0, 0, 59)])
    pa.parquet.write_table(arrow.set_column(3, "at", at), tmp_path / "rows.parquet")
    by_parquet = read_table(tmp_path / "rows.parquet", SCHEMA)
    for name, values in by_csv.columns.items():
        assert pd.Series(values).equals(pd.Series(by_parquet.columns[name])), name


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("pregnant", "not_applicable"),  # asked of a woman, and missing is not allowed
        ("admitted", "13/05/2020"),
        ("admitted", ""),
        ("at", "2020-05-13"),
        ("at", "25:00"),
        ("died_on", "2020-02-28"),  # before the admission
    ],
)
def test_rows_outside_the_domain_are_dropped(tmp_path: Path, column: str, cell: str) -> None:
    schema = SCHEMA.model_copy(update={"max_dropped_share": 0.5})
    bad = {**GOOD, column: [cell, *GOOD[column][1:]]}
    pd.DataFrame(bad).to_csv(tmp_path / "rows.csv", index=False)
    assert read_table(tmp_path / "rows.csv", schema).num_dropped == 1
    with pytest.raises(InvalidFileError) as caught:
        read_table(tmp_path / "rows.csv", SCHEMA)
    assert not cell or cell not in str(caught.value)


def test_a_cell_that_was_not_asked_for_is_against_the_study(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"asked_if = .* of the rows do not obey"):
        _read(tmp_path, {**GOOD, "pregnant": ["yes", "no", "", "no"]})


def test_synthetic_rows_have_cells_where_they_are_asked_for_and_fresh_ids() -> None:
    encoder, rng = TableEncoder(SCHEMA), np.random.default_rng(0)
    codes = np.stack([rng.integers(0, n, 5_000) for n in encoder.num_levels], axis=1)
    columns = encoder.decode(codes, rng)
    men = columns["sex"] == "male"
    assert all(value is None for value in columns["pregnant"][men])
    asked = columns["admitted"] >= (date(2020, 2, 1) - date(1970, 1, 1)).days
    assert np.isnan(columns["died_on"][~asked]).all()
    keep = SCHEMA.obeys_rules(columns)
    assert 0.1 < keep.mean() < 0.9
    kept = {name: values[keep] for name, values in columns.items()}
    blanked = encoder.blanked(codes, columns)[keep]
    assert (encoder.encode(kept) == blanked).all()
    arrow = to_arrow(kept, SCHEMA)
    assert arrow.column_names == ["case", *SCHEMA.names]
    ids = arrow.column("case").to_pylist()
    assert ids[0] == "SYN-0001" and len(set(ids)) == len(ids)
    assert arrow.schema.field("admitted").type == pa.date32()
    assert arrow.schema.field("at").type == pa.time32("ms")
    twice = with_fresh_ids(pa.concat_tables([arrow, arrow]), SCHEMA)
    assert len(set(twice.column("case").to_pylist())) == twice.num_rows
    again = read_candidate(parquet_bytes(arrow), SCHEMA, num_rows=arrow.num_rows)
    assert (encoder.encode(again.columns) == blanked).all()
    numbered = arrow.set_column(0, "case", pa.array([f"patient {i}" for i in range(len(ids))]))
    with pytest.raises(InvalidFileError, match="not exactly a table of the study"):
        read_candidate(parquet_bytes(numbered), SCHEMA, num_rows=arrow.num_rows)


def test_log_spacing_is_finer_where_values_are_small() -> None:
    def edges(**settings: Any) -> list[float]:
        column = NumericColumn.model_validate(
            {"name": "x", "type": "numeric", "spacing": "log", **settings}
        )
        return column.bin_edges().tolist()

    assert edges(lower=1, upper=1000, bins=3) == pytest.approx([1, 10, 100, 1000])
    whole = edges(lower=0, upper=100, bins=16, integer=True)
    assert whole[:3] == [0, 1, 2] and whole[-1] == 100
    assert whole == sorted(set(whole)) and all(edge == round(edge) for edge in whole)
    for wrong in ({"lower": -1, "upper": 5}, {"edges": [1, 2]}):
        with pytest.raises(ValidationError, match="log spacing needs"):
            edges(**wrong)


def test_a_log_normal_comes_back_through_log_bins() -> None:
    column = NumericColumn.model_validate(
        {"name": "x", "type": "numeric", "lower": 0.01, "upper": 1e4, "bins": 20,
         "spacing": "log", "decimals": 4}
    )  # fmt: skip
    rng = np.random.default_rng(0)
    real = np.exp(rng.normal(2, 1.5, 100_000)).clip(0.01, 9_999)
    bins = np.searchsorted(column.bin_edges(), real, side="right") - 1
    drawn = ValuesInBins(column, np.bincount(bins, minlength=20).astype(float)).draw(bins, rng)
    np.testing.assert_array_equal(
        np.searchsorted(column.bin_edges(), drawn, side="right") - 1, bins
    )
    quantiles = np.linspace(0.01, 0.99, 99)
    ratio = np.quantile(drawn, quantiles) / np.quantile(real, quantiles)
    assert np.abs(ratio - 1).max() < 0.05


def test_columns_say_their_domain() -> None:
    day, at = SCHEMA.column("admitted"), SCHEMA.column("at")
    assert isinstance(day, DateColumn) and isinstance(at, TimeColumn)
    assert day.domain_in_words() == "2020-01-01 to 2020-05-13"
    assert at.domain_in_words() == "00:00 to 23:59"
    diagnosis = SCHEMA.column("diagnosis")
    assert isinstance(diagnosis, CategoricalColumn) and "I00-I99" in diagnosis.domain_in_words()
    short = DateColumn.model_validate(
        {"name": "d", "type": "date", "first": "2020-01-01", "last": "2020-01-04"}
    )
    assert short.num_bins == 3  # no more bins than days


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"type": "date", "first": "2020-02-01", "last": "2020-01-01"}, "first must be before"),
        ({"type": "categorical", "categories": []}, "list at least one"),
        ({"type": "categorical", "codes": "prefix"}, "list at least one"),
        ({"type": "categorical", "codes": "icd9", "categories": ["459-390"]}, "is no range"),
        ({"type": "categorical", "codes": "icd10", "categories": ["i21"]}, "write capitals"),
        ({"type": "categorical", "categories": ["a", ""]}, "must not be empty"),
        ({"type": "categorical", "categories": ["a "]}, "begin or end with a space"),
        (
            {
                "type": "categorical",
                "categories": ["a"],
                "other": True,
                "missing": True,
                "missing_values": ["other"],
            },
            "'other' spells missing and is a value",
        ),
        (
            {
                "type": "numeric",
                "lower": 0,
                "upper": 100,
                "missing": True,
                "missing_values": ["99"],
            },
            "'99' spells missing and is a value",
        ),
        ({"type": "time", "asked_if": "later == 'x'"}, "not a column that may be named here"),
        ({"type": "time", "asked_if": "=="}, "is not an expression"),
        ({"type": "time", "asked_if": "later == 1" + 400 * "0"}, "a number is beyond 1e\\+15"),
    ],
)
def test_impossible_columns_are_refused(settings: dict[str, Any], words: str) -> None:
    columns = [
        {"name": "x", **settings},
        {"name": "later", "type": "categorical", "categories": ["x"]},
    ]
    with pytest.raises(ValidationError, match=words):
        TableSchema.model_validate({"kind": "table", "columns": columns})
