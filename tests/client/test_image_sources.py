"""Images from every source: the same pixels, whose they are, and how they lie."""

import shutil
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pratique_client.patients import load_patients
from pratique_client.site import Site
from pratique_client.sources.dicom_files import HeaderReader, files_below
from pratique_client.sources.image_source import evenly, keyed
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_pixels import by_percentiles, square
from pratique_common.images.spec import IMAGE
from pratique_common.tables import parquet_bytes, read_candidate, to_arrow
from tests.client.image_files import (
    ARRAY,
    AXIAL,
    DEFACED,
    DICOM,
    FOLDER,
    HEADS,
    MARK,
    NIFTI,
    SIZE,
    UIDS,
    head,
    image_study,
    load,
    noise,
    one_radiograph,
    one_series,
    one_volume,
    table_of_files,
    write_dicom,
    write_nifti,
    write_png,
    write_series,
    write_table,
)
from tests.client.phantoms import site_of
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.usefixtures("nothing_said")

# What is read


def test_files_of_the_study_s_size_are_read_as_they_are(tmp_path: Path) -> None:
    images = [noise(seed) for seed in range(3)]
    for number, image in enumerate(images):
        write_png(tmp_path / "scans" / f"{number}.png", image)
    table_of_files(tmp_path, ["2.png", "0.png", "1.png"])
    found = load(tmp_path, FOLDER + '\nscaling = "full_range"')
    np.testing.assert_array_equal(found.columns[IMAGE][..., 0], [images[n] for n in (2, 0, 1)])
    assert found.columns["kind"].tolist() == ["healthy", "glioma", "healthy"]


def test_an_array_is_read_by_its_indices(tmp_path: Path) -> None:
    images = noise(3, 5, SIZE, SIZE)
    (tmp_path / "scans").mkdir()
    np.savez_compressed(tmp_path / "scans" / "images.npz", images=images, other=np.zeros(3))
    write_table(tmp_path / "scans" / "images.csv", index=[4, 0, 3], kind=["glioma"] * 3,
                patient=["a", "b", "c"])  # fmt: skip
    found = load(tmp_path, ARRAY)
    np.testing.assert_array_equal(found.columns[IMAGE][..., 0], images[[4, 0, 3]])


def test_an_array_may_have_the_channels_of_the_study(tmp_path: Path) -> None:
    images = noise(3, 2, SIZE, SIZE, 3)
    (tmp_path / "scans").mkdir()
    np.savez(tmp_path / "scans" / "images.npz", images=images)
    write_table(tmp_path / "scans" / "images.csv", index=[1, 0], kind=["glioma"] * 2,
                patient=["a", "b"])  # fmt: skip
    found = load(tmp_path, ARRAY, image_study(channels=["x", "y", "z"]))
    np.testing.assert_array_equal(found.columns[IMAGE], images[::-1])
    with pytest.raises(InvalidFileError, match="with the channels of the study"):
        load(tmp_path, ARRAY)


def test_channels_have_a_file_each(tmp_path: Path) -> None:
    images = {name: noise(seed) for seed, name in enumerate(["x", "y"])}
    for name, image in images.items():
        write_png(tmp_path / "scans" / f"{name}.png", image)
    study = image_study(channels=["x", "y"])
    table_of_files(tmp_path, ["x.png"], file_x=["x.png"], file_y=["y.png"])
    source = FOLDER + '\nscaling = "full_range"'
    found = load(tmp_path, source, study).columns[IMAGE]
    np.testing.assert_array_equal(found[0], np.stack(list(images.values()), -1))
    swapped = load(tmp_path, source + '\nfiles = { x = "file_y", y = "file_x" }', study)
    np.testing.assert_array_equal(swapped.columns[IMAGE], found[..., ::-1])


@pytest.mark.parametrize(
    "write",
    [
        lambda image: image.convert("RGB"), lambda image: image.convert("RGBA"),
        lambda image: image.convert("P"), lambda image: image,
        lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    ],
    ids=["RGB", "RGBA", "palette", "grey", "16 bits"],
)  # fmt: skip
def test_grey_is_grey_in_every_kind_of_png(
    tmp_path: Path, write: Callable[[Image.Image], Image.Image]
) -> None:
    pixels = noise(1)
    (tmp_path / "scans").mkdir()
    write(Image.fromarray(pixels)).save(tmp_path / "scans" / "x.png")
    table_of_files(tmp_path, ["x.png"])
    found = load(tmp_path, FOLDER + '\nscaling = "full_range"').columns[IMAGE]
    np.testing.assert_array_equal(found[0, :, :, 0], pixels)


def test_percentiles_of_the_image_alone_become_black_and_white(tmp_path: Path) -> None:
    ramp = np.linspace(50, 150, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8)
    for name, image in (("a.png", ramp), ("b.png", ramp // 2), ("c.png", np.full_like(ramp, 9))):
        write_png(tmp_path / "scans" / name, image)
    table_of_files(tmp_path, ["a.png", "b.png", "c.png"])
    first, half, flat = load(tmp_path, FOLDER).columns[IMAGE][..., 0]
    assert (first.min(), first.max()) == (0, 255)
    assert np.abs(first.astype(int) - half).max() <= 6  # half as many grey levels
    assert not flat.any()
    full = load(tmp_path, FOLDER + '\nscaling = "full_range"').columns[IMAGE][..., 0]
    assert (full[0].min(), full[0].max()) == (50, 150)


def test_dicom_rescales_and_inverts_but_applies_no_window(tmp_path: Path) -> None:
    pixels = noise(1).astype(np.uint16) * 16
    one_radiograph(tmp_path / "a", pixels)
    plain = load(tmp_path / "a", DICOM).columns[IMAGE]
    one_radiograph(tmp_path / "b", pixels, WindowCenter=1, WindowWidth=1, RescaleSlope="-2",
                   RescaleIntercept="100")  # fmt: skip
    rescaled = load(tmp_path / "b", DICOM).columns[IMAGE]
    one_radiograph(tmp_path / "c", pixels, PhotometricInterpretation="MONOCHROME1")
    inverted = load(tmp_path / "c", DICOM).columns[IMAGE]
    assert plain.std() > 50
    np.testing.assert_array_equal(inverted, rescaled)
    assert np.abs(255 - inverted.astype(int) - plain).max() <= 1
    one_radiograph(tmp_path / "d", pixels)
    path = next((tmp_path / "d" / "scans").glob("*.dcm"))
    import pydicom

    packed = pydicom.dcmread(path)
    packed.compress("1.2.840.10008.1.2.5")  # RLE
    packed.save_as(path)
    np.testing.assert_array_equal(load(tmp_path / "d", DICOM).columns[IMAGE], plain)


# How slices lie


def shown(volume: Any, axis: int, number: int) -> Any:
    """Return a slice (RAS) as a radiologist sees it."""
    taken = np.take(volume, number, axis)  # right or front first, then front or head
    return taken[::-1, ::-1].T


def pixels_of(plane: Any) -> Any:
    return square(by_percentiles(plane), SIZE)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sagittal", "coronal", "axial"])
def test_slices_are_shown_alike_however_they_were_scanned(tmp_path: Path, axis: int) -> None:
    volume = head(shape=(9, 11, 13))
    expected = [pixels_of(shown(volume, axis, n)) for n in range(volume.shape[axis])]
    study = image_study(rows=13, position="place")
    directions = [np.eye(3, dtype=int)[each] for each in range(3) if each != axis]
    for case, (first, second) in enumerate(permutations(directions)):
        for signs in product((1, -1), repeat=2):
            folder = tmp_path / f"{case}{signs}"
            across, down = tuple(first * signs[0]), tuple(second * signs[1])
            write_series(folder / "scans", volume, across, down)
            write_table(folder / "scans" / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"],
                        kind=["glioma"])  # fmt: skip
            found = load(folder, DICOM, study)
            np.testing.assert_array_equal(found.columns[IMAGE][..., 0], expected)
            places = found.columns["place"]
            np.testing.assert_allclose(places, np.linspace(0, 1, volume.shape[axis]))


def test_channels_of_a_volume_have_a_file_each(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "a.nii", head())
    write_nifti(tmp_path / "scans" / "b.nii", head(1), "LPS")
    cells = {"patient": ["p"], "kind": ["glioma"], "file_t1": ["a.nii"], "file_t2": ["b.nii"]}
    write_table(tmp_path / "scans" / "volumes.csv", **cells)
    study = image_study(rows=12, prior="brain_mri", channels=["t1", "t2"], position="place")
    found = load(tmp_path, NIFTI + DEFACED, study).columns[IMAGE]
    for channel, volume in enumerate((head(), head(1))):
        expected = [pixels_of(shown(volume, 2, n)) for n in range(12)]
        np.testing.assert_array_equal(found[..., channel], expected)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "SRA", "IPR"])
def test_volumes_are_shown_alike_however_they_are_stored(tmp_path: Path, axes: str) -> None:
    volume = head()
    one_volume(tmp_path, volume, axes)
    found = load(tmp_path, NIFTI + DEFACED, HEADS)
    expected = [pixels_of(shown(volume, 2, n)) for n in range(12)]
    np.testing.assert_array_equal(found.columns[IMAGE][..., 0], expected)
    np.testing.assert_allclose(found.columns["place"], np.linspace(0, 1, 12))


def test_a_phantom_is_the_same_from_dicom_and_from_nifti(tmp_path: Path) -> None:
    from pratique_common.phantoms.brain_files import write_volumes
    from pratique_common.phantoms.brain_parameters import BASE

    (mask,) = write_volumes(tmp_path / "scans", BASE, num=1, size=16, seed=3)
    name = mask.name.replace("_seg", "_t1")
    write_table(tmp_path / "scans" / "volumes.csv", file=[name], patient=[f"id-{MARK}"],
                kind=["glioma"])  # fmt: skip
    study = image_study(rows=16, prior="brain_mri", channels=["t1"], position="place")
    everything = NIFTI + DEFACED + "\nleast_foreground = 0"
    volume = load(tmp_path, everything, study)
    import nibabel

    voxels = np.asarray(nibabel.load(tmp_path / "scans" / name).dataobj)  # type: ignore[attr-defined]
    one_series(tmp_path / "d", voxels)
    series = load(tmp_path / "d", DICOM + DEFACED, study)
    np.testing.assert_array_equal(series.columns[IMAGE], volume.columns[IMAGE])
    np.testing.assert_array_equal(series.columns["place"], volume.columns["place"])
    assert series.patients.tolist() == volume.patients.tolist()
    lit = load(tmp_path, NIFTI + DEFACED, study)
    assert 0 < lit.num_rows < volume.num_rows  # above the head there is air


def test_voxels_that_are_no_cubes_keep_the_proportions_of_anatomy(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint16)
    pixels[4:12, 8:24] = 1000  # as high as wide: rows are 2 mm apart
    one_radiograph(tmp_path, pixels, PixelSpacing=[2.0, 1.0])
    lit = load(tmp_path, DICOM).columns[IMAGE][0, :, :, 0] > 127
    assert lit.any(axis=1).sum() == lit.any(axis=0).sum() == 8


@settings(max_examples=40, deadline=None)
@given(
    values=arrays.arrays(np.float64, st.tuples(st.integers(8, 40), st.integers(8, 40)),
                         elements=st.floats(0, 1, width=32)),
    size=st.sampled_from([16, 24, 64]),
)  # fmt: skip
def test_a_square_keeps_light_and_directions(values: Any, size: int) -> None:
    found = square(values, size)
    assert found.shape == (size, size)
    side = max(values.shape)
    if side >= size:  # the mean over areas is the mean
        assert abs(found.mean() / 255 - values.sum() / side**2) < 1 / 255
    even = np.pad(values, [(0, (side - each) % 2) for each in values.shape])
    np.testing.assert_allclose(square(even[::-1], size), square(even, size)[::-1], atol=1)
    np.testing.assert_allclose(square(even.T, size), square(even, size).T, atol=1)


# Whose they are, and how many


def test_a_patient_has_one_id_at_a_site_whatever_the_source(tmp_path: Path) -> None:
    one_volume(tmp_path)
    one_series(tmp_path)
    write_png(tmp_path / "scans" / "x.png", noise(1))
    table_of_files(tmp_path, ["x.png"], patient=[f"id-{MARK}"], place=[0.5])
    tables = [
        load(tmp_path, source, HEADS)
        for source in (NIFTI + DEFACED, DICOM + DEFACED, f'{FOLDER}\nfiles = {{ t1 = "file" }}')
    ]
    ids = {patient for table in tables for patient in table.patients}
    assert len(ids) == 1
    (found,) = ids
    assert MARK not in found and len(found) == 32
    (tmp_path / "split.secret").write_bytes(b"t" * 32)
    other = Site(site_of(tmp_path, FOLDER).settings, tmp_path)
    assert keyed(other.id_key, f"id-{MARK}") == found  # site_of writes the same secret again
    assert keyed(b"another key", f"id-{MARK}") != found


def test_slices_of_a_patient_are_taken_evenly(tmp_path: Path) -> None:
    one_volume(tmp_path)
    one_series(tmp_path)
    study = image_study(rows=4, prior="brain_mri", channels=["t1"], position="place")
    for source in (NIFTI, DICOM):
        places = load(tmp_path, source + DEFACED, study).columns["place"]
        np.testing.assert_allclose(places * 11, [1, 4, 7, 10])
        some = load(tmp_path, source + DEFACED + "\nbetween = [0.5, 0.8]", HEADS).columns["place"]
        np.testing.assert_allclose((some * 0.3 + 0.5) * 11, [6, 7, 8])


@given(num=st.integers(0, 50), most=st.integers(1, 20))
def test_evenly_takes_different_ones_in_order(num: int, most: int) -> None:
    chosen = evenly(range(num), most)
    assert len(chosen) == min(num, most)
    assert chosen == sorted(set(chosen))
    if num > most:
        assert max(np.diff([-1, *chosen, num])) <= num / most + 1


def test_volumes_of_one_patient_share_its_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / "scans" / f"{name}.nii", head())
    write_table(tmp_path / "scans" / "volumes.csv", file=["a.nii", "b.nii"],
                patient=["p", "p"], kind=["glioma", "healthy"])  # fmt: skip
    study = image_study(rows=4, prior="brain_mri", channels=["t1"], position="place")
    found = load(tmp_path, NIFTI + DEFACED, study)
    assert found.columns["kind"].tolist() == ["glioma"] * 2 + ["healthy"] * 2


def test_channels_of_an_exam_are_series_that_the_table_names(tmp_path: Path) -> None:
    volumes = {"t1": head(1), "t2": head(2)}
    for number, (name, volume) in enumerate(volumes.items()):
        series = {"SeriesInstanceUID": f"{UIDS}.{number}"}
        write_series(tmp_path / "scans" / name, volume, *AXIAL, **series)
    study = image_study(rows=12, prior="brain_mri", channels=["t1", "t2"], position="place")
    cells = {"SeriesInstanceUID": [f"{UIDS}.1", f"{UIDS}.0"], "contrast": ["t2", "t1"]}
    write_table(tmp_path / "scans" / "cases.csv", **cells, kind=["glioma"] * 2)
    source = DICOM + DEFACED + '\nchannel = "contrast"'
    found = load(tmp_path, source, study).columns[IMAGE]
    for channel, volume in enumerate(volumes.values()):
        expected = [pixels_of(shown(volume, 2, n)) for n in range(12)]
        np.testing.assert_array_equal(found[..., channel], expected)
    for source_, words in (
        (DICOM + DEFACED, "source.channel"),
        (source.replace("SeriesInstance", "StudyInstance"), "source.channel"),
    ):
        with pytest.raises(InvalidFileError, match=words):
            load(tmp_path, source_, study)
    write_table(tmp_path / "scans" / "cases.csv", **cells, kind=["glioma", "healthy"])
    with pytest.raises(InvalidFileError, match=r"line [23]: another channel of this exam"):
        load(tmp_path, source, study)
    write_table(tmp_path / "scans" / "cases.csv", **{**cells, "contrast": ["t2", "flair"]},
                kind=["glioma"] * 2)  # fmt: skip
    with pytest.raises(InvalidFileError, match="line 3: no channel of the study"):
        load(tmp_path, source, study)
    write_table(tmp_path / "scans" / "cases.csv", **cells, kind=["glioma"] * 2)
    shutil.rmtree(tmp_path / "scans" / "t2")
    moved = {"ImagePositionPatient": [0.0, 0.0, 0.0], "SeriesInstanceUID": f"{UIDS}.1"}
    write_series(tmp_path / "scans" / "t2", head(2)[:, :, :3], *AXIAL,
                 SeriesInstanceUID=f"{UIDS}.1")  # fmt: skip
    with pytest.raises(InvalidFileError, match="different numbers of images"):
        load(tmp_path, source, study)
    shutil.rmtree(tmp_path / "scans" / "t2")
    write_series(tmp_path / "scans" / "t2", head(2), *AXIAL, **moved)
    with pytest.raises(InvalidFileError, match="do not lie on the same slices"):
        load(tmp_path, source, study)


@pytest.mark.parametrize(
    ("key", "value"),
    [("PatientID", f"id-{MARK}"), ("StudyInstanceUID", f"{UIDS}.1"),
     ("SeriesInstanceUID", f"{UIDS}.2")],
)  # fmt: skip
def test_a_table_tells_of_patients_exams_or_series(tmp_path: Path, key: str, value: str) -> None:
    one_radiograph(tmp_path)
    write_dicom(tmp_path / "scans" / "side.dcm", noise(2), ViewPosition="LL")
    write_dicom(tmp_path / "scans" / "other.dcm", noise(3), PatientID="nobody",
                StudyInstanceUID="1.2", SeriesInstanceUID="1.3")  # fmt: skip
    (tmp_path / "scans" / "DICOMDIR.txt").write_text(MARK)
    write_table(tmp_path / "scans" / "cases.csv", **{key: [value], "kind": ["glioma"]})
    source = DICOM.replace("SeriesInstanceUID", key)
    study = image_study(rows=4)
    assert load(tmp_path, source, study).num_rows == 2
    only = load(tmp_path, source + '\nwhere = { ViewPosition = "PA" }', study)
    np.testing.assert_array_equal(only.columns[IMAGE][0, :, :, 0], pixels_of(noise(1)))
    assert only.num_rows == 1


def test_a_table_may_tell_whose_files_without_an_id_are(tmp_path: Path) -> None:
    one_radiograph(tmp_path, PatientID="")
    with pytest.raises(InvalidFileError, match="file 1: the file has no PatientID") as caught:
        load(tmp_path, DICOM)
    assert caught.value.code == "image_unreadable"
    write_table(tmp_path / "scans" / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"],
                who=["p"])  # fmt: skip
    found = load(tmp_path, DICOM + '\npatient = "who"')
    assert found.patients.tolist() == [keyed(site_of(tmp_path, DICOM).id_key, "p")]


def test_what_a_header_leaves_behind_holds_nothing_of_it(tmp_path: Path) -> None:
    one_radiograph(tmp_path)
    key, (path,) = b"k" * 32, [p for p in files_below(tmp_path / "scans") if p.suffix == ".dcm"]
    reader = HeaderReader("SeriesInstanceUID", {keyed(key, f"{UIDS}.2"): 0}, {}, key, True)
    image = reader.read(path, 1)
    assert image is not None
    told = repr({**vars(image), "path": None})
    for secret in (MARK, UIDS, "Doe", "1970", "2020"):
        assert secret not in told
    assert image.patient == keyed(key, f"id-{MARK}")


def test_a_run_is_bound_to_every_pixel(tmp_path: Path) -> None:
    for number in range(12):
        write_png(tmp_path / "scans" / f"{number}.png", noise(number))
    table_of_files(tmp_path, [f"{number}.png" for number in range(12)])
    # Of a prior that the audit has an encoder for.
    study = image_study(
        prior="brain_mri", channels=["t1"], kinds={"healthy": "none", "glioma": "glioblastoma"}
    )
    source = FOLDER + '\nscaling = "full_range"'

    def snapshot() -> str:
        return load_patients(site_of(tmp_path, source), study).snapshot

    before = snapshot()
    assert snapshot() == before
    changed = noise(7)
    changed[-1, -1] ^= 1
    write_png(tmp_path / "scans" / "7.png", changed)
    assert snapshot() != before
    patients = load_patients(site_of(tmp_path, source), study)
    assert patients.members.columns[IMAGE].shape[1:] == (SIZE, SIZE, 1)
    content = parquet_bytes(to_arrow(patients.rows.columns, study.data))
    again = read_candidate(content, study.data, num_rows=12)
    np.testing.assert_array_equal(again.columns[IMAGE], patients.rows.columns[IMAGE])


def test_real_radiographs_are_read(tmp_path: Path) -> None:
    found = SHARED_DATA / "img_covid_cxr_hannover" / "covid_cxr_hannover_128.npz"
    if not found.is_file():
        pytest.skip("../shared/data is not here")
    (tmp_path / "scans").mkdir()
    shutil.copy(found, tmp_path / "scans" / "images.npz")
    data = np.load(found)
    num = len(data["images"])
    kinds = ["glioma" if each == "ap" else "healthy" for each in data["projection"]]
    write_table(tmp_path / "scans" / "images.csv", index=list(range(num)), kind=kinds,
                patient=list(data["patient_id"]))  # fmt: skip
    study = image_study(rows=100, size_px=64)
    table = load(tmp_path, ARRAY, study)
    assert table.num_rows == num
    assert len(set(table.patients)) == len(set(data["patient_id"]))
    means = data["images"].reshape(num, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(table.columns[IMAGE][..., 0] - means).max() <= 0.51
