"""``pratique audit`` of images: phantoms of one hospital, and copies of its patients."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.images.image_pixels import prepared
from pratique_common.images.spec import IMAGE
from pratique_common.phantoms import scans
from pratique_common.phantoms.cohort import study_path
from pratique_common.study import StudySpec, load_study
from pratique_common.tables import parquet_bytes, read_table, to_arrow
from tests.pages import assert_accessible
from tests.server.test_opinion import Opinion, audit, invoke

MEMBERS, HOLDOUT, OTHERS = 200, 100, 150
COPIED_SHARE = 0.15
SIZE_PX = 16


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's study, of smaller images, and with a tolerance that so few patients can show."""
    text = scans.scans_study_path().read_text()
    path = tmp_path_factory.mktemp("study") / "scans.toml"
    text = text.replace("size_px = 32", f"size_px = {SIZE_PX}")
    text = text.replace("tail_tpr = 0.1", "tail_tpr = 0.12")
    path.write_text(text.replace("attack_auc = 0.6", "attack_auc = 0.7"))
    return path


@pytest.fixture(scope="module")
def spec(study: Path) -> StudySpec:
    return load_study(study)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A hospital's files, split at random, and two releases: of others, and of mirrored copies."""
    folder = tmp_path_factory.mktemp("scans")
    sizes = {"harbour": MEMBERS + HOLDOUT + OTHERS, "lakeside": 1, "northgate": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "SIZE_PX", SIZE_PX)
        path = scans.write_scans(folder / "all", seed=1, num_patients=sizes)["harbour"]
    table, images = pd.read_csv(path), np.load(path.with_suffix(".npz"))["images"]
    patients = np.random.default_rng(5).permutation(table["patient"].unique())
    members, holdout, others = (
        table[table["patient"].isin(part)]
        for part in np.split(patients, [MEMBERS, MEMBERS + HOLDOUT])
    )

    def write(name: str, rows: pd.DataFrame, pixels: Any) -> Path:
        rows.to_csv(folder / f"{name}.csv", index=False)
        np.savez_compressed(folder / f"{name}.npz", images=pixels)
        return folder / f"{name}.csv"

    def release(name: str, copied: int) -> Path:
        copies = members.sample(copied, random_state=1)
        rows = pd.concat([copies, others.iloc[copied:]])
        pixels = images[rows["index"]]
        pixels[:copied] = pixels[:copied, :, ::-1]  # no pixel of a copy is where it was
        seen = np.stack([prepared(image, "percentile", SIZE_PX) for image in pixels])
        return write(name, rows[["finding", "place"]], seen)

    return {
        "members": write("members", members, images),
        "holdout": write("holdout", holdout, images),
        "honest": release("honest", 0),
        "copier": release("copier", round(COPIED_SHARE * len(others))),
    }


@pytest.fixture(scope="module")
def refused(
    study: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Opinion:
    out = tmp_path_factory.mktemp("copier") / "out"
    return audit(files | {"synthetic": files["copier"]}, out, study)


@pytest.fixture(scope="module")
def granted(
    study: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Opinion:
    out = tmp_path_factory.mktemp("honest") / "out"
    return audit(files | {"synthetic": files["honest"]}, out, study)


def test_copies_of_members_are_refused_also_if_they_are_mirrored(refused: Opinion) -> None:
    assert refused.exit_code == 3
    assert refused.report["decision"] == "refused"
    for attack in ("EXACT", "NEAR"):
        assert refused.report["audits"][attack]["p_adjusted"] < 0.001
    assert "This is a sign of memorisation" in refused.text


def test_phantoms_of_other_patients_pass(granted: Opinion) -> None:
    assert granted.exit_code == 0
    assert all(rule["passed"] for rule in granted.report["reasons"])
    assert granted.report["control"]["found"]
    assert granted.report["patients"] == {"members": MEMBERS, "holdout": HOLDOUT}


def test_the_page_says_what_was_looked_at(refused: Opinion, files: dict[str, Path]) -> None:
    for role, name in (("synthetic", "copier"), ("members", "members"), ("holdout", "holdout")):
        content = files[name].with_suffix(".npz").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert refused.report["files"][role]["images"] == {"name": f"{name}.npz", "sha256": digest}
        assert digest in refused.page
    assert "Images are seen through an encoder that was trained on phantoms" in refused.text
    assert "--holdout holdout.csv --scaling percentile --out FOLDER" in refused.text
    assert "<img" not in refused.page  # no real image
    assert_accessible(refused.page)


def test_copies_of_one_contrast_among_new_ones_are_refused(
    study: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """Beside each image stands another patient's of the same file, as a second contrast."""
    two = tmp_path / "two.toml"
    channels = 'channels = ["t1ce", "flair"]'
    two.write_text(study.read_text().replace('channels = ["t1ce"]', channels))
    rng, paths, pairs = np.random.default_rng(6), {}, {}
    for name in ("members", "holdout", "honest"):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_bytes(files[name].read_bytes())
        images = np.load(files[name].with_suffix(".npz"))["images"]
        table = pd.read_csv(paths[name])
        own = table["index"].to_numpy() if "index" in table else np.arange(len(table))
        beside = np.zeros_like(images)
        beside[own] = images[rng.permutation(own)]
        pairs[name] = np.concatenate([images, beside], axis=3)
        np.savez(paths[name].with_suffix(".npz"), images=pairs[name])
    paths["synthetic"] = paths.pop("honest")
    honest = audit(paths, tmp_path / "honest_out", two)
    assert honest.exit_code != 3  # so few patients leave a bound too wide for a grant
    assert all(each["p_adjusted"] > 0.05 for each in honest.report["audits"].values())

    copied = round(COPIED_SHARE * OTHERS)
    of_members = pd.read_csv(paths["members"])["index"].sample(copied, random_state=1)
    first = np.load(files["members"].with_suffix(".npz"))["images"][of_members]
    pairs["honest"][:copied, ..., :1] = [prepared(one, "percentile", SIZE_PX) for one in first]
    np.savez(paths["synthetic"].with_suffix(".npz"), images=pairs["honest"])
    refused = audit(paths, tmp_path / "copier_out", two)
    assert refused.exit_code == 3
    assert refused.report["audits"]["EXACT"]["p_adjusted"] > 0.5
    assert refused.report["audits"]["FS_1"]["p_adjusted"] < 0.01


def test_parquet_with_the_same_images_gives_the_same_opinion(
    study: Path, spec: StudySpec, files: dict[str, Path], refused: Opinion, tmp_path: Path
) -> None:
    names = {"synthetic": "copier", "members": "members", "holdout": "holdout"}
    paths = {}
    for role, name in names.items():
        real = role != "synthetic"
        table = read_table(
            files[name], spec.data, with_patients=real, scaling="percentile" if real else None
        )
        rows = to_arrow(table.columns, spec.data)
        if real:
            rows = rows.append_column("patient", [table.patients.tolist()])
        paths[role] = tmp_path / f"{role}.parquet"
        paths[role].write_bytes(parquet_bytes(rows))
    again = audit(paths, tmp_path / "out", study).report
    for part in ("audits", "control", "local_audits", "reasons", "synthetic_rows"):
        assert again[part] == refused.report[part]
    assert "images" not in again["files"]["members"]


def test_the_scaling_of_real_images_is_the_site_s(spec: StudySpec, files: dict[str, Path]) -> None:
    stored = np.load(files["holdout"].with_suffix(".npz"))["images"]
    places = pd.read_csv(files["holdout"])["index"].to_numpy()
    as_stored = read_table(files["holdout"], spec.data, scaling="full_range")
    np.testing.assert_array_equal(as_stored.columns[IMAGE], stored[places])
    scaled = read_table(files["holdout"], spec.data, scaling="percentile")
    assert (scaled.columns[IMAGE] != stored[places]).any((1, 2, 3)).all()


def test_what_cannot_be_audited_is_told_in_words(
    study: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    def failing(error: type[Exception], words: str, *more: str, of: Path = study) -> None:
        names = {"synthetic": "honest", "members": "members", "holdout": "holdout"}
        roles = [f"--{role}={files[name]}" for role, name in names.items()]
        with pytest.raises(error, match=words):
            invoke("audit", of, *roles, "--out", tmp_path / "out", *more)
        assert not (tmp_path / "out").exists()

    table = tmp_path / "alone.csv"
    table.write_bytes(files["honest"].read_bytes())
    failing(
        InvalidFileError, r"alone\.npz: no such file; put the images", "--synthetic", str(table)
    )
    larger = tmp_path / "larger.toml"
    larger.write_text(study.read_text().replace(f"size_px = {SIZE_PX}", "size_px = 32"))
    failing(InvalidFileError, "has not the study's 32 x 32 pixels", of=larger)
    for command in ("audit", "evaluate"):
        roles = {"audit": ("members", "holdout"), "evaluate": ("train", "test")}[command]
        given = [f"--{role}={table}" for role in ("synthetic", *roles)]
        with pytest.raises(UsageError, match="--scaling: no real table has images"):
            invoke(command, study_path(), *given, "--out", tmp_path / "out",
                   "--scaling", "full_range")  # fmt: skip
