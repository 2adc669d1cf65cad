from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pratique_common.encoding import TableEncoder
from pratique_common.schema import CategoricalColumn, NumericColumn, TableSchema


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
            levels = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6,
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
