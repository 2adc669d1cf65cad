import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pratique_common.errors import InvalidFileError
from pratique_common.phantoms.cohort import study_path
from pratique_common.study import StudySpec, load_study, parse_study
from tests.conftest import small_study

STUDIES = Path(__file__).parents[1] / "studies"


def _raw() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(small_study().canonical())
    return raw


def test_canonical_form_is_stable_and_complete(cardiology: StudySpec) -> None:
    again = parse_study(json.loads(cardiology.canonical()), source="again")
    assert again == cardiology
    assert again.digest == cardiology.digest
    assert b'"noise":"secure_sum"' in cardiology.canonical()  # defaults are part of the contract


def test_digest_does_not_depend_on_the_order_of_fields() -> None:
    raw = _raw()
    turned = dict(reversed(list(raw.items())))
    assert parse_study(turned, source="x").digest == parse_study(raw, source="x").digest


@given(epsilon=st.floats(0.1, 50), rows=st.integers(100, 100_000))
def test_every_change_changes_the_digest(epsilon: float, rows: int) -> None:
    raw = _raw()
    before = parse_study(raw, source="x").digest
    raw["privacy"]["target_epsilon"] = epsilon
    raw["release"]["rows"] = rows
    changed = (epsilon, rows) != (3.0, 300)
    assert (parse_study(raw, source="x").digest != before) == changed


@pytest.mark.parametrize("path", [study_path(), *sorted(STUDIES.glob("*.toml"))])
def test_every_study_file_of_the_project_loads(path: Path) -> None:
    assert load_study(path).data.target is not None


@pytest.mark.parametrize(
    ("where", "value", "field"),
    [
        (("privacy", "target_epsilon"), 0, "privacy.target_epsilon"),
        (("privacy", "target_epsilon"), -1, "privacy.target_epsilon"),
        (("privacy", "noise"), "none", "privacy.noise"),
        (("privacy", "surprise"), 1, "privacy.surprise"),
        (("privacy", "target_delta"), 0.01, "target_delta"),
        (("release", "min_sites"), 2, "release.min_sites"),
        (("training", "sample_rate"), 1.5, "training.sample_rate"),
        (("training", "reply_interval_s"), 151.0, "half of round_timeout_s"),
        (("data", "target"), "age", "target"),
        (("data", "target"), "nothing", "target"),
        (("data", "patient_id"), "age", "patient_id"),
        (("data", "quasi_identifiers"), ["height"], "quasi_identifiers"),
        (("data", "rules"), [{"when": "age >", "then": "age > 1"}], "data.rules.1.when"),
        (("data", "rules"), [{"when": "weight > 1", "then": "age > 1"}], "rules"),
        (("data", "rules"), [{"when": "disease > 1", "then": "age > 1"}], "rules"),
        (("name",), "Not A Name", "name"),
    ],
)
def test_errors_name_file_and_field(where: tuple[str, ...], value: object, field: str) -> None:
    raw = _raw()
    part = raw
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    with pytest.raises(InvalidFileError) as caught:
        parse_study(raw, source="bad.toml")
    message = str(caught.value)
    assert message.startswith("bad.toml: ")
    assert field in message
    assert message.count("\n") == 0


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"lower": 5, "upper": 5}, "lower must be below upper"),
        ({"lower": 0}, "lower and upper are needed"),
        ({"edges": [1, 1]}, "increasing"),
        ({"edges": [0, 1], "bins": 3}, "either edges"),
        ({"lower": 0, "upper": 4, "bins": 9, "integer": True}, "hold a value"),
        ({"lower": 0, "upper": float("inf")}, "finite"),
        ({"lower": -1e300, "upper": 1e300}, "limits must be within"),
        ({"lower": 1e14, "upper": 1e14 + 16}, "too narrow for its bins"),
    ],
)
def test_numeric_columns_refuse_impossible_bins(column: dict[str, Any], problem: str) -> None:
    raw = _raw()
    raw["data"]["columns"][0] = {"name": "age", "type": "numeric", **column}
    with pytest.raises(InvalidFileError, match=problem):
        parse_study(raw, source="bad.toml")


def test_access_sets_the_default_tolerances() -> None:
    strict = small_study(release={"rows": 300, "access": "open"}).release
    assert (strict.near_match_excess, strict.tail_tpr) == (0.015, 0.02)
    own = small_study(release={"rows": 300, "access": "open", "tail_tpr": 0.025}).release
    assert (own.near_match_excess, own.tail_tpr) == (0.015, 0.025)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"name = ", "not valid TOML"), (b"name = '\xff\xfe'", "UTF-8"), (None, "no such file")],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidFileError, match=problem):
        load_study(path)


def test_a_byte_order_mark_is_no_part_of_a_study(tmp_path: Path, cardiology: StudySpec) -> None:
    """Some editors write one."""
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + study_path().read_bytes())
    assert load_study(path) == cardiology


def test_the_demo_study_file_is_what_is_parsed(cardiology: StudySpec) -> None:
    raw = tomllib.loads(study_path().read_text("utf-8"))
    assert cardiology.simulated
    assert len(raw["data"]["columns"]) == len(cardiology.data.columns)
