"""Neighbouring slices as channels, from every source: the right ones, or a sentence why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pratique_client.contact_sheet import contact_sheet
from pratique_client.sources.image_source import slices_around
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_pixels import by_percentiles, square
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.study import StudySpec
from tests.client.image_files import (
    ARRAY,
    AXIAL,
    DEFACED,
    DICOM,
    FOLDER,
    MARK,
    NIFTI,
    SIZE,
    UIDS,
    head,
    image_study,
    load,
    noise,
    one_series,
    one_volume,
    table_of_files,
    write_dicom,
    write_png,
    write_series,
    write_table,
)

pytestmark = pytest.mark.usefixtures("nothing_said")


def study_of(*channels: str, neighbours: int = 1, gap_mm: float = 2.0, rows: int = 12) -> StudySpec:
    return image_study(
        rows=rows, prior="brain_mri", channels=channels or ("t1",), position="place",
        neighbours=neighbours, gap_mm=gap_mm,
    )  # fmt: skip


def axial(volume: Any, number: int) -> Any:
    """Return a slice of a volume (RAS) as a study has it."""
    return square(by_percentiles(volume[::-1, ::-1, number].T), SIZE)


@pytest.mark.parametrize("source", [NIFTI, DICOM], ids=["nifti", "dicom"])
@pytest.mark.parametrize(("neighbours", "gap_mm", "steps"), [(1, 2.0, 2), (2, 1.4, 1), (1, 2.6, 3)])
def test_planes_are_the_slices_nearest_to_where_they_must_be(
    tmp_path: Path, source: str, neighbours: int, gap_mm: float, steps: int
) -> None:
    volume = head()  # slices are 1 mm apart
    one_volume(tmp_path, volume)
    one_series(tmp_path, volume)
    found = load(tmp_path, source + DEFACED, study_of(neighbours=neighbours, gap_mm=gap_mm))
    offsets = [round(n * gap_mm) for n in range(-neighbours, neighbours + 1)]
    assert offsets[neighbours + 1] == steps
    within = [n for n in range(12) if n + offsets[0] >= 0 and n + offsets[-1] < 12]
    expected = [np.stack([axial(volume, n + each) for each in offsets], -1) for n in within]
    np.testing.assert_array_equal(found.columns[IMAGE], expected)
    # Places are the middle slices', of the whole volume's height.
    np.testing.assert_allclose(found.columns["place"] * 11, within)


def test_every_channel_has_its_planes_one_behind_the_other(tmp_path: Path) -> None:
    volumes = {"t1": head(1), "t2": head(2)}
    for number, (name, volume) in enumerate(volumes.items()):
        write_series(tmp_path / "scans" / name, volume, *AXIAL,
                     SeriesInstanceUID=f"{UIDS}.{number}")  # fmt: skip
    write_table(tmp_path / "scans" / "cases.csv", kind=["glioma"] * 2, contrast=["t1", "t2"],
                SeriesInstanceUID=[f"{UIDS}.0", f"{UIDS}.1"])  # fmt: skip
    study = study_of("t1", "t2", rows=3)
    found = load(tmp_path, DICOM + DEFACED + '\nchannel = "contrast"', study)
    middle = np.rint(found.columns["place"] * 11).astype(int)
    assert middle.tolist() == [3, 6, 8]
    for image, number in zip(found.columns[IMAGE], middle, strict=True):
        planes = [
            axial(volume, number + each) for volume in volumes.values() for each in (-2, 0, 2)
        ]
        np.testing.assert_array_equal(image, np.stack(planes, -1))
    sheet = contact_sheet(study.data, found.columns, "all planes side by side")
    assert sheet.width == 6 * 128


def test_a_line_a_slice_tells_of_the_middle_one(tmp_path: Path) -> None:
    uids = [f"{UIDS}.7.{number}" for number in range(3)]
    for number, uid in enumerate(uids):
        write_dicom(tmp_path / "scans" / f"{number}.dcm", noise(number), Modality="MR",
                    SOPInstanceUID=uid, ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
                    ImagePositionPatient=[0.0, 0.0, 2.0 * number])  # fmt: skip
    write_table(tmp_path / "scans" / "cases.csv", SOPInstanceUID=uids,
                kind=["healthy", "glioma", "healthy"])  # fmt: skip
    source = DICOM.replace("SeriesInstanceUID", "SOPInstanceUID") + DEFACED
    found = load(tmp_path, source, study_of())
    assert found.columns["kind"].tolist() == ["glioma"]
    planes = [square(by_percentiles(noise(number)), SIZE) for number in range(3)]
    np.testing.assert_array_equal(found.columns[IMAGE][0], np.stack(planes, -1))


def test_a_part_of_the_height_has_neighbours_outside_of_it(tmp_path: Path) -> None:
    one_volume(tmp_path)
    one_series(tmp_path)
    for source in (NIFTI, DICOM):
        found = load(tmp_path, source + DEFACED + "\nbetween = [0.5, 0.8]", study_of())
        np.testing.assert_allclose((found.columns["place"] * 0.3 + 0.5) * 11, [6, 7, 8])


@pytest.mark.parametrize(
    ("heights", "number", "expected"),
    [
        ([0, 5, 10], 1, [0, 1, 2]),
        ([0, 5, 10], 0, None),  # the lowest has none below
        ([0, 4.5, 9], 1, [0, 1, 2]),  # half a millimetre below the lowest is still of its slice
        ([0, 2.4, 10], 1, None),
        ([0, 5, 8, 11], 1, [0, 1, 3]),
        ([3], 0, None),
    ],
)  # fmt: skip
def test_who_is_near_enough(heights: list[float], number: int, expected: list[int] | None) -> None:
    image = ImageSpec(prior="brain_mri", size_px=16, channels=("t1",), neighbours=1)
    assert slices_around(np.array(heights, float), number, image) == expected
    alone = image.model_copy(update={"neighbours": 0})
    assert slices_around(np.array(heights, float), number, alone) == [number]


def refused(folder: Path, source: str, *words: str, **asked: Any) -> None:
    with pytest.raises(InvalidFileError) as caught:
        load(folder, source, study_of(**asked))
    for word in words:
        assert word in str(caught.value)
    assert MARK not in str(caught.value)


def test_what_has_no_neighbours_is_refused_in_a_sentence(tmp_path: Path) -> None:
    one_volume(tmp_path)
    one_series(tmp_path)
    # 1 mm apart are never where .3 mm are asked for.
    refused(tmp_path, NIFTI + DEFACED, "line 2: slices lie so far apart", gap_mm=0.3)
    refused(tmp_path, DICOM + DEFACED, "scans: file ", "slices lie so far apart", gap_mm=0.3)
    # A head of 12 mm has nothing 30 mm away: its patient would vanish unseen.
    nobody = "line 2: no slice of this patient has the neighbours"
    refused(tmp_path, NIFTI + DEFACED, nobody, gap_mm=30)
    refused(tmp_path, DICOM + DEFACED, nobody, gap_mm=30)
    write_dicom(tmp_path / "scans" / "again.dcm", noise(1), Modality="MR",
                ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
                ImagePositionPatient=[0.0, 0.0, 4.0])  # fmt: skip
    refused(tmp_path, DICOM + DEFACED, "lies at the same place", "SOPInstanceUID")
    write_png(tmp_path / "scans" / "x.png", noise(1))
    table_of_files(tmp_path, ["x.png"], place=[0.5])
    refused(tmp_path, FOLDER, "source.npz", "a file holds one", "with 3 planes an image")


def test_where_headers_do_not_tell_heights_there_are_no_neighbours(tmp_path: Path) -> None:
    write_dicom(tmp_path / "scans" / "x.dcm", noise(1))
    write_table(tmp_path / "scans" / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])
    study = image_study(neighbours=1)
    with pytest.raises(InvalidFileError, match="file 2: the header does not tell where the image"):
        load(tmp_path, DICOM, study)
    assert load(tmp_path, DICOM, image_study()).num_rows == 1


def test_an_array_holds_all_planes(tmp_path: Path) -> None:
    images = noise(3, 2, SIZE, SIZE, 6)
    (tmp_path / "scans").mkdir()
    np.savez(tmp_path / "scans" / "images.npz", images=images)
    write_table(tmp_path / "scans" / "images.csv", index=[1, 0], kind=["glioma"] * 2,
                patient=["a", "b"], place=[0.1, 0.2])  # fmt: skip
    found = load(tmp_path, ARRAY, study_of("t1", "t2"))
    np.testing.assert_array_equal(found.columns[IMAGE], images[::-1])
    refused(tmp_path, ARRAY, "images.npz", "from the lowest: 3 planes")
