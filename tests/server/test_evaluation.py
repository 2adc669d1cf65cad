"""``pratique evaluate`` through the public command."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pratique_common.phantoms.cohort import study_path, write_cohort
from tests.server.test_opinion import invoke, read


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


def _evaluate(study: Path, files: dict[str, Path], synthetic: Path) -> dict[str, Any]:
    exit_code, printed = invoke(
        "evaluate", study, "--synthetic", synthetic, "--train", files["train"],
        "--test", files["holdout"], "--json",
    )  # fmt: skip
    assert exit_code == 0
    return dict(json.loads(printed))


def test_evaluation_tells_a_real_table_from_shuffled_columns(
    files: dict[str, Path], tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(_without_rules())
    real = read(files["honest"]).head(2_000)
    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({name: rng.permutation(real[name]) for name in real})
    real.to_csv(tmp_path / "real.csv", index=False)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    good = _evaluate(study, files, tmp_path / "real.csv")
    bad = _evaluate(study, files, tmp_path / "shuffled.csv")
    for measures in (good, bad):
        assert list(measures) == ["tv1", "tv2", "tstr_auc"]
        for measure in measures.values():
            assert 0 <= measure["lower"] <= measure["value"] <= measure["upper"] <= 1
    assert bad["tv1"]["value"] == pytest.approx(good["tv1"]["value"])  # the same single columns
    assert bad["tv2"]["lower"] > good["tv2"]["upper"]
    assert bad["tstr_auc"]["upper"] < good["tstr_auc"]["lower"]
    assert bad["tstr_auc"]["lower"] < 0.5 < bad["tstr_auc"]["upper"] + 0.05
    assert abs(good["tstr_auc"]["value"] - good["tstr_auc"]["baseline"]) < 0.06


def test_evaluation_without_a_target_and_as_a_table(files: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    text = study_path().read_text(encoding="utf-8")
    study.write_text(re.sub(r"(?m)^target(_positive)? = .*\n", "", text))
    exit_code, printed = invoke(
        "evaluate", study, "--synthetic", files["honest"], "--train", files["train"],
        "--test", files["holdout"], "--out", tmp_path / "out",
    )  # fmt: skip
    assert exit_code == 0
    assert "Mean 1-way" in printed and "Mean 2-way" in printed and "AUC" not in printed
    assert list(json.loads((tmp_path / "out" / "evaluation.json").read_text())) == ["tv1", "tv2"]


def test_evaluation_where_outcomes_are_missing(files: dict[str, Path], tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    categories = 'categories = ["no", "yes"]\n'
    before, event, after = study_path().read_text(encoding="utf-8").partition('name = "cvd_event"')
    study.write_text(before + event + after.replace(categories, categories + "missing = true\n", 1))
    test = read(files["holdout"])
    test.loc[test.index[::3], "cvd_event"] = ""
    test.to_csv(tmp_path / "test.csv", index=False)
    measures = _evaluate(study, files | {"holdout": tmp_path / "test.csv"}, files["train"])
    assert 0.5 < measures["tstr_auc"]["lower"] < measures["tstr_auc"]["upper"] < 1
    test.assign(cvd_event="no").to_csv(tmp_path / "test.csv", index=False)
    measures = _evaluate(study, files | {"holdout": tmp_path / "test.csv"}, files["train"])
    assert measures["tstr_auc"]["value"] is None  # one outcome: not defined
