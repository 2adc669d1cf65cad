"""What a study's check says before anything is run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pratique_common.encoding import TableEncoder
from pratique_common.phantoms.cohort import study_path
from pratique_common.study import StudySpec, load_study
from pratique_privacy.audits.context import AuditContext
from pratique_server.cli import app
from pratique_server.planning import num_possible_rows, warnings_of
from tests.conftest import small_study
from tests.small_images import image_study


def _of_yes_and_no(num_columns: int, rows: int) -> StudySpec:
    columns: list[dict[str, Any]] = [
        {"name": f"c{i}", "type": "categorical", "categories": ["no", "yes"]}
        for i in range(num_columns)
    ]
    data = {"kind": "table", "patient_id": None, "columns": columns}
    return small_study(data=data, release={"rows": rows})


def test_possible_rows_are_counted() -> None:
    assert num_possible_rows(_of_yes_and_no(5, 300)) == 32
    # Ages 20 to 100, a marker of 0 to 10 with two decimals or missing, a disease or none.
    assert num_possible_rows(small_study()) == pytest.approx(81 * 1_002 * 2)


@pytest.mark.parametrize(("num_columns", "warned"), [(5, True), (7, True), (11, False)])
def test_a_warning_comes_where_the_audit_would_have_no_rows_that_differ(
    num_columns: int, warned: bool
) -> None:
    study = _of_yes_and_no(num_columns, 1_000)
    assert any("different rows" in warning for warning in warnings_of(study)) == warned
    rng = np.random.default_rng(0)
    rows = TableEncoder(study.data).decode(rng.integers(0, 2, (1_000, num_columns)), rng)
    if warned:
        with pytest.raises(ValueError, match="differ"):
            AuditContext.build(study.data, rows)
    else:
        AuditContext.build(study.data, rows)


@pytest.mark.parametrize(
    ("patients", "changes", "words"),
    [
        (
            200,
            {},
            ["near copies: share of patients", "altered copies, top 1 %: members recognised"],
        ),
        (60_000, {}, ["patients with a near copy", "a cap in people has to grow"]),
        (60_000, {"near_match_patients": 600}, []),
    ],
)
def test_a_warning_comes_where_no_table_at_all_would_pass(
    patients: int, changes: dict[str, Any], words: list[str]
) -> None:
    release = {"rows": 2_000, **changes}
    study = small_study(privacy={"target_epsilon": 3, "expected_patients": patients},
                        release=release)  # fmt: skip
    found = "".join(warnings_of(study))
    assert all(each in found for each in words)
    assert bool(found) == bool(words)


def test_images_of_few_classes_are_rows_enough() -> None:
    study = image_study().model_dump(mode="json")["data"]
    study["columns"] = [column for column in study["columns"] if column["name"] == "kind"]
    study["image"] |= {"position": None}
    found = warnings_of(image_study(data=study, release={"rows": 2_000}))
    assert not any("different rows" in warning for warning in found)


def test_check_prints_warnings(tmp_path: Path) -> None:
    text = study_path().read_text()
    assert not warnings_of(load_study(study_path()))
    path = tmp_path / "tiny.toml"
    columns = [
        f'[[data.columns]]\nname = "{name}"\ntype = "categorical"\ncategories = ["no", "yes"]\n'
        for name in ("ill", "old")
    ]
    head, tail = text[: text.index("[data]")], text[text.index("[privacy]") :]
    path.write_text("\n".join([head, '[data]\nkind = "table"', *columns, tail]))
    result = CliRunner().invoke(app, ["study", "check", str(path), "--json"])
    assert result.exit_code == 0, result.output
    warning = json.loads(result.stdout)["warnings"][0]
    assert "4 different rows" in warning
    assert "warning:" in CliRunner().invoke(app, ["study", "check", str(path)]).stdout


def test_check_shows_rules_and_ids(tmp_path: Path) -> None:
    """Rules decide which rows of a hospital are dropped: whoever approves must read them."""
    path = tmp_path / "study.toml"
    text = study_path().read_text()
    path.write_text(text + '\n[[data.ids]]\nname = "case_no"\n\n[[data.ids]]\nname = "order_no"\n')
    result = CliRunner().invoke(app, ["study", "check", str(path)])
    assert result.exit_code == 0, result.output
    for rule in load_study(path).data.rules:
        assert f"\n  where {rule.when}: {rule.then}\n" in result.stdout
    assert "not released: case_no, order_no\n" in result.stdout


@pytest.mark.parametrize(
    ("last", "then", "warned"),
    [
        ("2021-12-31", "left >= came", True),
        ("2021-12-31", "left >= date('2020-01-01')", False),
        ("2020-01-16", "left >= came", False),  # bins of a day
    ],
)
def test_a_warning_comes_where_two_dates_are_compared_in_wide_bins(
    last: str, then: str, warned: bool
) -> None:
    date = {"type": "date", "first": "2020-01-01", "last": last}
    columns = [{"name": "came", **date}, {"name": "left", **date}]
    rules = [{"when": "not missing(came)", "then": then}] * 2
    data = {"kind": "table", "columns": columns, "rules": rules}
    found = [each for each in warnings_of(small_study(data=data)) if "stay_days" in each]
    assert len(found) == warned
    if warned:
        assert "left and came are dates in bins of up to 46 days" in found[0]
