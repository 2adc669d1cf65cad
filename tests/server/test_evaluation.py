"""``pratique evaluate`` through the public command, and its statistics against known values."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.schema import TableSchema
from pratique_server.evaluation.fidelity import _association, _correlations, _ranks, fidelity
from pratique_server.evaluation.rows import Rows
from pratique_server.evaluation.usefulness import _error, _slope
from tests.common.test_image_spec import IMAGE, KIND
from tests.common.test_image_spec import schema as image_schema
from tests.pages import assert_accessible
from tests.server.test_opinion import invoke, read

LIKENESS = ["tv1", "tv2", "tv3", "association", "rank_correlation", "detection_auc"]
LEARNERS = ("", "_logistic_regression", "_random_forest")
UTILITY = [
    *(f"{kind}_auc{learner}" for kind in ("tstr", "trts") for learner in LEARNERS),
    "calibration_slope",
    "calibration_error",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantom patients of one hospital in three parts."""
    folder = tmp_path_factory.mktemp("files")
    sizes = {"harbour": 2_600, "northgate": 1, "lakeside": 1}
    whole = read(write_cohort(folder, seed=11, num_patients=sizes)["harbour"])
    parts = np.split(
        np.random.default_rng(5).permutation(whole["patient"].unique()), [1_000, 1_600]
    )
    paths = {name: folder / f"{name}.csv" for name in ("train", "holdout", "honest")}
    for path, part in zip(paths.values(), parts, strict=True):
        whole[whole["patient"].isin(part)].to_csv(path, index=False)
    return paths


def _without_rules() -> str:
    """The cardiology study for tables whose columns do not go together."""
    text = study_path().read_text(encoding="utf-8")
    return re.sub(r"\[\[data\.rules\]\].*?(?=\n\[)", "", text, flags=re.DOTALL)


def _evaluate(study: Path, files: dict[str, Path], synthetic: Path, *more: object) -> Any:
    exit_code, printed = invoke(
        "evaluate", study, "--synthetic", synthetic, "--train", files["train"],
        "--test", files["holdout"], "--json", *more,
    )  # fmt: skip
    assert exit_code == 0
    return json.loads(printed)


def test_evaluation_tells_a_real_table_from_shuffled_columns(
    files: dict[str, Path], tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(_without_rules())
    # One row of each patient: rows of a table without patients count alike.
    real = read(files["honest"]).groupby("patient").sample(1, random_state=0)
    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({name: rng.permutation(real[name]) for name in real})
    real.to_csv(tmp_path / "real.csv", index=False)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    good = _evaluate(study, files, tmp_path / "real.csv")["measures"]
    bad = _evaluate(study, files, tmp_path / "shuffled.csv")["measures"]
    for measures in (good, bad):
        assert list(measures) == [*LIKENESS, *UTILITY]
        for measure in measures.values():
            assert measure["lower"] <= measure["value"] <= measure["upper"]
            assert measure["baseline_lower"] <= measure["baseline"] <= measure["baseline_upper"]
            if measure["id"] != "calibration_slope":
                assert measure["lower"] >= 0 and measure["upper"] <= 1
    # The same single columns, of other draws of as many patients as the test table has.
    assert bad["tv1"]["value"] == pytest.approx(good["tv1"]["value"], abs=0.01)
    for farther in ("tv2", "tv3", "association", "rank_correlation", "detection_auc"):
        assert bad[farther]["lower"] > good[farther]["upper"], farther
    for learner in LEARNERS:
        tstr = f"tstr_auc{learner}"
        assert bad[tstr]["upper"] < good[tstr]["lower"]
        assert bad[tstr]["value"] < 0.6  # what chance makes of a shuffled table may be below .5
        assert abs(good[tstr]["value"] - good[tstr]["baseline"]) < 0.06
        assert bad[f"trts_auc{learner}"]["upper"] < good[f"trts_auc{learner}"]["lower"]
    assert good["detection_auc"]["lower"] < 0.53
    assert abs(good["detection_auc"]["baseline"] - 0.5) < 0.05
    assert bad["calibration_slope"]["value"] < good["calibration_slope"]["lower"]


def test_evaluation_without_a_target_and_as_a_page(files: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    text = study_path().read_text(encoding="utf-8")
    study.write_text(re.sub(r"(?m)^target(_positive)? = .*\n", "", text))
    exit_code, printed = invoke(
        "evaluate", study, "--synthetic", files["honest"], "--train", files["train"],
        "--test", files["holdout"], "--out", tmp_path / "out",
    )  # fmt: skip
    assert exit_code == 0
    assert "Mean 1-way" in printed and "Mean 2-way" in printed and "TSTR)" not in printed
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(found["measures"]) == LIKENESS
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "<script" not in page and "Keep this page where the records are" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded
    assert_accessible(page)
    assert f"{found['measures']['tv2']['value']:.4f}" in page
    assert "calibrated where its line" not in page  # there is no model to be calibrated


def test_evaluation_where_outcomes_are_missing(files: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    categories = 'categories = ["no", "yes"]\n'
    before, event, after = study_path().read_text(encoding="utf-8").partition('name = "cvd_event"')
    study.write_text(before + event + after.replace(categories, categories + "missing = true\n", 1))
    test = read(files["holdout"])
    test.loc[test.index[::3], "cvd_event"] = ""
    test.to_csv(tmp_path / "test.csv", index=False)
    found = _evaluate(study, files | {"holdout": tmp_path / "test.csv"}, files["train"])
    measures = found["measures"]
    assert 0.5 < measures["tstr_auc"]["lower"] < measures["tstr_auc"]["upper"] < 1
    test.assign(cvd_event="no").to_csv(tmp_path / "test.csv", index=False)
    found = _evaluate(study, files | {"holdout": tmp_path / "test.csv"}, files["train"])
    measures = found["measures"]
    assert measures["tstr_auc"]["value"] is None  # one outcome: not defined
    assert measures["tstr_auc"]["lower"] is None
    assert measures["calibration_slope"]["value"] is None


def test_groups_one_by_one(files: dict[str, Path], tmp_path: Path) -> None:
    real = read(files["honest"])
    women = real[real["sex"] == "female"]
    women.to_csv(tmp_path / "women.csv", index=False)
    found = _evaluate(study_path(), files, tmp_path / "women.csv", "--by", "sex")
    groups = {group["level"]: group for group in found["subgroups"]}
    assert list(groups) == ["female", "male"]
    assert groups["female"]["synthetic_share"] == 1 and groups["male"]["synthetic_share"] == 0
    assert sum(group["share"] for group in groups.values()) == pytest.approx(1)
    train = read(files["train"])
    whole = train.groupby("patient")["sex"].first()
    assert groups["female"]["patients"] == (whole == "female").sum()
    # A release without men has nothing that could be near them.
    assert groups["male"]["distance"] is None
    assert 0 < groups["female"]["distance"] < 0.3
    for figure in ("distance", "floor", "tstr", "trtr"):
        lower, upper = groups["female"][f"{figure}_interval"]
        value = groups["female"][figure if figure in groups["female"] else f"{figure}_auc"]
        assert lower < value < upper


def test_a_group_of_few_patients_has_no_figures(files: dict[str, Path], tmp_path: Path) -> None:
    test = read(files["holdout"])
    keep = test[(test["sex"] == "male") | (test["patient"].isin(test["patient"].unique()[:40]))]
    keep.to_csv(tmp_path / "few.csv", index=False)
    found = _evaluate(
        study_path(), files | {"holdout": tmp_path / "few.csv"}, files["honest"], "--by", "sex",
        "--out", tmp_path / "out",
    )  # fmt: skip
    groups = {group["level"]: group for group in found["subgroups"]}
    assert groups["female"]["distance"] is None and groups["female"]["tstr_auc"] is None
    assert groups["male"]["distance"] is not None and groups["male"]["tstr_auc"] > 0.5
    assert "insufficient n" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


def test_tables_of_few_patients_have_no_figures(files: dict[str, Path], tmp_path: Path) -> None:
    """Of the synthetic table nothing is known; of the real ones, how well they predict."""
    read(files["honest"]).head(40).to_csv(tmp_path / "forty.csv", index=False)
    out = tmp_path / "out"
    found = _evaluate(study_path(), files, tmp_path / "forty.csv", "--out", out)
    for name, measure in found["measures"].items():
        assert measure["few"] and measure["value"] is None and measure["lower"] is None, name
        real = name.startswith(("tstr", "trts", "calibration"))
        assert (measure["baseline"] is not None) == real, name
    assert found["worst_pairs"] == [] and list(found["calibration"]) == ["real"]
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<strong>insufficient n</strong>") == len(found["measures"])
    assert "not defined" not in page
    assert_accessible(page)
    exit_code, printed = invoke(
        "evaluate", study_path(), "--synthetic", tmp_path / "forty.csv",
        "--train", files["train"], "--test", files["holdout"],
    )  # fmt: skip
    assert exit_code == 0 and "insufficient n" in printed


def test_an_older_evaluation_is_kept(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("kept")
    roles = ("--synthetic", files["honest"], "--train", files["train"], "--test", files["holdout"])
    with pytest.raises(UsageError, match="holds an evaluation already; give another --out"):
        invoke("evaluate", study_path(), *roles, "--out", tmp_path)
    assert (tmp_path / "evaluation.json").read_text() == "kept"
    assert invoke("evaluate", study_path(), *roles, "--out", tmp_path, "--force")[0] == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["kind"] == "evaluation"


def test_training_patients_are_no_other_patients(files: dict[str, Path], tmp_path: Path) -> None:
    """By their ids; where there are none, if all rows of a file stand in the other."""
    mixed = tmp_path / "mixed.csv"
    pd.concat([read(files["holdout"]), read(files["train"]).head(1)]).to_csv(mixed, index=False)
    some = read(files["train"]).head(300)
    some.to_csv(tmp_path / "some.csv", index=False)
    nobody = tmp_path / "nobody.toml"
    text = study_path().read_text(encoding="utf-8").replace('patient_id = "patient"\n', "")
    nobody.write_text(re.sub(r"max_rows_per_patient = \d+\n", "", text))
    roles = ("--synthetic", files["honest"], "--train", files["train"], "--test")
    for study, test, words in (
        (study_path(), mixed, "column 'patient': patients stand in train and test"),
        (nobody, tmp_path / "some.csv", "all its rows stand in the file of train"),
    ):
        with pytest.raises(InvalidFileError, match=words):
            invoke("evaluate", study, *roles, test)
    assert invoke("evaluate", nobody, *roles, files["holdout"])[0] == 0


@pytest.mark.parametrize(("synthetic", "test"), [(3_000, 100), (100, 800), (800, 800)])
def test_other_real_patients_are_as_near_as_the_test_table(synthetic: int, test: int) -> None:
    """Whatever the sizes: a table is beside another of its own size."""
    columns = [
        {"name": name, "type": "numeric", "lower": 0, "upper": 1, "bins": 4} for name in "abc"
    ]
    schema = TableSchema.model_validate({"kind": "table", "columns": columns})
    rng = np.random.default_rng(4)

    def rows(size: int) -> Rows:
        first = rng.uniform(0, 1, size)
        values = {"a": first, "b": (first + rng.uniform(0, 1, size)) / 2, "c": rng.random(size)}
        return Rows(values, np.arange(size), np.ones(size))

    found = fidelity(schema, rows(synthetic), rows(2_000), rows(test), rng)
    assert found.num_patients == min(synthetic, test)
    for measure in found.measures:
        assert measure.baseline is not None
        near = 1.25 if measure.id.startswith("tv") else 2.5
        assert measure.value / near < measure.baseline < measure.value * near, measure.id
        assert measure.baseline_lower is not None and measure.baseline_upper is not None
        assert measure.lower < measure.baseline_upper and measure.baseline_lower < measure.upper


@pytest.mark.parametrize("column", ["age", "nonsense"])
def test_groups_of_what_is_no_category(files: dict[str, Path], column: str) -> None:
    with pytest.raises(UsageError, match=f"--by: '{column}' is not a categorical column"):
        _evaluate(study_path(), files, files["honest"], "--by", column)


def test_association_is_cramers_v_without_its_bias() -> None:
    independent = np.outer([0.3, 0.7], [0.2, 0.3, 0.5])
    same = np.diag([0.2, 0.3, 0.5])
    assert _association(independent[None], 10_000) == pytest.approx([0.0])
    assert _association(same[None], 10**9) == pytest.approx([1.0])
    # By hand: χ²/n = .36, of one degree of freedom, n = 101: √((.36 - .01) / (2 - .01 - 1)).
    two_by_two = np.array([[0.4, 0.1], [0.1, 0.4]])
    assert _association(two_by_two[None], 101) == pytest.approx([np.sqrt(0.35 / 0.99)])


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 30, 400).astype(float)
    y = np.where(rng.random(400) < 0.1, np.nan, x + rng.normal(0, 9, 400))
    rows = Rows({"x": x, "y": y}, np.arange(400), np.ones(400))
    found = _correlations(_ranks(rows, ["x", "y"]), rows.weight)
    known = ~np.isnan(y)
    # Ranks are of all values, SciPy's of the complete rows: nearly the same.
    assert found[0, 1] == pytest.approx(spearmanr(x[known], y[known]).statistic, abs=0.005)
    assert np.diag(found) == pytest.approx([1, 1])


def test_calibration_of_known_risks() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1.5, 40_000)
    label = rng.random(40_000) < 1 / (1 + np.exp(-logits))
    weight = np.ones(40_000)
    right, too_sure = (1 / (1 + np.exp(-factor * logits)) for factor in (1, 2))
    assert _slope(label, right, weight) == pytest.approx(1, abs=0.04)
    assert _slope(label, too_sure, weight) == pytest.approx(0.5, abs=0.02)
    assert _error(label, right, weight) < 0.01 < 0.05 < _error(label, too_sure, weight)
    half = np.array([True, False] * 500)
    assert _error(half, np.full(1_000, 0.8), np.ones(1_000)) == pytest.approx(0.3, abs=1e-9)


def test_every_patient_counts_once(files: dict[str, Path], tmp_path: Path) -> None:
    real = read(files["train"])
    twice = pd.concat([real, real[real["sex"] == "male"]])  # men have more rows, not more weight
    twice.to_csv(tmp_path / "twice.csv", index=False)
    found = _evaluate(study_path(), files | {"train": tmp_path / "twice.csv"}, files["honest"])
    once = _evaluate(study_path(), files, files["honest"])
    shares = [{g["level"]: g["share"] for g in each["subgroups"][:2]} for each in (found, once)]
    assert shares[0] == pytest.approx(shares[1])


_EDGE = """
spec_version = 1
name = "edge"
simulated = true
[data]
kind = "table"
target = "y"
target_positive = "yes"
[[data.columns]]
name = "y"
type = "categorical"
categories = ["no", "yes"]
missing = true
[[data.columns]]
name = "x"
type = "numeric"
edges = [0, 1, 2, 3, 4]
decimals = 2
missing = true
[privacy]
target_epsilon = 3.0
expected_patients = 1000
[disclosure]
purpose = "t"
recipients = ["Anyone"]
licence = "CC0-1.0"
expires = 2035-12-31
"""


@pytest.mark.parametrize("role", ["synthetic", "train", "test"])
@pytest.mark.parametrize("kind", ["no outcome", "no number", "no number where y is known", "one"])
def test_tables_with_little_in_them_are_measured_all_the_same(
    tmp_path: Path, role: str, kind: str
) -> None:
    rng = np.random.default_rng(1)
    study = tmp_path / "study.toml"
    study.write_text(_EDGE)
    paths = {}
    for name in ("synthetic", "train", "test"):
        table = pd.DataFrame({"y": rng.choice(["no", "yes"], 90), "x": rng.uniform(0, 4, 90)})
        table["x"] = table["x"].round(2).astype(object)
        if name == role and kind == "no outcome":
            table["y"] = ""
        elif name == role and kind == "no number":
            table["x"] = ""
        elif name == role and kind == "one":
            table = table.head(1)
        elif name == role:
            table.loc[:59, "x"] = ""
            table.loc[60:, "y"] = ""
        paths[name] = tmp_path / f"{name}.csv"
        table.to_csv(paths[name], index=False)
    files = {"train": paths["train"], "holdout": paths["test"]}
    found = _evaluate(study, files, paths["synthetic"], "--by", "y", "--out", tmp_path / "out")
    assert "tv3" not in found["measures"]  # of two columns
    assert (found["measures"]["tv2"]["value"] is None) == (kind == "one")
    if kind == "no outcome" and role == "test":
        assert found["measures"]["tstr_auc"]["value"] is None
    assert (tmp_path / "out" / "evaluation.html").stat().st_size > 10_000


def test_one_column_has_no_pairs() -> None:
    """As a study of images may have: what an image shows, and nothing else."""
    schema = image_schema(columns=[KIND], image={**IMAGE, "position": None})
    rng = np.random.default_rng(1)
    equal, unequal = [0.5, 0.5], [0.9, 0.1]

    def rows(shares: list[float]) -> Rows:
        kinds = np.array(["healthy", "glioma"], object)
        return Rows({"kind": rng.choice(kinds, 300, p=shares)}, np.arange(300), np.ones(300))

    train, test = rows(equal), rows(equal)
    for shares, low, high in ((equal, 0.0, 0.1), (unequal, 0.3, 0.5)):
        found = fidelity(schema, rows(shares), train, test, np.random.default_rng(0))
        distance, detection = found.measures
        assert (distance.id, detection.id) == ("tv1", "detection_auc")
        assert low <= distance.value < high
        assert found.pairs == found.worst_pairs() == []


def test_rank_correlation_knows_no_scale() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (300, 2))
    rows, moved = (
        Rows({"a": a, "b": x.sum(1)}, np.arange(300), np.ones(300)) for a in (x[:, 0], 9 + x[:, 0])
    )
    found = [_correlations(_ranks(each, ["a", "b"]), each.weight)[0, 1] for each in (rows, moved)]
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(spearmanr(x[:, 0], x.sum(1)).statistic)
