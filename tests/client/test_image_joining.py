"""``pratique-client init`` for folders of DICOM and NIfTI files: what it writes is read."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pratique_client.cli import app
from pratique_client.site import Site, load_site
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.images.spec import IMAGE
from pratique_common.tables import Table
from tests.client.image_files import (
    AXIAL,
    DEFACED,
    DICOM,
    HEADS,
    MARK,
    NIFTI,
    STUDY,
    UIDS,
    head,
    load,
    noise,
    one_radiograph,
    one_series,
    one_volume,
    write_dicom,
    write_nifti,
    write_series,
    write_table,
)
from tests.sites import invite

DATA = "cases.csv"


def init(folder: Path, *options: object) -> Result:
    """Answer an invitation for a site beside its records."""
    invitation = invite(folder / "invitation.json", "harbour")
    call = ["init", invitation, "--folder", folder / "site", "--data", folder / DATA, *options]
    return CliRunner().invoke(app, list(map(str, call)))


def joined(folder: Path, *options: object) -> Site:
    result = init(folder, *options)
    assert result.exit_code == 0, result.output
    return load_site(folder / "site")


def source_of(folder: Path) -> dict[str, Any]:
    return dict(tomllib.loads((folder / "site" / "site.toml").read_text())["source"])


def assert_same_rows(one: Table, other: Table) -> None:
    """Sites have keys of their own, so that ids of patients differ; nothing else does."""
    for name in (IMAGE, *HEADS.data.names):
        np.testing.assert_array_equal(one.columns[name], other.columns[name])
    assert len(set(one.patients)) == len(set(other.patients)) == 1


def test_a_folder_of_dicom_files(tmp_path: Path) -> None:
    write_series(tmp_path / "export" / "deep", head(), *AXIAL)
    write_table(tmp_path / DATA, SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])
    site = joined(tmp_path, "--dicom", tmp_path / "export", "--defaced")
    assert source_of(tmp_path) == {
        "kind": "dicom", "path": str(tmp_path / DATA), "folder": str(tmp_path / "export"),
        "key": "SeriesInstanceUID", "defaced": True, "lacks": [],
    }  # fmt: skip
    one_series(tmp_path / "by hand")
    by_hand = load(tmp_path / "by hand", DICOM + DEFACED, HEADS)
    assert_same_rows(site.load_table(HEADS.data), by_hand)


def test_a_table_of_dicom_patients_or_exams(tmp_path: Path) -> None:
    write_dicom(tmp_path / "export" / "a.dcm", noise(1))
    write_dicom(
        tmp_path / "export" / "b.dcm", noise(2), PatientID="another", StudyInstanceUID="1.2"
    )
    write_table(tmp_path / DATA, PatientID=[f"id-{MARK}", "another"], kind=["glioma", "healthy"])
    site = joined(tmp_path, "--dicom", tmp_path / "export", "--dicom-key", "PatientID")
    assert source_of(tmp_path)["key"] == "PatientID"
    found = site.load_table(STUDY.data)
    assert found.columns["kind"].tolist() == ["glioma", "healthy"]
    assert len(set(found.patients)) == 2
    one_radiograph(tmp_path / "by hand")
    first = load(tmp_path / "by hand", DICOM).columns[IMAGE][0]
    np.testing.assert_array_equal(found.columns[IMAGE][0], first)


def test_a_folder_of_nifti_files(tmp_path: Path) -> None:
    write_nifti(tmp_path / "volumes" / "a" / "t1.nii.gz", head())
    write_table(tmp_path / DATA, file=["a/t1.nii.gz"], patient=["p"], kind=["glioma"])
    site = joined(tmp_path, "--nifti", tmp_path / "volumes", "--defaced")
    assert source_of(tmp_path) == {
        "kind": "nifti", "path": str(tmp_path / DATA), "folder": str(tmp_path / "volumes"),
        "defaced": True, "lacks": [],
    }  # fmt: skip
    assert str(tmp_path / "volumes") in site.settings.source.describe(site.site_file)
    one_volume(tmp_path / "by hand")
    by_hand = load(tmp_path / "by hand", NIFTI + DEFACED, HEADS)
    assert_same_rows(site.load_table(HEADS.data), by_hand)


def test_nobody_s_word_is_taken_that_was_not_given(tmp_path: Path) -> None:
    write_series(tmp_path / "export", head(), *AXIAL)
    write_table(tmp_path / DATA, SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])
    site = joined(tmp_path, "--dicom", tmp_path / "export")
    assert "defaced" not in source_of(tmp_path)
    with pytest.raises(InvalidFileError, match=r"source\.defaced") as caught:
        site.load_table(HEADS.data)
    assert caught.value.code == "image_refused"


def test_volumes_stay_in_their_folder(tmp_path: Path) -> None:
    write_nifti(tmp_path / "outside.nii", head())
    (tmp_path / "volumes").mkdir()
    write_table(tmp_path / DATA, file=["../outside.nii"], patient=["p"], kind=["glioma"])
    site = joined(tmp_path, "--nifti", tmp_path / "volumes", "--defaced")
    with pytest.raises(InvalidFileError, match="leads out of the folder") as caught:
        site.load_table(HEADS.data)
    assert caught.value.code == "image_refused"
    (tmp_path / "volumes").rmdir()
    with pytest.raises(InvalidFileError, match=r"source\.folder: no such folder"):
        site.load_table(HEADS.data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dicom", "a", "--nifti", "b"], "--images, --dicom and --nifti: give one of them"),
        (["--images", "a.npz", "--nifti", "b"], "give one of them"),
        (["--dicom-key", "PatientID"], "--dicom-key: is of DICOM files"),
        (["--nifti", "a", "--dicom-key", "PatientID"], "--dicom-key: is of DICOM files"),
        (["--images", "a.npz", "--defaced"], "--defaced: is of volumes"),
        (["--dicom", "a\nb"], "control characters"),
    ],
)
def test_options_that_do_not_go_together_leave_nothing_behind(
    tmp_path: Path, options: list[str], words: str
) -> None:
    result = init(tmp_path, *options)
    assert isinstance(result.exception, UsageError) and words in str(result.exception)
    assert not (tmp_path / "site").exists()


def test_a_key_is_one_of_four(tmp_path: Path) -> None:
    result = init(tmp_path, "--dicom", "a", "--dicom-key", "PatientName")
    assert result.exit_code == 2
    assert not (tmp_path / "site").exists()
