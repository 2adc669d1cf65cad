"""What a person sees before approving: some of the hospital's images, on a sheet that stays."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from typer.testing import CliRunner

from pratique_client.approval import approve, approved_digests
from pratique_client.checks import require_local, run_checks
from pratique_client.cli import app
from pratique_client.contact_sheet import CONTACT_SHEET, contact_sheet
from pratique_client.site import load_site
from pratique_common.images.spec import IMAGE
from pratique_common.signing import create_key, public_hex
from tests.client.image_files import MARK, image_study, write_png, write_table
from tests.client.phantoms import rows as rows_of_a_table
from tests.client.phantoms import site_of, write_files
from tests.client.phantoms import study_of as study_of_a_table

SOURCE = 'kind = "image_folder"\npath = "scans/images.csv"\nscaling = "full_range"'
STUDY = image_study(
    prior="brain_mri", channels=["t1"], kinds={"healthy": "none", "glioma": "glioblastoma"}
)


def rows_of(num: int, channels: int = 1) -> dict[str, Any]:
    images = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None],
                             (num, 16, 16, channels))  # fmt: skip
    return {"kind": np.array(["glioma"] * num, object), IMAGE: images}


def tiles(sheet: Image.Image) -> list[int]:
    """Return the grey value in the middle of every tile of a sheet with eight in a row."""
    pixels = np.asarray(sheet)
    rows = range(14 + 14 + 64, pixels.shape[0], 142)
    return [int(pixels[y, x]) for y in rows for x in range(64, pixels.shape[1], 128)]


@pytest.mark.parametrize("num", [1, 3, 8, 9, 64, 200])
def test_a_sheet_shows_images_from_the_first_to_the_last(num: int) -> None:
    sheet = contact_sheet(STUDY.data, rows_of(num), "title")
    shown = tiles(sheet)[: min(num, 64)]
    assert (shown[0], shown[-1]) == (0, num - 1)
    assert len(set(shown)) == min(num, 64)
    assert max(np.diff(shown), default=1) <= -(-num // 63)
    assert sheet.width == 8 * 128


def test_a_sheet_shows_all_channels_and_what_is_said_of_an_image() -> None:
    study = image_study(channels=["x", "y", "z"])
    rows = rows_of(2, 3)
    rows[IMAGE] = np.broadcast_to(np.array([50, 100, 150], np.uint8), (2, 16, 16, 3))
    sheet = contact_sheet(study.data, rows, "title")
    assert tiles(sheet)[:6] == [50, 100, 150] * 2
    texts = np.asarray(sheet)[14:28]
    assert texts.max() > 200
    other = contact_sheet(study.data, {**rows, "kind": np.array(["healthy"] * 2)}, "title")
    assert (np.asarray(other)[14:28] != texts).any()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site of 20 images, and keys that the hospitals exchanged beside it."""
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        write_png(tmp_path / "site" / "scans" / f"{MARK}-{number}.png", pixels)
    write_table(
        tmp_path / "site" / "scans" / "images.csv",
        file=[f"{MARK}-{number}.png" for number in range(20)],
        patient=[f"{MARK}-{number}" for number in range(20)],
        kind=["glioma", "healthy"] * 10,
    )
    made = site_of(tmp_path / "site", SOURCE)
    keys = {name: public_hex(Ed25519PrivateKey.generate()) for name in ("pier", "dock")}
    keys["quay"] = public_hex(create_key(made.folder / "site.key"))
    (tmp_path / "sites.toml").write_text(tomli_w.dumps(keys))
    (tmp_path / "study.toml").write_text(
        tomli_w.dumps(STUDY.model_dump(mode="json", exclude_none=True))
    )
    return made.folder


def seen(folder: Path) -> Path:
    path = folder / CONTACT_SHEET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Image.open(path).size == (8 * 128, 14 + 3 * 142)
    assert MARK.encode() not in path.read_bytes()
    return path


@pytest.mark.parametrize("answer", ["y", "n", "--yes"])
def test_approve_tells_what_to_look_for_before_it_asks(site: Path, answer: str) -> None:
    command = ["approve", str(site.parent / "study.toml"), "--site", str(site),
               "--sites", str(site.parent / "sites.toml")]  # fmt: skip
    if answer == "--yes":
        result = CliRunner().invoke(app, [*command, answer])
    else:
        result = CliRunner().invoke(app, command, input=f"{answer}\n")
    told = f"BEFORE YOU APPROVE: look for faces, names and burned-in text in {seen(site)}"
    assert told in result.output
    assert MARK not in result.output
    question = result.output.find("Approve study")
    assert question == -1 if answer == "--yes" else result.output.find(told) < question
    assert bool(approved_digests(load_site(site))) is (answer != "n")


def test_check_writes_the_sheet_of_an_approved_study(site: Path) -> None:
    loaded = load_site(site)
    keys = {name: public_hex(Ed25519PrivateKey.generate()) for name in ("pier", "dock")}
    approve(loaded, STUDY, {"quay": public_hex(loaded.key), **keys})
    require_local(loaded)
    assert not (site / CONTACT_SHEET).exists()  # a daemon that starts shows nobody anything
    found = {check.title.strip(): check for check in run_checks(loaded)}
    assert found["contact sheet"].passed
    assert str(seen(site)) in found["contact sheet"].finding
    assert found["data source"].finding == "image_folder: images.csv, 3 columns"
    assert found["data"].finding == "images.csv can be read and fits the study"
    said = "".join(check.finding for check in found.values())
    assert MARK not in said and "20" not in found["contact sheet"].finding.replace(str(site), "")


def test_a_table_has_no_sheet(tmp_path: Path) -> None:
    write_files(tmp_path, rows_of_a_table())
    made = site_of(tmp_path / "site", 'kind = "table_file"\npath = "../rows.csv"')
    keys = {name: public_hex(Ed25519PrivateKey.generate()) for name in ("pier", "dock")}
    keys["quay"] = public_hex(create_key(made.folder / "site.key"))
    approve(made, study_of_a_table(), keys)
    titles = [check.title.strip() for check in run_checks(load_site(made.folder))]
    assert "data" in titles and "contact sheet" not in titles
    assert not (made.folder / CONTACT_SHEET).exists()


def test_commands_for_tables_say_that_these_are_images(site: Path) -> None:
    study, out = str(site.parent / "study.toml"), str(site.parent / "out.csv")
    for command in (
        ["draft", str(site), "--name", "x", "--expected-patients", "9", "--out", out],
        ["resample", study, "--site", str(site), "--method", "smote", "--out", out],
    ):
        result = CliRunner().invoke(app, command)
        assert "images" in str(result.exception)
        assert not Path(out).exists()
