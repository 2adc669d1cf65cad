"""``pratique phantom`` writes what it says, and replaces nothing but phantoms."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from pratique_common.phantoms import chest_parameters
from pratique_common.phantoms.brain_parameters import KINDS
from pratique_common.phantoms.mri_signals import CONTRASTS

SIZE, PER_PLANE, FILMS = 16, 5, 14


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "pratique_server.cli", "phantom", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)


def small(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    counts = ("--size", str(SIZE), "--per-plane", str(PER_PLANE), "--volumes", "2")
    return run("--out", out, *counts, "--films", str(FILMS), *more)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("phantom") / "out"
    done = small(out, "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_slices_masks_and_table(written: tuple[Path, dict[str, object]]) -> None:
    out, result = written
    with (out / "slices.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == result["images"] == 3 * PER_PLANE * len(CONTRASTS)
    assert len({row["patient"] for row in rows}) == 3 * PER_PLANE
    assert {row["label"] for row in rows} == set(KINDS)
    assert {row["contrast"] for row in rows} == set(CONTRASTS)
    listed = {row["file"] for row in rows} | {row["mask"] for row in rows}
    on_disk = {path.relative_to(out).as_posix() for path in out.glob("[ms]*/*.png")}
    assert listed == on_disk
    shown = 0
    for row in rows:
        assert 0 <= float(row["z"]) <= 1
        image, mask = (np.asarray(Image.open(out / row[name])) for name in ("file", "mask"))
        assert image.shape == mask.shape == (SIZE, SIZE)
        assert image.dtype == mask.dtype == np.uint8
        assert image.max() > 200
        assert set(np.unique(mask)) <= {0, 1, 2, 4}
        assert row["label"] != "none" or not mask.any()
        shown += int(mask.any())
    assert shown > 0.9 * sum(row["label"] != "none" for row in rows)


def test_films_masks_and_table(written: tuple[Path, dict[str, object]]) -> None:
    out, result = written
    chest = out / "chest"
    with (out / str(result["films_table"])).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len({row["patient"] for row in rows}) == result["films"] == FILMS
    assert {row["label"] for row in rows} == set(chest_parameters.KINDS)
    assert {row["projection"] for row in rows} == {"PA"}  # as the base population is taken
    listed = {row["file"] for row in rows} | {row["mask"] for row in rows}
    assert listed == {path.relative_to(chest).as_posix() for path in chest.glob("*/*.png")}
    for row in rows:
        image, mask = (np.asarray(Image.open(chest / row[name])) for name in ("file", "mask"))
        assert image.shape == mask.shape == (SIZE, SIZE)
        assert image.dtype == mask.dtype == np.uint8
        assert image.max() > 180
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert mask.any() == (row["label"] != "normal")
    sheet = np.asarray(Image.open(out / str(result["films_contact_sheet"])).convert("RGB"))
    assert sheet.shape == (2 * (2 * 128 + 20), 64 + 12 * 128, 3)  # two blocks of twelve or less


def test_volumes_have_masks_and_a_place_in_space(written: tuple[Path, dict[str, object]]) -> None:
    out, result = written
    masks = result["masks_of_volumes"]
    assert masks == ["volumes/volume-0000_seg.nii.gz", "volumes/volume-0001_seg.nii.gz"]
    names = {f"volume-{i:04d}_{part}.nii.gz" for i in (0, 1) for part in (*CONTRASTS, "seg")}
    assert {path.name for path in (out / "volumes").iterdir()} == names
    voxel_mm = 240 / SIZE
    for name in names:
        image = nibabel.load(out / "volumes" / name)
        assert image.shape == (SIZE, SIZE, SIZE)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert np.allclose(image.header.get_zooms(), voxel_mm)
        assert image.header.get_xyzt_units()[0] == "mm"
        centre = image.affine @ [*[(SIZE - 1) / 2] * 3, 1]
        assert np.allclose(centre[:3], [0, -12, -12])
        values = np.asarray(image.dataobj)
        if name.endswith("_seg.nii.gz"):
            assert values.dtype == np.uint8
            assert set(np.unique(values)) <= {0, 1, 2, 4}
            assert values.any()
        else:
            assert values.min() >= 0
            assert values.max() == 1000


def test_sheet_and_tables(written: tuple[Path, dict[str, object]]) -> None:
    out, result = written
    sheet = np.asarray(Image.open(out / str(result["contact_sheet"])).convert("RGB"))
    assert sheet.shape == (3 * (5 * 128 + 20), 64 + PER_PLANE * 128, 3)
    assert (np.ptp(sheet.astype(int), axis=2) > 50).any()  # masks in colour
    tables = result["tables"]
    assert isinstance(tables, list)
    assert len(tables) == 3
    assert all((out / table).is_file() for table in tables)


def test_the_seed_decides_every_byte(
    written: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out, _ = written
    again, other = tmp_path / "again", tmp_path / "other"
    assert small(again, "--seed", "3").returncode == 0
    assert small(other, "--seed", "4", "--volumes", "0").returncode == 0
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((out / file).read_bytes() == (again / file).read_bytes() for file in files)
    sheet = "contact-sheet.png"
    assert (out / sheet).read_bytes() != (other / sheet).read_bytes()


def test_an_existing_folder_is_kept_and_only_phantoms_are_replaced(tmp_path: Path) -> None:
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    few = ("--size", "16", "--per-plane", "1", "--volumes", "0", "--films", "0")
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    for force in ((), ("--force",)):
        refused = run("--out", theirs, *few, *force)
        assert refused.returncode == 2
        assert "theirs" in refused.stderr
        assert (theirs / "thesis.txt").read_text() == "years of work"
    assert run("--out", out, *few).returncode == 0
    assert not (out / "chest").exists()  # no films were asked for
    again = run("--out", out, *few)
    assert again.returncode == 2
    assert "--force" in again.stderr
    (out / "volumes" / "volume-0099_t1.nii.gz").touch()
    assert run("--out", out, *few, "--force").returncode == 0
    assert not (out / "volumes" / "volume-0099_t1.nii.gz").exists()
    (out / "slices.csv").unlink()  # as after Ctrl-C
    assert run("--out", out, *few, "--force").returncode == 0
    (out / "tables" / "mine.csv").write_text("years of work")
    (tmp_path / "link").symlink_to(out)
    for place, words in ((out, "mine.csv"), (tmp_path / "link", "is a link")):
        refused = run("--out", place, *few, "--force")
        assert refused.returncode == 2
        assert words in refused.stderr
    assert (out / "tables" / "mine.csv").read_text() == "years of work"


def test_wrong_sizes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for size in ("33", "8", "100000"):
        refused = run("--out", tmp_path / "out", "--size", size)
        assert refused.returncode == 2, refused.stderr
    assert not (tmp_path / "out").exists()
