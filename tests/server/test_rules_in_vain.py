from datetime import date, timedelta
from typing import Any

import pytest

from pratique_common.schema import TableSchema
from pratique_server.planning import warnings_of
from pratique_server.rules_in_vain import rules_in_vain
from tests.conftest import small_study

COLUMNS: list[dict[str, Any]] = [
    {"name": "sex", "type": "categorical", "categories": ["female", "male"]},
    {"name": "age", "type": "numeric", "lower": 0, "upper": 110, "integer": True},
    {"name": "ward", "type": "categorical", "categories": [f"w{n}" for n in range(150)]},
    {"name": "came", "type": "date", "first": "2020-01-01", "last": "2021-12-31"},
    {"name": "left", "type": "date", "first": "2020-01-01", "last": "2021-12-31"},
    *({"name": name, "type": "numeric", "lower": 0, "upper": 100, "decimals": 2, "missing": True}
      for name in ("part", "rest", "more")),
    {"name": "births", "type": "numeric", "lower": 0, "upper": 20, "asked_if": "sex == 'female'"},
]  # fmt: skip


def _schema(*rules: tuple[str, str], **births: str) -> TableSchema:
    columns = [*COLUMNS[:-1], {**COLUMNS[-1], **births}]
    told = [{"when": when, "then": then} for when, then in rules]
    return TableSchema.model_validate({"kind": "table", "columns": columns, "rules": told})


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [("came >= date('2020-01-01')", "left >= came")],
        [("ward == 'w7' and sex == 'male'", "age == 30")],  # met by one random row in a million
        [("births > 0", "age >= 12"), ("age < 18", "births <= 3"), ("age == 17", "births == 2")],
        [("left - came == 3", "ward in ['w1', 'w2']"), ("ward == 'w1'", "left - came == 3")],
        [("age >= 0", "age <= 110"), ("missing(births)", "sex == 'male'")],
        [("sex == 'male'", "came == left")],
        [("came == left", "age < 100")],
        [("sex == 'male'", "part + rest == 100"), ("part < 50", "age > 3")],
        [
            ("missing(part) and missing(rest) and missing(more)", "sex == 'male'"),
            ("sex == 'male'", "missing(part) and missing(rest) and missing(more)"),
        ],
    ],
)
def test_rules_that_rows_can_obey_are_not_warned_of(rules: list[tuple[str, str]]) -> None:
    assert rules_in_vain(_schema(*rules)) == []


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([("age > 200", "sex == 'male'")], "number 1 may never apply"),
        ([("came < date('2019-12-31')", "sex == 'male'")], "number 1 may never apply"),
        ([("age > 0", "sex == 'male'"), ("age >= 18", "births > 25")], "number 2: where age >= 18"),
        ([("age >= 0", "age > 50"), ("age >= 0", "age < 40")], "number 2 may contradict"),
        ([("age >= 0", "left > came"), ("age >= 0", "came > left + 1")], "number 2 may contradict"),
    ],
)
def test_rules_in_vain_are_warned_of(rules: list[tuple[str, str]], words: str) -> None:
    (warning,) = rules_in_vain(_schema(*rules))
    assert words in warning


def test_a_cell_that_is_never_asked_for_is_warned_of() -> None:
    (warning,) = rules_in_vain(_schema(asked_if="age > 110"))
    assert "births may always be missing" in warning


def test_a_rule_on_the_visit_before_may_hold() -> None:
    visits = {"patient_id": "who", "max_rows_per_patient": 3, "visits": {"order_by": "came"}}
    told = [{"when": "previous(age) > 0", "then": "age >= previous(age)"},
            {"when": "previous(age) > 110", "then": "age == 3"}]  # fmt: skip
    data = {"kind": "table", "columns": COLUMNS, **visits, "rules": told}
    (warning,) = rules_in_vain(TableSchema.model_validate(data))
    assert "number 2 may never apply" in warning


@pytest.mark.parametrize(
    ("rules", "births", "words"),
    [
        ([("sex == 'femal'", "age > 3")], {}, "rules: number 1: 'femal' is no level of sex: did "
         "you mean 'female'"),
        ([("age > 3", "ward in ['w1', 'x']")], {}, "rules: number 1: 'x' is no level of ward"),
        ([], {"asked_if": "sex == 'Female'"}, "births: asked_if: 'Female' is no level of sex: did "
         "you mean 'female'"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_level_is_refused(
    rules: list[tuple[str, str]], births: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match="is no level") as caught:
        _schema(*rules, **births)
    assert words in str(caught.value)


def test_an_expired_study_is_warned_of() -> None:
    study = small_study()
    assert not any("expired" in warning for warning in warnings_of(study))
    yesterday = date.today() - timedelta(days=2)
    disclosure = study.disclosure.model_copy(update={"expires": yesterday})
    old = study.model_copy(update={"disclosure": disclosure})
    assert any(f"expired on {yesterday}" in warning for warning in warnings_of(old))
