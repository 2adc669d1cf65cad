"""``pratique evaluate`` for a study of images, and the network that judges them."""

import hashlib
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.images.spec import IMAGE
from pratique_common.released_copies import table_csv
from pratique_common.schema import TableSchema
from pratique_common.study import load_study
from pratique_common.tables import read_table
from pratique_server.evaluation.images import evaluate_images as whole
from pratique_server.evaluation.images.evaluate_images import evaluate_images
from pratique_server.evaluation.images.image_learner import ImageClassifier, Training
from pratique_server.evaluation.images.likeness import Encoder
from pratique_server.evaluation.images.paired import paired_measures
from pratique_server.evaluation.images.similarity import ssim
from pratique_server.evaluation.rows import Rows
from pratique_server.report.image_evaluation_page import render_image_evaluation
from tests.pages import assert_accessible
from tests.server.image_rows import (
    LEVELS,
    SIDE,
    Tiny,
    drawn,
    image_rows,
    noisy,
    saved,
    thumbnails,
)
from tests.server.test_opinion import invoke

STUDY = f"""
spec_version = 1
name = "spots"
simulated = true
[data]
kind = "image"
target = "side"
patient_id = "patient"
max_rows_per_patient = 2
[data.image]
prior = "brain_mri"
size_px = {SIDE}
channels = ["t1"]
[[data.columns]]
name = "side"
type = "categorical"
categories = ["left", "right"]
[privacy]
target_epsilon = 3.0
expected_patients = 1000
[disclosure]
purpose = "t"
recipients = ["Anyone"]
licence = "CC0-1.0"
expires = 2035-12-31
"""
QUICK = Training(steps=25, batch=32, seeds=(0, 1))
SITE = ["fd_site", "fd_site_infinity"]
REACHES = ["precision", "recall", "density", "coverage"]
UTILITY = [
    *(f"{kind}_{score}" for kind in ("tstr", "trts", "trtr") for score in
      ("auc", "balanced_accuracy")),
    *("class_consistency", "ms_ssim_within_class", "nearest_ssim_difference"),
]  # fmt: skip
COLUMNS = ["tv1", "tv2", "tv3", "association", "rank_correlation", "detection_auc"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "spots.toml"
    path.write_text(STUDY)
    return path


def _write(path: Path, pixels: np.ndarray, side: list[str | None], **more: Any) -> Path:
    size = pixels[0].size
    images = pa.array([image.tobytes() for image in pixels], pa.binary(size))
    pa.parquet.write_table(
        pa.table({"side": pa.array(side, pa.string()), **more, IMAGE: images}), path
    )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = {}
    for role in ("synthetic", "train", "test"):
        pixels, label = drawn(120, rng)
        side: list[str | None] = [LEVELS[each] for each in label]
        more = {} if role == "synthetic" else {"patient": [f"{role}{n // 2}" for n in range(120)]}
        paths[role] = _write(folder / f"{role}.parquet", pixels, side, **more)
    return paths


def test_rows_that_are_left_out_take_their_images_along(study: Path, tmp_path: Path) -> None:
    schema = load_study(study).data.model_copy(update={"max_dropped_share": 0.7})
    pixels, _ = drawn(6, np.random.default_rng(1))
    side = ["left", "middle", "right", None, "left", "right"]
    patients = pa.array(["a", "b", None, "c", "NA", "row 1"])
    path = _write(tmp_path / "some.parquet", pixels, side, patient=patients)
    table = read_table(path, schema, with_patients=True)
    assert table.patients.tolist() == ["a", "row 1"]
    assert table.columns["side"].tolist() == ["left", "right"]
    np.testing.assert_array_equal(table.columns[IMAGE], pixels[[0, 5]])
    assert table.num_dropped == 4
    alone = read_table(path, schema, with_patients=False)
    assert len(set(alone.patients)) == alone.num_rows == 4


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([b"123", b"456"]),
        pa.array([b"123", b"456"], pa.binary(3)),
        pa.array(["a", "b"]),
        pa.array([b"1" * SIDE**2, None], pa.binary(SIDE**2)),
    ],
)
def test_what_is_no_image_is_refused(study: Path, tmp_path: Path, cells: pa.Array) -> None:
    path = tmp_path / "bad.parquet"
    pa.parquet.write_table(pa.table({"side": ["left", "right"], IMAGE: cells}), path)
    with pytest.raises(InvalidFileError, match=r"column 'image': its cells are not 256 bytes"):
        read_table(path, load_study(study).data, with_patients=False)


def test_network_tells_sides_and_knows_its_seed() -> None:
    rng = np.random.default_rng(2)
    pixels, label = drawn(150, rng)
    other, truth = drawn(150, rng)

    def fit(steps: int, seed: int = 0) -> ImageClassifier:
        found = ImageClassifier.fit(
            pixels, label, np.ones(150), num_classes=2, seed=seed,
            training=replace(QUICK, steps=steps),
        )  # fmt: skip
        assert found is not None
        return found

    state = torch.random.get_rng_state()
    named = fit(40).probabilities(other)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (named.argmax(1) == truth).mean() > 0.85
    np.testing.assert_array_equal(fit(3).features(other), fit(3).features(other))
    assert not np.allclose(fit(3).features(other), fit(3, seed=1).features(other))
    one = ImageClassifier.fit(
        pixels, 0 * label, np.ones(150), num_classes=2, seed=0, training=QUICK
    )
    assert one is None


def test_evaluation_tells_copies_collapse_and_another_kind_of_image() -> None:
    rng = np.random.default_rng(3)
    schema = TableSchema.model_validate(
        {
            "kind": "image",
            "target": "side",
            "columns": [{"name": "side", "type": "categorical", "categories": list(LEVELS)}],
            "image": {"prior": "brain_mri", "size_px": SIDE, "channels": ["t1"]},
        }
    )
    train, test = (image_rows(*drawn(120, rng)) for _ in range(2))
    pixels, label = drawn(120, rng)
    few = np.tile(np.concatenate([np.flatnonzero(label == side)[:3] for side in (0, 1)]), 20)
    tables = {
        "honest": image_rows(pixels, label),
        "mislabelled": image_rows(pixels, 1 - label),
        "collapsed": image_rows(noisy(pixels[few], rng), label[few]),
        "copied": image_rows(noisy(train.columns[IMAGE], rng), drawn(120, rng)[1]),
        "dark": image_rows(pixels // 2, label),
    }
    encoder = Encoder("file", thumbnails)
    found = {
        name: evaluate_images(
            schema, [encoder], QUICK, synthetic=table, train=train, test=test
        )["measures"]
        for name, table in tables.items()
    }  # fmt: skip
    honest = found["honest"]
    assert list(honest) == ["fd_file", "fd_file_infinity", *SITE, *REACHES, *UTILITY]
    for measure in honest.values():
        if measure["id"] not in ("fd_file_infinity", "fd_site_infinity"):
            assert measure["lower"] <= measure["value"], measure["id"]
            assert measure["baseline"] is not None
    for name in ("fd_file", "fd_site"):
        assert found["dark"][name]["lower"] > honest[name]["upper"]
    assert honest["fd_file"]["lower"] < honest["fd_file"]["baseline"]
    for name in ("precision", "recall"):
        assert abs(honest[name]["value"] - honest[name]["baseline"]) < 0.15
        assert found["dark"][name]["upper"] < honest[name]["lower"]
    collapsed = found["collapsed"]
    assert collapsed["precision"]["value"] > 0.7
    assert collapsed["recall"]["upper"] < honest["recall"]["lower"]
    assert collapsed["coverage"]["upper"] < honest["coverage"]["lower"]
    diversity = "ms_ssim_within_class"
    assert collapsed[diversity]["lower"] > honest[diversity]["upper"]
    near = "nearest_ssim_difference"
    assert found["copied"][near]["lower"] > 0.1
    assert honest[near]["lower"] < 0 < honest[near]["upper"]
    wrong = found["mislabelled"]
    for name in ("tstr_auc", "trts_auc", "class_consistency", "tstr_balanced_accuracy"):
        assert wrong[name]["upper"] < 0.4 < 0.7 < honest[name]["lower"], name
    assert wrong["trtr_auc"]["value"] == honest["trtr_auc"]["value"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_evaluation_through_the_command(
    study: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "Training", partial(Training, steps=20, seeds=(0,)))
    weights = tmp_path / "tiny.pt"
    digest = saved(Tiny(), weights)
    roles = [f"--{role}={path}" for role, path in files.items()]
    exit_code, printed = invoke(
        "evaluate", study, *roles, "--out", tmp_path, "--weights", weights,
        "--weights-sha256", digest,
    )  # fmt: skip
    assert exit_code == 0 and "Class seen" not in printed and "MS-SSIM" in printed
    found = json.loads((tmp_path / "evaluation.json").read_text())
    distances = [f"fd_{kind}{more}" for kind in ("phantom", "file") for more in ("", "_infinity")]
    assert list(found["measures"]) == [*distances, *SITE, *REACHES, *UTILITY, *COLUMNS]
    assert found["rows"] == {"synthetic": 120, "train": 120, "test": 120}
    assert found["patients"] == {"synthetic": 120, "train": 60, "test": 60}
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert "<script" not in page and "Keep this page where the records are" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded
    assert "features of the given weights" in page and "Inception" not in page
    assert_accessible(page)
    # Neighbours are looked for in what the public encoder sees.
    exit_code, printed = invoke("evaluate", study, *roles, "--json")
    assert exit_code == 0 and json.loads(printed)["features"] == "phantom"
    for wrong in (["--by", "side"], ["--weights", weights], ["--weights-sha256", digest]):
        with pytest.raises(UsageError, match=wrong[0] if wrong[0] == "--by" else "--weights"):
            invoke("evaluate", study, *roles, *wrong)


def test_public_features_are_compared_as_columns(
    study: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    few = {}
    for role, path in files.items():  # one in Parquet, two as CSV with an array beside it
        rows = pa.parquet.read_table(path).slice(0, 110)
        few[role] = tmp_path / path.name
        if role == "test":
            pa.parquet.write_table(rows, few[role])
            continue
        few[role] = few[role].with_suffix(".csv")
        few[role].write_bytes(table_csv(rows))
        pixels = np.frombuffer(b"".join(rows[IMAGE].to_pylist()), np.uint8)
        np.savez(few[role].with_suffix(".npz"), images=pixels.reshape(110, SIDE, SIDE))
    found = whole.evaluate_image_files(
        load_study(study), few, encoders=[Encoder("phantom", thumbnails)], scaling="full_range",
        created="2026-01-01T00:00:00+00:00", training=Training(steps=5, seeds=(0,)),
    )  # fmt: skip
    content = (tmp_path / "train.npz").read_bytes()
    images = {"name": "train.npz", "sha256": hashlib.sha256(content).hexdigest()}
    assert found["files"]["train"]["images"] == images
    assert "images" not in found["files"]["test"]
    phantom = ["fd_phantom", "fd_phantom_infinity"]
    assert list(found["measures"]) == [*phantom, *SITE, *REACHES, *UTILITY, *COLUMNS]
    assert 0.3 < found["measures"]["detection_auc"]["value"] < 0.7
    page = render_image_evaluation(found)
    assert "Columns and features" in page and images["sha256"] in page


def test_pairs_are_compared_where_there_are_originals(
    study: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "Training", partial(Training, steps=2, seeds=(0,)))
    rng = np.random.default_rng(3)
    table = pa.parquet.read_table(files["test"])
    real = np.frombuffer(b"".join(table[IMAGE].to_pylist()), np.uint8).reshape(-1, SIDE, SIDE, 1)
    made = np.clip(real + rng.normal(0, 8, real.shape), 0, 255).astype(np.uint8)
    restored = _write(tmp_path / "restored.parquet", made, table["side"].to_pylist())
    roles = [f"--{role}={path}" for role, path in (files | {"synthetic": restored}).items()]
    originals = ["--originals", files["test"], "--out", tmp_path]
    exit_code, printed = invoke("evaluate", study, *roles, *originals)
    assert exit_code == 0 and "PSNR" in printed
    found = json.loads((tmp_path / "evaluation.json").read_text())["measures"]
    error = np.mean((real.astype(float) - made) ** 2)
    assert found["paired_psnr"]["value"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)
    assert found["paired_ssim"]["value"] == pytest.approx(ssim(made, real).mean(), abs=1e-6)
    for name in ("paired_ssim", "paired_ms_ssim", "paired_psnr"):
        assert found[name]["baseline"] < found[name]["lower"] < found[name]["upper"]
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert "Each synthetic image beside the real one that it stands for" in page
    assert_accessible(page)

    few = tmp_path / "few.parquet"
    pa.parquet.write_table(table.slice(0, 119), few)
    with pytest.raises(UsageError, match=r"few\.parquet must have one row for each of the 120"):
        invoke("evaluate", study, *roles, "--originals", few)
    # Without them nothing is compared pairwise.
    _, printed = invoke("evaluate", study, *roles, "--json")
    assert "paired" not in printed


def test_pairs_of_one_patient_have_no_floor() -> None:
    pixels, _ = drawn(6, np.random.default_rng(7))
    weight = np.full(6, 1 / 6)
    one = Rows({IMAGE: pixels}, np.zeros(6, np.int64), weight)
    rng = np.random.default_rng(0)
    found = {each.id: each for each in paired_measures(pixels, one, rng)}
    assert found["paired_ssim"].value == 1 and found["paired_ssim"].baseline is None
    assert found["paired_psnr"].value == np.inf
    twice, owner = pixels[:3].repeat(2, axis=0), np.array([0, 0, 1, 1, 2, 2])
    others = paired_measures(twice, Rows({IMAGE: twice}, owner, weight), rng)[0].baseline
    assert others == pytest.approx(ssim(pixels[:3], pixels[[1, 2, 0]]).mean())


@pytest.mark.parametrize("kind", ["one row", "one label"])
def test_little_to_look_at_is_no_error(
    study: Path, files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    num = 1 if kind == "one row" else 8
    side: list[str | None] = ["left"] * num
    pixels, _ = drawn(num, np.random.default_rng(4))
    synthetic = _write(tmp_path / "few.parquet", pixels, side)
    found = whole.evaluate_image_files(
        load_study(study), files | {"synthetic": synthetic}, encoders=[],
        created="2026-01-01", training=Training(steps=2, seeds=(0,)),
    )  # fmt: skip
    measures = found["measures"]
    assert measures["tstr_auc"]["value"] is None and measures["trtr_auc"]["value"] is not None
    assert (measures["precision"]["value"] is None) == (kind == "one row")
    assert len(render_image_evaluation(found)) > 10_000
