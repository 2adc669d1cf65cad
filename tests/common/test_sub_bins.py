"""Sub-bins: cuts that follow from the dictionary, counts, and values that heap where told."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pratique_common.binned_columns import BinnedColumn
from pratique_common.encoding import TableEncoder
from pratique_common.in_bins import ValuesInBins
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins, sub_edges

COLUMNS: list[dict[str, Any]] = [
    {"name": "equal", "type": "numeric", "lower": -3, "upper": 7, "bins": 4, "decimals": 5},
    {"name": "tail", "type": "numeric", "lower": 0, "upper": 1e5, "bins": 6, "spacing": "log",
     "integer": True, "missing": True},
    {"name": "edges", "type": "numeric", "edges": [0.5, 2, 2.25, 90], "decimals": 6},
    {"name": "few", "type": "numeric", "lower": 1, "upper": 4, "bins": 4, "integer": True},
    {"name": "day", "type": "date", "first": "2020-01-01", "last": "2020-12-31"},
    {"name": "clock", "type": "time"},
    {"name": "sex", "type": "categorical", "categories": ["f", "m"]},
]  # fmt: skip
SCHEMA = TableSchema.model_validate({"kind": "table", "columns": COLUMNS})
BINNED = [column for column in SCHEMA.columns if isinstance(column, BinnedColumn)]


@pytest.mark.parametrize("column", BINNED, ids=lambda column: column.name)
def test_sub_bins_cut_every_bin_without_gaps(column: BinnedColumn) -> None:
    cuts = sub_edges(column)
    edges = column.open_edges()
    assert len(cuts) == column.num_bins
    for low, high, inside in zip(edges[:-1], edges[1:], cuts, strict=True):
        assert inside[0] == low
        assert inside[-1] == high
        assert (np.diff(inside) > 0).all()
        assert 2 <= len(inside) <= 33
        if column.whole:
            assert (inside == np.rint(inside)).all()


def test_no_stretch_and_back_adds_a_sub_bin() -> None:
    wide = {"name": "wide", "type": "numeric", "lower": 1e-9, "upper": 1e15, "spacing": "log"}
    data = {"kind": "table", "columns": [wide, COLUMNS[6]]}
    (column, _) = TableSchema.model_validate(data).columns
    assert isinstance(column, BinnedColumn)
    assert max(len(edges) for edges in sub_edges(column)) <= 33


def test_a_column_whose_bins_hold_one_value_each_costs_nothing() -> None:
    assert [column.name for column in SubBins(SCHEMA.columns).columns] == [
        "equal", "tail", "edges", "day", "clock",
    ]  # fmt: skip
    only = TableSchema.model_validate({"kind": "table", "columns": [COLUMNS[3], COLUMNS[6]]})
    assert SubBins(only.columns).size == 0


def _values(column: BinnedColumn, places: list[float]) -> np.ndarray:  # type: ignore[type-arg]
    low, high = column.bin_edges()[[0, -1]]
    values = low + np.array(places) * (high - low)
    return np.rint(values).clip(np.ceil(low), np.floor(high)) if column.whole else values


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.booleans())
def test_counts_of_sub_bins_add_up_to_those_of_their_bins(
    places: list[float], missing: bool
) -> None:
    columns: dict[str, Any] = {column.name: _values(column, places) for column in BINNED}
    columns["sex"] = np.full(len(places), "f", object)
    if missing:
        columns["tail"][0] = np.nan
    weight = np.linspace(0.1, 1, len(places))
    finer = SubBins(SCHEMA.columns)
    by_bin = finer.by_bin(finer.count(columns, weight))
    codes = TableEncoder(SCHEMA).encode(columns)
    for column in finer.columns:
        d = SCHEMA.names.index(column.name)
        wanted = np.bincount(codes[:, d], weight, minlength=column.num_levels)[: column.num_bins]
        np.testing.assert_allclose([part.sum() for part in by_bin[column.name]], wanted)


def test_one_row_moves_a_count_by_its_weight_in_each_column() -> None:
    """The sensitivity that the plan counts on: a patient's rows weigh one together."""
    finer, rng = SubBins(SCHEMA.columns), np.random.default_rng(0)
    for _ in range(50):
        places = rng.random(3).tolist()
        columns: dict[str, Any] = {column.name: _values(column, places) for column in BINNED}
        moved = finer.count(columns, np.full(3, 1 / 3))
        assert np.linalg.norm(moved) <= len(finer.columns) ** 0.5 + 1e-9
        assert moved.sum() == pytest.approx(len(finer.columns))


@pytest.mark.parametrize("column", BINNED, ids=lambda column: column.name)
def test_drawn_values_have_the_shares_of_sub_bins_and_stay_in_their_bins(
    column: BinnedColumn,
) -> None:
    rng = np.random.default_rng(1)
    cuts = sub_edges(column)
    within = [rng.dirichlet(np.full(len(edges) - 1, 0.3)) for edges in cuts]
    bins = np.repeat(np.arange(column.num_bins), 4_000)
    values = ValuesInBins(column, np.ones(column.num_bins), within).draw(bins, rng)
    for bin_, edges in enumerate(cuts):
        inside = values[bins == bin_]
        assert (inside >= edges[0]).all()
        assert (inside <= edges[-1]).all()
        found = np.histogram(inside, edges)[0] / len(inside)
        np.testing.assert_allclose(found, within[bin_], atol=2e-3)


@pytest.mark.parametrize(("decimals", "lower", "upper"), [(1, 34, 42), (0, 0, 80), (1, 0.25, 50)])
def test_values_come_back_on_the_grid_that_is_shown(
    decimals: int, lower: float, upper: float
) -> None:
    """Temperatures of 36.7 are counted and drawn as such, and not as 36.6."""
    column: dict[str, Any] = {"name": "x", "type": "numeric", "lower": lower, "upper": upper,
                              "decimals": decimals}  # fmt: skip
    schema = TableSchema.model_validate({"kind": "table", "columns": [column, COLUMNS[6]]})
    rng = np.random.default_rng(6)
    middle, spread = (lower + upper) / 2, (upper - lower) / 8
    values = np.round(rng.normal(middle, spread, 40_000), decimals).clip(lower + 1, upper - 1)
    values[:4_000] = np.round(middle, decimals)
    columns: dict[str, Any] = {"x": values, "sex": np.full(len(values), "f", object)}
    parts = SubBins(schema.columns).by_bin(
        SubBins(schema.columns).count(columns, np.ones(len(values)))
    )["x"]
    within = np.concatenate([part / max(part.sum(), 1e-9) for part in parts])
    encoder = TableEncoder(schema, within)
    drawn = encoder.decode(encoder.encode(columns), rng)["x"]
    scale = 10**decimals
    grids = [np.rint(v * scale).astype(int) for v in (values, drawn)]
    most = max(grid.max() for grid in grids) + 1
    real, synthetic = (np.bincount(grid, minlength=most) / len(values) for grid in grids)
    assert 0.5 * np.abs(real - synthetic).sum() < 0.02


@pytest.mark.parametrize(
    ("column", "alone"),
    [
        # Bins of 10.625 kg to .1 kg, of 12,500, of an hour, and of 68 days.
        ({"type": "numeric", "lower": 30, "upper": 200, "decimals": 1}, [31, 35, 70, 115]),
        ({"type": "numeric", "lower": 0, "upper": 200_000, "integer": True}, [1_000, 45_000]),
        ({"type": "time"}, [5, 8 * 60 + 30, 23 * 60 + 55]),
        (
            {"type": "date", "first": "2020-01-01", "last": "2022-12-31"},
            [18_262 + 31, 18_262 + 366],
        ),
        # Bins of 6 years and 3 months: first days of years.
        ({"type": "date", "first": "1920-01-01", "last": "2019-12-31"}, [0, 366 + 2 * 365]),
    ],
)
def test_round_values_have_a_sub_bin_each(column: dict[str, Any], alone: list[float]) -> None:
    data = {"kind": "table", "columns": [{"name": "value", **column}, COLUMNS[6]]}
    found = TableSchema.model_validate(data).columns[0]
    assert isinstance(found, BinnedColumn)
    starts = np.concatenate([edges[:-1] for edges in sub_edges(found)])
    for value in alone:
        assert np.isclose(starts, value).any()
        assert np.isclose(starts, value + 10.0**-found.decimals_shown).any()


def test_values_at_round_numbers_come_back_there() -> None:
    """Of weights to .1 kg, two in five are multiples of 5 kg: one in seven of an equal cut was."""
    rng, patients = np.random.default_rng(0), 20_000
    weight = rng.normal(75, 15, patients).clip(35, 160)
    told = rng.random(patients)
    weight = np.where(
        told < 0.4, 5 * np.rint(weight / 5), np.where(told < 0.8, np.rint(weight), weight)
    )
    values = {"weight": weight.round(1)}
    data = {"kind": "table", "columns": [
        {"name": "weight", "type": "numeric", "lower": 30, "upper": 200, "decimals": 1}, COLUMNS[6],
    ]}  # fmt: skip
    schema = TableSchema.model_validate(data)
    values["sex"] = np.full(patients, "f", object)
    sub_bins = SubBins(schema.columns)
    counts = sub_bins.by_bin(sub_bins.count(values, np.ones(patients)))["weight"]
    within = np.concatenate([each / max(each.sum(), 1) for each in counts])
    encoder = TableEncoder(schema, within)
    made = encoder.decode(encoder.encode(values), rng)["weight"]
    for step in (5, 1):
        real, found = (np.mean(each % step == 0) for each in (values["weight"], made))
        assert found == pytest.approx(real, abs=0.01)
