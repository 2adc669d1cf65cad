from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pratique_common.binned_columns import NumericColumn
from pratique_common.columns import CategoricalColumn
from pratique_common.encoding import TableEncoder
from pratique_common.in_bins import ValuesInBins
from pratique_common.schema import TableSchema

LEVELS = st.text(min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def schemas(draw: st.DrawFn) -> TableSchema:
    columns: list[dict[str, Any]] = []
    for number in range(draw(st.integers(2, 5))):
        missing = draw(st.booleans())
        if draw(st.booleans()):
            lower = draw(st.integers(-1000, 1000))
            width = draw(st.integers(1, 500))
            integer = draw(st.booleans())
            bins = draw(st.integers(1, min(20, width)))
            columns.append(
                {"name": f"c{number}", "type": "numeric", "lower": lower, "upper": lower + width,
                 "bins": bins, "integer": integer, "missing": missing,
                 "decimals": draw(st.integers(0, 6))}
            )  # fmt: skip
        else:
            levels = draw(st.lists(LEVELS, min_size=1, max_size=6,
                                   unique=True))  # fmt: skip
            other = draw(st.booleans()) and "other" not in levels
            columns.append({"name": f"c{number}", "type": "categorical", "categories": levels,
                            "missing": missing, "other": other})  # fmt: skip
    return TableSchema.model_validate({"kind": "table", "columns": columns})


@settings(max_examples=60, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 2**32 - 1))
def test_decoding_stays_in_the_bin_and_in_the_domain(schema: TableSchema, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoder = TableEncoder(schema)
    codes = np.stack([rng.integers(0, n, 50) for n in encoder.num_levels], axis=1)
    columns = encoder.decode(codes, rng)
    assert (encoder.encode(columns) == codes).all()
    for d, column in enumerate(schema.columns):
        _check_domain(column, columns[column.name], codes[:, d])


def _check_domain(
    column: NumericColumn | CategoricalColumn, values: NDArray[Any], codes: NDArray[np.int64]
) -> None:
    missing = codes == column.num_levels - 1 if column.missing else np.zeros(len(codes), bool)
    if isinstance(column, CategoricalColumn):
        assert set(values[~missing]) <= set(column.levels)
        assert all(value is None for value in values[missing])
    else:
        edges = column.bin_edges()
        known = values[~missing]
        assert np.isnan(values[missing]).all()
        assert ((known >= edges[0]) & (known <= edges[-1])).all()
        if column.integer:
            assert (known == np.round(known)).all()


def test_edges_belong_to_the_upper_bin_and_the_last_bin_is_closed() -> None:
    schema = TableSchema.model_validate(
        {"kind": "table", "columns": [
            {"name": "x", "type": "numeric", "edges": [0, 1, 2]},
            {"name": "y", "type": "categorical", "categories": ["a"], "missing": True},
        ]}
    )  # fmt: skip
    x = np.array([0.0, 0.99, 1.0, 2.0])
    y = np.array(["a", None, "a", "a"], object)
    codes = TableEncoder(schema).encode({"x": x, "y": y})
    assert codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 0]]


def test_values_outside_the_domain_are_refused_without_naming_them() -> None:
    schema = TableSchema.model_validate(
        {"kind": "table", "columns": [
            {"name": "x", "type": "numeric", "edges": [0, 1]},
            {"name": "y", "type": "categorical", "categories": ["a"]},
        ]}
    )  # fmt: skip
    with pytest.raises(ValueError, match="column y") as caught:
        TableEncoder(schema).encode({"x": np.array([0.5]), "y": np.array(["SECRET"], object)})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="column x"):
        TableEncoder(schema).encode({"x": np.array([np.nan]), "y": np.array(["a"], object)})


def _column(**settings: Any) -> NumericColumn:
    column = NumericColumn.model_validate({"name": "x", "type": "numeric", **settings})
    assert isinstance(column, NumericColumn)
    return column


def test_values_inside_bins_follow_the_neighbours_and_keep_every_share() -> None:
    """A normal distribution seen through ten bins comes back smooth: no step at an edge."""
    column = _column(lower=-4, upper=4, bins=10, decimals=4)
    rng = np.random.default_rng(0)
    real = rng.normal(0, 1, 200_000).clip(-4, 3.9999)
    bins = np.searchsorted(column.bin_edges(), real, side="right") - 1
    drawn = ValuesInBins(column, np.bincount(bins, minlength=10).astype(float)).draw(bins, rng)
    np.testing.assert_array_equal(
        np.searchsorted(column.bin_edges(), drawn, side="right") - 1, bins
    )
    fine = np.linspace(-3, 3, 61)
    expected, smooth = (np.histogram(v, fine)[0] / len(v) for v in (real, drawn))
    flat = np.histogram(column.bin_edges()[bins] + 0.8 * rng.random(len(bins)), fine)[0] / len(bins)
    assert np.abs(smooth - expected).sum() < 0.35 * np.abs(flat - expected).sum()


def test_a_heavy_tail_is_not_flat_and_integers_are_whole() -> None:
    column = _column(edges=[0, 1, 1000, 5000, 100_000], integer=True)
    rng = np.random.default_rng(1)
    bins = np.repeat([0, 1, 2, 3], [900, 60, 30, 10]).astype(np.int64)
    values = ValuesInBins(column, np.bincount(bins).astype(float)).draw(np.repeat(bins, 100), rng)
    assert (values == np.round(values)).all()
    tail = values[values >= 5000]
    assert np.median(tail) < 0.8 * (5000 + 100_000) / 2
    assert (values == 0).mean() == pytest.approx(0.9)


def test_decimals_are_the_columns_and_no_value_stands_out() -> None:
    column = _column(edges=[15, 18.5, 25, 30, 60], decimals=1)
    bins = np.repeat([0, 1, 2, 3], [500, 4_000, 3_000, 1_500]).astype(np.int64)
    rng = np.random.default_rng(2)
    values = ValuesInBins(column, np.bincount(bins).astype(float)).draw(bins, rng)
    np.testing.assert_allclose(values * 10, np.round(values * 10), atol=1e-9)
    counts = np.unique(np.round(values * 10).astype(int), return_counts=True)[1]
    neighbours = (counts[:-2] + counts[2:]) / 2
    assert (counts[1:-1] < 2 * neighbours + 12).all()


def test_bins_that_nobody_has_do_not_break_the_curve() -> None:
    column = _column(edges=[0, 1, 2, 3], decimals=3)
    rng = np.random.default_rng(3)
    for shares in ([0, 1, 0], [0, 0, 0], [1, 0, 1]):
        values = ValuesInBins(column, np.array(shares, float)).draw(np.array([0, 1, 2, 2]), rng)
        assert (np.floor(values) == [0, 1, 2, 2]).all()
