"""Values that come out of bins lie on the grid that the study shows, inside their bin."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pratique_common.binned_columns import NumericColumn
from pratique_common.encoding import TableEncoder
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins, sub_edges

SEX = {"name": "sex", "type": "categorical", "categories": ["f", "m"]}
NUMBERS = st.one_of(
    st.integers(-2_000, 2_000).map(float),
    st.decimals(-100, 100, places=3, allow_nan=False).map(float),
    st.floats(-1e6, 1e6),
)


def _schema(**fields: Any) -> TableSchema:
    column = {"name": "x", "type": "numeric", **fields}
    with np.errstate(divide="raise", invalid="raise"):
        return TableSchema.model_validate({"kind": "table", "columns": [column, SEX]})


@st.composite
def columns(draw: st.DrawFn) -> TableSchema:
    """Any numeric column that a study accepts, written in any of the ways there are."""
    fields: dict[str, Any] = {"integer": draw(st.booleans())}
    if (decimals := draw(st.none() | st.integers(0, 9))) is not None:
        fields["decimals"] = decimals
    if draw(st.booleans()):
        ends = draw(st.lists(NUMBERS, min_size=2, max_size=8, unique=True))
        fields["edges"] = sorted(ends)
    else:
        lower, upper = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
        if draw(st.booleans()):
            fields["spacing"], lower, upper = "log", abs(lower), abs(lower) + upper - lower
        fields |= {"lower": draw(st.sampled_from([lower, 0.0])) if lower > 0 else lower}
        fields |= {"upper": upper, "bins": draw(st.none() | st.integers(1, 40))}
    try:
        return _schema(**fields)
    except ValidationError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(schema=columns(), seed=st.integers(0, 2**32 - 1), heaps=st.booleans())
def test_values_lie_on_the_grid_in_the_bin_they_were_drawn_for(
    schema: TableSchema, seed: int, heaps: bool
) -> None:
    rng = np.random.default_rng(seed)
    column = schema.columns[0]
    assert isinstance(column, NumericColumn)
    within = None
    if heaps:
        shares = [rng.dirichlet(np.full(len(cuts) - 1, 0.2)) for cuts in sub_edges(column)]
        within = np.concatenate(shares) if SubBins(schema.columns).size else None
    encoder = TableEncoder(schema, within)
    codes = np.stack([rng.integers(0, n, 300) for n in encoder.num_levels], axis=1)
    values = encoder.decode(codes, rng)
    assert (encoder.encode(values) == codes).all()
    x = values["x"]
    limits = (column.edges or (column.lower, column.upper))[:: len(column.edges or "ab") - 1]
    slack = 1e-6 * 10.0**-column.decimals_shown
    assert limits[0] - slack <= x.min() and x.max() <= limits[1] + slack
    assert column.decimals_shown <= (9 if column.decimals is None else column.decimals)
    for value in x:
        digits = Decimal(repr(float(value))).as_tuple()
        assert -int(digits.exponent) <= max(column.decimals_shown, 1)  # 5.0 has one
        assert value == round(value, column.decimals_shown)
        assert len(digits.digits) <= 16 or abs(value) >= 1e15


@settings(max_examples=200, deadline=None)
@given(schema=columns(), seed=st.integers(0, 2**32 - 1))
def test_real_values_are_in_the_sub_bins_of_their_bin(schema: TableSchema, seed: int) -> None:
    """On the grid or not: both histograms of a column see the same bins."""
    column = schema.columns[0]
    assert isinstance(column, NumericColumn)
    rng = np.random.default_rng(seed)
    edges = column.bin_edges()
    x = edges[0] + (edges[-1] - edges[0]) * rng.random(200)
    x[:50] = rng.choice(edges, 50)
    finer = SubBins(schema.columns)
    assume(finer.size and not column.integer)
    # Within a millionth of a step below a value, floats are taken for it.
    step = 10.0**-column.decimals_shown
    x = x[np.abs(x / step - np.rint(x / step)) > 1e-3]
    counted = finer.by_bin(finer.count({"x": x}, np.ones(len(x))))["x"]
    codes = TableEncoder(schema).encode({"x": x, "sex": np.full(len(x), "f", object)})[:, 0]
    wanted = np.bincount(codes, minlength=column.num_bins)
    assert [part.sum() for part in counted] == wanted.tolist()


@pytest.mark.parametrize(
    ("fields", "edges"),
    [
        ({"lower": 0, "upper": 5, "decimals": 1, "bins": 4}, [0, 1.3, 2.5, 3.8, 5]),
        ({"lower": 0.25, "upper": 1.77, "decimals": 1, "bins": 2}, [0.3, 1.1, 1.7]),
        ({"edges": [0, 0.5, 1.25, 3], "decimals": 1}, [0, 0.5, 1.3, 3]),
        ({"edges": [0, 0.125, 3]}, [0, 0.125, 3]),
        ({"lower": 0, "upper": 10, "decimals": 0}, list(range(11))),
        ({"lower": 1, "upper": 4, "integer": True}, [1, 2, 3, 4]),
        ({"lower": 0, "upper": 0.16}, [k / 100 for k in range(17)]),
        ({"lower": 1e-9, "upper": 0.02, "spacing": "log", "decimals": 2}, [0.01, 0.02]),
        ({"lower": 0.1, "upper": 1, "spacing": "log", "decimals": 1, "bins": 8},
         [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1]),
    ],
)  # fmt: skip
def test_edges_lie_on_the_grid_too(fields: dict[str, Any], edges: list[float]) -> None:
    """Floats of 0 to 0.16 in 16 parts are not all hundredths, and log-spaced edges may meet."""
    column = _schema(**fields).columns[0]
    assert isinstance(column, NumericColumn)
    assert column.bin_edges().tolist() == edges


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"edges": [0, 0.3, 0.4, 1], "decimals": 0}, "must hold a value with 0 decimals"),
        ({"lower": 0, "upper": 1, "bins": 16, "decimals": 1}, "more decimals"),
        ({"lower": 0.11, "upper": 0.14, "decimals": 1}, "must hold"),
        ({"lower": 0.11, "upper": 0.14, "decimals": 1, "spacing": "log"}, "two values"),
        ({"lower": 0, "upper": 5, "bins": 9, "integer": True}, "use fewer bins"),
        ({"lower": 1e-9, "upper": 1e-7, "decimals": 2, "spacing": "log"}, "two values"),
        ({"lower": 0.5, "upper": 1.5, "integer": True}, "two values"),
    ],
)
def test_bins_without_a_value_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _schema(**fields)


def test_the_highest_value_is_drawn_like_others() -> None:
    """A score of 0 to 1 in tenths: 1.0 is one of eleven values, and was never drawn."""
    schema = _schema(lower=0, upper=1, decimals=1, bins=1)
    rng = np.random.default_rng(0)
    drawn = TableEncoder(schema).decode(np.zeros((11_000, 2), np.int64), rng)["x"]
    assert np.bincount(np.rint(10 * drawn).astype(int)) == pytest.approx(np.full(11, 1_000), abs=20)


@pytest.mark.parametrize(
    ("fields", "decimals"),
    [
        ({"lower": 0, "upper": 300}, 2),
        ({"lower": 0, "upper": 0.1}, 3),
        ({"lower": 0.001, "upper": 1e4, "spacing": "log"}, 4),
        ({"lower": 20, "upper": 1e7, "spacing": "log"}, 2),
        ({"lower": 0, "upper": 1e14}, 0),
        ({"lower": 0, "upper": 0.1, "decimals": 5}, 5),
    ],
)
def test_decimals_follow_from_limits_and_bins_if_none_are_written(
    fields: dict[str, Any], decimals: int
) -> None:
    column = _schema(**fields).columns[0]
    assert isinstance(column, NumericColumn)
    assert column.decimals_shown == decimals
