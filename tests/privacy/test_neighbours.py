import numpy as np
import pytest

from pratique_common.binned_columns import NumericColumn
from pratique_common.schema import TableSchema
from pratique_privacy import neighbours
from pratique_privacy.neighbours import Columns, EncodedRows, MixedEncoder, level_codes

SCHEMA = TableSchema.model_validate(
    {
        "kind": "table",
        "columns": [
            {"name": "a", "type": "numeric", "lower": 0, "upper": 10},
            {"name": "b", "type": "numeric", "lower": 0, "upper": 10, "missing": True},
            {"name": "c", "type": "categorical", "categories": ["x", "y", "z"]},
            {"name": "d", "type": "categorical", "categories": ["p", "q"], "missing": True},
            {"name": "e", "type": "numeric", "lower": 0, "upper": 10},
        ],
    }
)
HALVES = (("a", "e", "d"), ("b", "c"))


def _table(rows: int, seed: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    b = rng.integers(0, 6, rows).astype(float)
    b[rng.random(rows) < 0.2] = np.nan
    return {
        "a": rng.integers(0, 6, rows).astype(float),
        "b": b,
        "c": rng.choice(np.array(["x", "y", "z"], object), rows),
        "d": rng.choice(np.array(["p", "q", None], object), rows),
        "e": rng.random(rows) * 10,
    }


def _column_distance(public: Columns, name: str, x: object, y: object) -> float:
    """Gower's distance of one column, straight from its definition."""
    if not isinstance(SCHEMA.column(name), NumericColumn):
        return float(x != y)
    missing = np.isnan([x, y])  # type: ignore[list-item]
    if missing.any():
        return float(missing[0] != missing[1])
    known = public[name][~np.isnan(public[name])]
    ecdf = [((known < v).mean() + (known <= v).mean()) / 2 for v in (x, y)]
    return float(abs(ecdf[0] - ecdf[1]))


def _oracle(public: Columns, query: Columns, names: tuple[str, ...]) -> np.ndarray:  # type: ignore[type-arg]
    sizes = len(query["a"]), len(public["a"])
    return np.array(
        [
            [
                sum(_column_distance(public, n, query[n][i], public[n][j]) for n in names)
                for j in range(sizes[1])
            ]
            for i in range(sizes[0])
        ]
    )


@pytest.mark.parametrize("block_queries", [512, 7])
def test_agrees_with_the_definition(monkeypatch: pytest.MonkeyPatch, block_queries: int) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_QUERIES", block_queries)
    public, query = _table(30, 1), _table(25, 2)
    encoder = MixedEncoder(SCHEMA, public)
    found = encoder.nearest(encoder.encode(query), encoder.encode(public))
    half_a, half_b = (_oracle(public, query, names) for names in HALVES)
    whole = np.sort(half_a + half_b, axis=1)
    np.testing.assert_allclose(found.first, whole[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.second, whole[:, 1], atol=1e-5)
    at_nearest = (half_a + half_b)[np.arange(25), found.nearest]
    np.testing.assert_allclose(at_nearest, whole[:, 0], atol=1e-5)
    near_a = half_a <= half_a.min(1, keepdims=True) + 1e-6
    near_b = half_b <= half_b.min(1, keepdims=True) + 1e-6
    np.testing.assert_array_equal(found.linkable, (near_a & near_b).any(1))


def test_identical_rows_are_exactly_zero_and_others_are_not() -> None:
    public = _table(200, 3)
    encoder = MixedEncoder(SCHEMA, public)
    found = encoder.nearest(encoder.encode(public), encoder.encode(public))
    assert (found.first == 0).all()
    assert found.linkable.all()
    moved = {**public, "e": public["e"] + 1e-9}
    assert (encoder.nearest(encoder.encode(moved), encoder.encode(public)).first > 0).all()


def test_leave_one_out_does_not_count_the_row_itself() -> None:
    public = _table(50, 4)
    encoder = MixedEncoder(SCHEMA, public)
    rows = encoder.encode(public)
    alone = encoder.nearest(rows, rows, leave_out_self=True)
    np.testing.assert_allclose(alone.first, encoder.nearest(rows, rows).second)


def test_real_ranges_never_enter_the_distance() -> None:
    public = _table(50, 5)
    encoder = MixedEncoder(SCHEMA, public)
    query = _table(5, 6)
    extreme = {name: np.concatenate([values, values[:1]]) for name, values in query.items()}
    extreme["a"][-1] = 1e9
    before = encoder.nearest(encoder.encode(query), encoder.encode(public)).first
    after = encoder.nearest(encoder.encode(extreme), encoder.encode(public)).first[:5]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("leave_out_self", [False, True])
@pytest.mark.parametrize("numbers", ["abe", "a", ""])
def test_many_rows_agree_with_plain_arrays(numbers: str, leave_out_self: bool) -> None:
    """Over the blocks of the compiled loops, with ties in plenty: exactly the same numbers."""
    names = [*numbers, "c", "d"]
    columns = [column for column in SCHEMA.columns if column.name in names]
    schema = TableSchema(kind="table", columns=tuple(columns))
    public = {name: values for name, values in _table(5_000, 7).items() if name in names}
    encoder = MixedEncoder(schema, public)
    reference = encoder.encode(public)
    query = encoder.encode({name: values[4_000:4_060] for name, values in public.items()})
    if leave_out_self:  # whose place is that of the query
        order = np.r_[4_000:5_000, 0:4_000]
        reference = EncodedRows(reference.numbers[order], reference.levels[order])
    _assert_exact(encoder, query, reference, leave_out_self=leave_out_self)


def _assert_exact(
    encoder: MixedEncoder, query: EncodedRows, reference: EncodedRows, *, leave_out_self: bool
) -> None:
    """The oracle: all distances of both halves at once."""
    unit, split = encoder._unit, encoder._in_first_half
    halves = np.zeros((2, query.num_rows, reference.num_rows))
    for d in range(query.numbers.shape[1]):
        apart = np.abs(query.numbers[:, d, None] - reference.numbers[:, d])
        halves[int(d >= split[0])] += np.minimum(apart, unit)
    for d in range(query.levels.shape[1]):
        halves[int(d >= split[1])] += unit * (query.levels[:, d, None] != reference.levels[:, d])
    if leave_out_self:
        halves[:, np.arange(query.num_rows), np.arange(query.num_rows)] = np.inf
    found = encoder.nearest(query, reference, leave_out_self=leave_out_self)
    whole = halves.sum(0)
    two = np.sort(whole, axis=1)[:, :2] / unit
    np.testing.assert_array_equal(np.stack([found.first, found.second], axis=1), two)
    np.testing.assert_array_equal(found.nearest, whole.argmin(1))
    at_least = halves == halves.min(2, keepdims=True)
    np.testing.assert_array_equal(found.linkable, at_least.all(0).any(1))


def _encoder(num_numbers: int, num_levels: int) -> MixedEncoder:
    """An encoder of so many columns, for rows that are made without it."""
    columns = [
        {"name": f"n{d}", "type": "numeric", "lower": 0, "upper": 1} for d in range(num_numbers)
    ] + [
        {"name": f"c{d}", "type": "categorical", "categories": ["x", "y"]}
        for d in range(num_levels)
    ]
    schema = TableSchema.model_validate({"kind": "table", "columns": columns})
    return MixedEncoder(schema, {column.name: np.zeros(1) for column in schema.columns})


@pytest.mark.parametrize("leave_out_self", [False, True])
@pytest.mark.parametrize(
    ("num_numbers", "num_levels", "num_values"),
    [
        (2, 0, 10**6),
        (0, 2, 3),
        (9, 0, 3),
        (9, 0, 10**6),
        (0, 9, 2),
        (0, 9, 1_000),
        (1, 9, 40),
        (9, 2, 30),
        (12, 14, 2),
        (12, 14, 10**6),
        (280, 5, 50),
        (3, 300, 3),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_screens_lose_no_row(
    num_numbers: int, num_levels: int, num_values: int, seed: int, leave_out_self: bool
) -> None:
    """Ties and twins or none, missing numbers, more levels and columns than bytes hold."""
    rng = np.random.default_rng(seed)
    encoder = _encoder(num_numbers, num_levels)
    unit = encoder._unit

    def rows(size: int) -> EncodedRows:
        shape = size, num_numbers
        grid = np.sort(rng.integers(0, unit + 1, min(num_values, 1_000)))
        numbers = rng.choice(grid, shape) if seed else rng.integers(0, unit + 1, shape)
        numbers[rng.random(shape) < 0.1] = 2 * unit
        levels = rng.integers(0, num_values, (size, num_levels))
        return EncodedRows(numbers.astype(np.int32), levels.astype(np.int32))

    reference, query = rows(4_500), rows(30)
    # Near rows and twins, in front and behind, in both orders.
    for part in (reference.numbers, query.numbers), (reference.levels, query.levels):
        part[0][2_040:2_055], part[0][4_490:] = part[1][:15], part[1][10:20]
        for i in range(20, 30):
            part[0][i::1_000, :-1] = part[1][i, :-1]
    if leave_out_self:
        query = EncodedRows(reference.numbers[:30], reference.levels[:30])
    _assert_exact(encoder, query, reference, leave_out_self=leave_out_self)


@pytest.mark.parametrize("num_rows", [3, 2_047, 2_048, 2_049])
def test_rows_farther_than_any_are_found(num_rows: int) -> None:
    encoder = _encoder(4, 4)  # whose distances reach 2²⁴
    apart = EncodedRows(
        np.full((num_rows, 4), 2 * encoder._unit, np.int32), np.ones((num_rows, 4), np.int32)
    )
    origin = EncodedRows(np.zeros((2, 4), np.int32), np.zeros((2, 4), np.int32))
    found = encoder.nearest(origin, apart)
    assert (found.first == 8).all()
    assert (found.second == 8).all()
    assert (found.nearest == 0).all()
    assert found.linkable.all()


def test_a_level_outside_the_domain_is_not_told() -> None:
    values = np.array(["x", "SECRET"], object)
    with pytest.raises(ValueError, match="column c") as caught:
        level_codes(SCHEMA.column("c"), values)
    assert "SECRET" not in str(caught.value)
