import numpy as np
import pytest

from pratique_common.rules import Condition, RuleSyntaxError

COLUMNS = {
    "age": np.array([10.0, 50.0, np.nan, 90.0]),
    "limit": np.array([20.0, 20.0, 20.0, np.nan]),
    "icu": np.array(["no", "yes", None, "yes"], object),
    "odd name": np.array(["a", "b", "c", None], object),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age > 20", [False, True, False, True]),
        ("age != 50", [True, False, False, True]),  # missing is never compared
        ("age < limit", [True, False, False, False]),
        ("10 <= age <= 50", [True, True, False, False]),
        ("icu == 'yes'", [False, True, False, True]),
        ("icu in ['yes', 'maybe']", [False, True, False, True]),
        ("icu not in ['yes']", [True, False, False, False]),
        ("missing(icu)", [False, False, True, False]),
        ("not missing(age)", [True, True, False, True]),
        ("icu == 'yes' and age > 60", [False, False, False, True]),
        ("icu == 'no' or age == 50", [True, True, False, False]),
        ("col('odd name') == 'a'", [True, False, False, False]),
        ("missing(col('odd name'))", [False, False, False, True]),
        ("age > -5", [True, True, False, True]),
    ],
)
def test_conditions_by_hand(text: str, expected: list[bool]) -> None:
    assert Condition(text).holds(COLUMNS).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "age.real > 1",
        "age + 1 > 2",
        "lambda: 1",
        "age",
        "age is None",
        "age in icu",
        "'yes'",
        "",
        "age == True",
        "[age for age in icu]",
    ],
)
def test_nothing_but_conditions_is_accepted(text: str) -> None:
    with pytest.raises(RuleSyntaxError):
        Condition(text)


def test_dates_and_times_are_compared_with_their_own_kind() -> None:
    kinds = {"admitted": "date", "at": "time", "age": "number", "icu": "text"}
    columns = {"admitted": np.array([18_262.0, np.nan]), "at": np.array([510.0, 0.0])}
    for text, expected in (
        ("admitted == date('2020-01-01')", [True, False]),
        ("admitted > date('2020-01-01')", [False, False]),
        ("at >= time('08:30')", [True, False]),
        ("at in [time('00:00'), time('01:00')]", [False, True]),
    ):
        condition = Condition(text)
        condition.check_types(kinds)
        assert condition.holds(columns).tolist() == expected
    for wrong in ("admitted > 18262", "at == date('2020-01-01')", "age < time('08:30')"):
        with pytest.raises(RuleSyntaxError, match="with dates"):
            Condition(wrong).check_types(kinds)
    for wrong in ("admitted > date('1.1.2020')", "at > time('25:00')"):
        with pytest.raises(RuleSyntaxError, match=r"write (date|time)"):
            Condition(wrong)
