from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.encoding import TableEncoder
from pratique_common.obeying import decode_obeying
from pratique_common.schema import TableSchema


def _with_rules(*, rules: list[tuple[str, str]], **columns: dict[str, Any]) -> TableEncoder:
    listed = [{"name": name, "type": "numeric", **column} for name, column in columns.items()]
    obeyed = [{"when": when, "then": then} for when, then in rules]
    data = {"kind": "table", "columns": listed, "rules": obeyed}
    return TableEncoder(TableSchema.model_validate(data))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), integer=st.booleans(), bins=st.integers(1, 6))
def test_values_obey_a_rule_wherever_their_bins_allow(seed: int, integer: bool, bins: int) -> None:
    ends = {"lower": 0, "upper": 60, "bins": bins, "integer": integer}
    encoder = _with_rules(rules=[("came >= 0", "left >= came")], came=ends, left=ends)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, bins, (200, 2))
    columns, obeys = decode_obeying(encoder, codes, rng)
    assert (obeys == (codes[:, 1] >= codes[:, 0])).all()  # missed once in 2 ** 21 pairs of one bin
    assert (obeys == (columns["left"] >= columns["came"])).all()
    assert (encoder.encode(columns) == codes).all()


@pytest.mark.parametrize("mean_stay", [5, 60])
def test_a_rule_leaves_single_columns_as_they_are(mean_stay: int) -> None:
    """Drawn again until it obeys, each would be .2 off (a 5-day stay): early and late in a bin."""
    ends = {"lower": 0, "upper": 1_096, "bins": 16, "integer": True}
    encoder = _with_rules(rules=[("came >= 0", "left >= came")], came=ends, left=ends, other=ends)
    rng = np.random.default_rng(3)
    came, other = (np.floor(rng.uniform(0, 1_000, 20_000)) for _ in range(2))
    left = np.minimum(came + np.floor(rng.exponential(mean_stay, 20_000)), 1_095)
    codes = encoder.encode({"came": came, "left": left, "other": other})
    columns, obeys = decode_obeying(encoder, codes, np.random.default_rng(4))
    plain = encoder.decode(codes, np.random.default_rng(4))
    assert obeys.all()
    for name in ("came", "left"):
        assert (np.sort(columns[name]) == np.sort(plain[name])).all()
    assert (columns["other"] == plain["other"]).all()
    assert (encoder.encode(columns) == codes).all()
    assert (columns["left"] - columns["came"]).mean() == pytest.approx(
        (left - came).mean(), rel=0.1
    )


def test_what_no_exchange_can_mend_is_drawn_again() -> None:
    """Half of a bin is below a constant: only the other half is drawn, and rows stay in order."""
    ends = {"lower": 0, "upper": 90, "bins": 3}
    rules = [("a >= 0", "b >= a"), ("a < 30", "a >= 15")]
    encoder = _with_rules(rules=rules, a=ends, b=ends)
    codes = np.random.default_rng(0).integers(0, 3, (9_000, 2))
    columns, obeys = decode_obeying(encoder, codes, np.random.default_rng(1))
    assert (obeys == (codes[:, 1] >= codes[:, 0])).all()
    assert (columns["a"][obeys] >= 15).all()
    assert (columns["b"] >= columns["a"])[obeys].all()


@pytest.mark.parametrize("evenly", [True, False])
def test_values_of_which_a_rule_leaves_little_are_found(evenly: bool) -> None:
    """20 draws would find a value that one in a hundred of a bin has for one row in five."""
    age = {"lower": 0, "upper": 100, "bins": 1}
    encoder = _with_rules(rules=[("age >= 0", "age >= 99")], age=age, other=age)
    codes = np.zeros((500, 2), np.int64)
    columns, obeys = decode_obeying(encoder, codes, np.random.default_rng(0), evenly=evenly)
    assert obeys.all()
    assert (columns["age"] >= 99).all()
    assert len(np.unique(columns["age"])) > 10


def test_a_cell_is_asked_for_where_the_value_that_was_drawn_last_asks() -> None:
    """A bin that a condition cuts: without a code for the cell, only young ones are drawn."""
    age = {"lower": 0, "upper": 100, "bins": 1, "integer": True}
    encoder = _with_rules(
        rules=[], age=age, tests={"lower": 0, "upper": 9, "asked_if": "age >= 50"}
    )
    rng, not_asked = np.random.default_rng(0), encoder.num_levels[1] - 1
    codes = np.column_stack([np.zeros(2_000, int), rng.choice([3, not_asked], 2_000)])
    columns, obeys = decode_obeying(encoder, codes, rng)
    assert obeys.all()
    assert (np.isnan(columns["tests"]) == (columns["age"] < 50)).all()
    assert (columns["age"][codes[:, 1] == not_asked] < 50).all()


def test_what_is_known_stays_and_a_visit_follows_the_one_before() -> None:
    ends = {"lower": 0, "upper": 80, "bins": 2}
    alone = _with_rules(rules=[("a >= 0", "b >= a")], a=ends, b=ends, c=ends).schema
    data = alone.model_dump() | {"patient_id": "who", "max_rows_per_patient": 2}
    data["visits"] = {"order_by": "b", "fixed": ["a"]}
    data["rules"] = [*data["rules"], {"when": "b >= 0", "then": "c < previous(c)"}]
    encoder = TableEncoder(TableSchema.model_validate(data))
    rng = np.random.default_rng(0)
    known, least, most = rng.uniform(0, 20, 500), rng.uniform(0, 20, 500), rng.uniform(30, 40, 500)
    codes = np.zeros((500, 3), np.int64)
    columns, obeys = decode_obeying(
        encoder,
        codes,
        rng,
        known={"a": known},
        before={"a": known, "b": least, "c": most},
        like_MD=codes,
    )
    assert (columns["a"] == known).all()
    assert obeys.all()
    assert (columns["b"] >= np.maximum(known, least)).all()
    assert (columns["c"] < most).all()
    assert max(columns["b"].max(), columns["c"].max()) < 40
    first, _ = decode_obeying(encoder, codes, rng, known={"a": known}, like_MD=codes)
    assert (first["c"] >= most).any()  # nothing is before a first visit


def test_many_rows_of_such_codes_do_not_share_one_value() -> None:
    """60 of 62,500 values of a bin obey, for 13,000 rows."""
    columns = [{"name": "icu", "type": "categorical", "categories": ["no", "yes"]},
               {"name": "vent", "type": "numeric", "lower": 0, "upper": 100_000, "decimals": 1},
               ]  # fmt: skip
    rules = [{"when": "icu == 'no'", "then": "vent < 6"}]
    data = {"kind": "table", "columns": columns, "rules": rules}
    encoder, rng = TableEncoder(TableSchema.model_validate(data)), np.random.default_rng(0)
    codes = np.column_stack([rng.random(20_000) < 0.3, np.zeros(20_000)]).astype(np.int64)
    values, obeys = decode_obeying(encoder, codes, rng)
    assert obeys.all()
    _, count = np.unique(values["vent"][values["icu"] == "no"], return_counts=True)
    assert len(count) > 30
    assert count.max() < 0.2 * count.sum()


@pytest.mark.parametrize(("mean_days", "most_off"), [(20, 0.03), (60, 0.03)])
def test_visits_that_follow_leave_their_dates_as_they_are(mean_days: int, most_off: float) -> None:
    """Drawn again until each follows the one before, dates were .35 and .15 off."""
    rng, num_patients = np.random.default_rng(0), 3_000
    days = [np.floor(rng.uniform(0, 300, num_patients))]
    for _ in range(14):
        days.append(days[-1] + np.floor(rng.exponential(mean_days, num_patients)))
    real = np.array(days)
    real_days = real[real < 1_096]
    columns = [{"name": "day", "type": "numeric", "lower": 0, "upper": 1_096, "bins": 16,
                "integer": True},
               {"name": "weight", "type": "numeric", "lower": 0, "upper": 10}]  # fmt: skip
    data = {"kind": "table", "columns": columns, "patient_id": "who", "max_rows_per_patient": 15}
    encoder = TableEncoder(TableSchema.model_validate({**data, "visits": {"order_by": "day"}}))
    like = encoder.encode({"day": real_days, "weight": np.ones(len(real_days))})
    here, before, made = np.arange(num_patients), None, []
    for visit in real:
        stays = visit[here] < 1_096
        here = here[stays]
        before = None if before is None else {name: c[stays] for name, c in before.items()}
        codes = encoder.encode({"day": visit[here], "weight": np.ones(len(here))})
        values, obeys = decode_obeying(encoder, codes, rng, like_MD=like, before=before)
        here, before = here[obeys], {name: cells[obeys] for name, cells in values.items()}
        made.append(before["day"])
    found = np.concatenate(made)
    assert len(found) > 0.98 * len(real_days)
    windows = [np.histogram(each, np.arange(0, 1_101, 10))[0] / len(each)
               for each in (found, real_days)]  # fmt: skip
    assert abs(windows[0] - windows[1]).sum() / 2 < most_off


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), evenly=st.booleans(), decimals=st.integers(0, 2))
def test_sides_are_equal_where_a_rule_wants_it(seed: int, evenly: bool, decimals: int) -> None:
    """Two totals, one in the other, and a part that only some rows have: draws hardly meet any."""
    part = {"lower": 0, "upper": 500, "bins": 8, "decimals": decimals}
    whole = part | {"upper": 1_500, "bins": 12}
    rules = [("a >= 0", "both == a + b"), ("missing(c)", "all == both")]
    rules += [("not missing(c)", "all - (both - a) == c + a")]
    encoder = _with_rules(
        rules=rules, a=part, b=part, c=part | {"asked_if": "a >= 100"}, both=whole, all=whole
    )
    rng = np.random.default_rng(seed)
    a, b, c = rng.gamma(2, 60, (3, 4_000)).clip(0, 490).round(decimals)
    real = {"a": a, "b": b, "c": np.where(a >= 100, c, np.nan)}
    real["both"] = (a + b).round(decimals)
    real["all"] = (real["both"] + np.nan_to_num(real["c"])).round(decimals)
    assert encoder.schema.obeys_rules(real).all()
    codes = encoder.encode(real)
    columns, obeys = decode_obeying(encoder, codes, rng, evenly=evenly)
    assert obeys.mean() > 0.97
    assert columns["both"][obeys] == pytest.approx((columns["a"] + columns["b"])[obeys])
    assert (encoder.encode(columns) == encoder.blanked(codes, columns)).all()
    for name in ("a", "b", "both", "all"):
        assert columns[name] * 10**decimals == pytest.approx(np.rint(columns[name] * 10**decimals))
        assert columns[name][obeys].mean() == pytest.approx(real[name].mean(), rel=0.05)


def test_a_length_of_stay_follows_from_its_dates_and_the_visit_before() -> None:
    columns = [
        {"name": "came", "type": "date", "first": "2018-01-01", "last": "2020-12-31", "bins": 36},
        {"name": "left", "type": "date", "first": "2018-01-01", "last": "2020-12-31", "bins": 36},
        {"name": "days", "type": "numeric", "lower": 0, "upper": 60, "bins": 12, "integer": True},
        {"name": "gap", "type": "numeric", "lower": 0, "upper": 400, "bins": 10, "integer": True,
         "missing": True},
    ]  # fmt: skip
    rules = [{"when": "days >= 0", "then": "left == came + days"},
             {"when": "gap >= 0", "then": "gap == came - previous(left)"}]  # fmt: skip
    data = {"kind": "table", "columns": columns, "rules": rules, "patient_id": "who",
            "max_rows_per_patient": 2, "visits": {"order_by": "came"}}  # fmt: skip
    encoder, rng = TableEncoder(TableSchema.model_validate(data)), np.random.default_rng(0)
    first = encoder.schema.columns[0].bin_edges()[0]  # type: ignore[union-attr]
    before: dict[str, Any] | None = None
    real: dict[str, Any] = {"left": first + np.floor(rng.uniform(0, 500, 3_000))}
    for visit in range(2):
        gap, days = np.floor(rng.exponential(90, 3_000)), np.floor(rng.exponential(6, 3_000))
        came = real["left"] + gap.clip(0, 399)
        left = came + days.clip(0, 59)
        gaps = gap.clip(0, 399) if visit else np.full(3_000, np.nan)
        real = {"came": came, "left": left, "days": days.clip(0, 59), "gap": gaps}
        values, obeys = decode_obeying(encoder, encoder.encode(real), rng, before=before)
        assert obeys.mean() > (0.9 if visit else 0.99)
        assert (values["left"] - values["came"] == values["days"])[obeys].all()
        if before is not None:
            assert (values["came"] - before["left"] == values["gap"])[obeys].all()
        before = values
