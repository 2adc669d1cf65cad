"""Images that are refused: in one sentence, with a code, and without anybody's name."""

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pratique_client.sources.dicom_files import files_below
from pratique_common.errors import InvalidFileError
from pratique_common.images.spec import IMAGE
from pratique_common.study import StudySpec
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
    STUDY,
    UIDS,
    dicom,
    head,
    image_study,
    load,
    noise,
    one_radiograph,
    one_series,
    one_volume,
    table_of_files,
    write_dicom,
    write_huge_png,
    write_nifti,
    write_png,
    write_series,
    write_table,
)
from tests.client.phantoms import site_of, study_of
from tests.conftest import small_study

pytestmark = pytest.mark.usefixtures("nothing_said")

REFUSED, UNREADABLE = "image_refused", "image_unreadable"


def refused(folder: Path, source: str, code: str, *words: str, study: StudySpec = STUDY) -> None:
    """Check that loading fails in one sentence, with a code, and without anybody's name."""
    with pytest.raises(InvalidFileError) as caught:
        load(folder, source, study)
    text = str(caught.value)
    for word in words:
        assert word in text
    assert text.count("\n") == 0
    assert caught.value.code == code
    assert caught.value.__cause__ is None
    for secret in (MARK, "Doe", UIDS, "1970"):
        assert secret not in text


CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED = {"NumberOfFrames": 2, "Rows": 8}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in annotation"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "secondary capture"),
        ({"SOPClassUID": CAPTURE}, "secondary capture"),
        ({"SOPClassUID": f"{CAPTURE}.4"}, "secondary capture"),
        *(({"Modality": each}, "BurnedInAnnotation is not said")
          for each in ("US", "XA", "RF", "SC", "OT", "ES", None)),
        ({"OverlayRows": 8}, "overlay planes"),
        ({"RecognizableVisualFeatures": "YES"}, "who somebody is"),
        ({"Modality": "MR", "BodyPartExamined": "HEAD"}, "of a head"),
        ({"Modality": "CT", "BodyPartExamined": "BRAIN"}, "of a head"),
    ],
)  # fmt: skip
def test_images_that_may_show_who_somebody_is_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if "OverlayRows" in changes:
        one_radiograph(tmp_path)
        import pydicom

        (path,) = (tmp_path / "scans").glob("*.dcm")
        header = pydicom.dcmread(path)
        header.add_new(0x60020010, "US", 8)
        header.save_as(path)
    else:
        one_radiograph(tmp_path, **changes)
    refused(tmp_path, DICOM, REFUSED, "scans: file 1: ", words)


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "US", "BurnedInAnnotation": "NO"},
        {"Modality": "CT", "BodyPartExamined": "CHEST"},
        {"Modality": "CT", "BodyPartExamined": "HEAD", "defaced": True},
        {"RecognizableVisualFeatures": "NO"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77"},
        {"NumberOfFrames": 1},
    ],
)
def test_images_that_show_nobody_are_not_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    defaced = DEFACED if changes.pop("defaced", False) else ""
    one_radiograph(tmp_path, **changes)
    assert load(tmp_path, DICOM + defaced).num_rows == 1


@pytest.mark.parametrize("source", [DICOM, NIFTI])
def test_heads_need_a_person_s_word_that_faces_were_removed(tmp_path: Path, source: str) -> None:
    one_series(tmp_path)
    one_volume(tmp_path)
    refused(tmp_path, source, REFUSED, "site.toml: source.defaced", "defaced = true", study=HEADS)
    assert load(tmp_path, source + DEFACED, HEADS).num_rows == 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"NumberOfFrames": 2, "Rows": 8}, "several frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"Rows": 7}, "at least 8 rows"),
        ({"Rows": 60_000, "Columns": 60_000}, "89,478,485 pixels"),
        ({"PixelData": b"\0\0"}, "the pixels are damaged"),
        ({"SeriesInstanceUID": f"{UIDS}.2", "SOPInstanceUID": ""}, "a UID of the image is missing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0], "ImagePositionPatient": [0, 0, 0]},
         "no plane"),
        ({"PixelSpacing": [0, 1]}, "no spacing"),
        ({"PixelSpacing": [1e-9, 1]}, "89,478,485 pixels"),
    ],
)  # fmt: skip
def test_dicom_that_cannot_be_read_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    one_radiograph(tmp_path, **changes)
    refused(tmp_path, DICOM, UNREADABLE, "file 1: ", words)


def test_what_a_library_says_of_a_header_is_kept_back(tmp_path: Path) -> None:
    import pydicom

    one_radiograph(tmp_path)
    path = tmp_path / "scans" / f"{MARK}.dcm"
    unknown = dicom(noise(1), SpecificCharacterSet="ISO_IR 100")
    unknown.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", MARK[:10].encode()))
    assert load(tmp_path, DICOM).num_rows == 1
    with pytest.warns(UserWarning, match=MARK[:10]):  # which quotes the header
        _ = pydicom.dcmread(path).PatientID


def test_what_seems_to_be_another_patient_s_is_refused(tmp_path: Path) -> None:
    one_radiograph(tmp_path)
    scans = tmp_path / "scans"
    shutil.copy(scans / f"{MARK}.dcm", scans / "z.dcm")
    refused(tmp_path, DICOM, UNREADABLE, "file 3: ", "same SOPInstanceUID")
    write_dicom(scans / "z.dcm", noise(2), PatientID="another")
    refused(tmp_path, DICOM, UNREADABLE, "line 2: ", "two patients")


def test_a_compression_that_is_not_known_is_refused(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    one_radiograph(tmp_path)
    packed = dicom(noise(1), PixelData=encapsulate([b"\xff\xd8\xff\xd9" + MARK.encode()]))
    packed.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    packed["PixelData"].VR = "OB"
    packed["PixelData"].is_undefined_length = True
    packed.save_as(tmp_path / "scans" / f"{MARK}.dcm", enforce_file_format=True)
    refused(tmp_path, DICOM, UNREADABLE, "file 1: ", "cannot be decoded here", "dcmdjpeg")


def test_a_file_is_named_by_its_place_as_find_and_sort_list_it(tmp_path: Path) -> None:
    for number, name in enumerate(["b/x", "b-a", "a", "B", "b/é", "c"]):
        write_dicom(tmp_path / "scans" / f"{name}.dcm", noise(number), SeriesInstanceUID="1.2")
    one_radiograph(tmp_path)  # ... MARK.dcm, of 9 files with the table
    listed = [path.name for path in files_below(tmp_path / "scans")]
    import subprocess

    command = f"find {tmp_path / 'scans'} -type f | LC_ALL=C sort"
    lines = subprocess.run(command, shell=True, capture_output=True, check=True).stdout.decode()
    assert [Path(line).name for line in lines.splitlines()] == listed
    place = listed.index(f"{MARK}.dcm") + 1
    one_radiograph(tmp_path, BurnedInAnnotation="YES")
    refused(tmp_path, DICOM, REFUSED, f"scans: file {place}: ")


def cut_off(folder: Path) -> None:
    path = folder / "scans" / f"{MARK}.dcm"
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_off, ["line 2: the folder has no image of it"]),
        (lambda f: (f / "scans" / f"{MARK}.dcm").unlink(), ["line 2: the folder has no image"]),
        (lambda f: write_table(f / "scans/cases.csv", SeriesInstanceUID=["", "x"],
                               kind=["glioma"] * 2), ["line 2: SeriesInstanceUID is missing"]),
        (lambda f: write_table(f / "scans/cases.csv", SeriesInstanceUID=[MARK, MARK],
                               kind=["glioma"] * 2), ["line 3: ", "stands twice"]),
    ],
)  # fmt: skip
def test_a_table_and_a_folder_that_do_not_fit(
    tmp_path: Path, spoil: Callable[[Path], Any], words: list[str]
) -> None:
    one_radiograph(tmp_path)
    spoil(tmp_path)
    refused(tmp_path, DICOM, UNREADABLE, "cases.csv: ", *words)


def test_settings_of_dicom(tmp_path: Path) -> None:
    one_radiograph(tmp_path)
    for old, new, words in (
        ('folder = "scans"', 'folder = "no"', ["source.folder", "correct the path"]),
        ('key = "SeriesInstanceUID"', 'key = "PatientName"', ["source.key"]),
        ('key = "S', 'where = { SeriesDescription = "T1" }\nkey = "S', ["source.where", "Mod"]),
        ('key = "S', 'where = { Modality = "MR" }\nkey = "S', ["line 2", "where excludes"]),
        ('key = "S', 'between = [0.8, 0.2]\nkey = "S', ["source.between", "the lower one first"]),
        ('key = "S', 'between = [0.2, 0.8]\nkey = "S', ["file 1", "where the image lies"]),
    ):  # fmt: skip
        with pytest.raises(InvalidFileError) as caught:
            load(tmp_path, DICOM.replace(old, new))
        assert MARK not in str(caught.value)
        for word in words:
            assert word in str(caught.value)
    refused(
        tmp_path, DICOM, UNREADABLE, "where the image lies", study=image_study(position="place")
    )
    scout = {"SeriesInstanceUID": f"{UIDS}.2"}
    write_series(tmp_path / "scans" / "s", head(), *AXIAL, **scout)
    write_series(tmp_path / "scans" / "t", head(), (0, -1, 0), (0, 0, -1), **scout)
    (tmp_path / "scans" / f"{MARK}.dcm").unlink()
    refused(tmp_path, DICOM, UNREADABLE, "different directions", study=image_study(rows=3))


@pytest.mark.parametrize("source", [DICOM, NIFTI])
def test_volumes_need_a_study_that_names_patients(tmp_path: Path, source: str) -> None:
    one_series(tmp_path)
    one_volume(tmp_path)
    data = image_study(prior="brain_mri", channels=["t1"]).data.model_dump(mode="json")
    study = small_study(data={**data, "patient_id": None})
    with pytest.raises(InvalidFileError, match="names no patient_id"):
        load(tmp_path, source + DEFACED + '\npatient = "kind"', study)


def extended(path: Path) -> None:
    import nibabel

    image: Any = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(2, MARK.encode()))
    nibabel.save(image, path)


def without_orientation(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)  # the codes of qform and sform
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda f: extended(f / f"{MARK}.nii.gz"), REFUSED, "extensions"),
        (lambda f: one_volume(f.parent, descrip=f"{MARK}@x".encode()), REFUSED,
         "name or an address"),
        (lambda f: one_volume(f.parent, db_name=b"Doe^J"), REFUSED, "name or an address"),
        (lambda f: one_volume(f.parent, np.zeros((16, 16, 4, 2), np.int16)), UNREADABLE,
         "three dimensions"),
        (lambda f: one_volume(f.parent, np.full((16, 16, 4), np.nan)), UNREADABLE, "finite"),
        (lambda f: one_volume(f.parent, head(shape=(7, 16, 12))), UNREADABLE, "at least 8"),
        (lambda f: one_volume(f.parent, head().astype(np.complex64)), UNREADABLE, "of numbers"),
        (lambda f: without_orientation(f / f"{MARK}.nii.gz"), UNREADABLE, "lies"),
        (lambda f: (f / f"{MARK}.nii.gz").write_bytes(b"no"), UNREADABLE, "cannot be read"),
        (lambda f: (f / f"{MARK}.nii.gz").unlink(), UNREADABLE, "no such file"),
        (lambda f: write_table(f / "volumes.csv", file=[f"{MARK}.mgz"], patient=["p"],
                               kind=["glioma"]), UNREADABLE, "no .nii"),
        (lambda f: write_table(f / "volumes.csv", file=[f"../../{MARK}.nii"], patient=["p"],
                               kind=["glioma"]), REFUSED, "out of the folder"),
        (lambda f: write_table(f / "volumes.csv", file=[""], patient=["p"], kind=["glioma"]),
         UNREADABLE, "no file is named"),
    ],
)  # fmt: skip
def test_volumes_that_cannot_be_taken_are_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], code: str, words: str
) -> None:
    one_volume(tmp_path)
    spoil(tmp_path / "scans")
    refused(tmp_path, NIFTI + DEFACED, code, "volumes.csv: line 2: ", words, study=HEADS)


def test_channels_of_a_volume_lie_on_the_same_voxels(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "a.nii", head())
    write_nifti(tmp_path / "scans" / "b.nii", head(1)[:, :, :9])
    cells = {"patient": ["p"], "kind": ["glioma"], "first": ["a.nii"], "second": ["b.nii"]}
    write_table(tmp_path / "scans" / "volumes.csv", **cells)
    study = image_study(rows=12, prior="brain_mri", channels=["t1", "t2"], position="place")
    source = NIFTI + DEFACED + '\nfiles = { t1 = "first", t2 = "second" }'
    refused(tmp_path, source, UNREADABLE, "line 2: ", "same voxels", study=study)
    write_nifti(tmp_path / "scans" / "b.nii", head(1))
    assert load(tmp_path, source, study).num_rows == 12
    wrong = source.replace("t2 =", "flair =")
    with pytest.raises(InvalidFileError, match=r"source\.files: 'flair' is no channel"):
        load(tmp_path, wrong, study)


def linked_out(folder: Path) -> None:
    write_png(folder.parent / "secret.png", noise(1))
    (folder / f"{MARK}.png").unlink()
    (folder / f"{MARK}.png").symlink_to(folder.parent / "secret.png")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda f: (f / f"{MARK}.png").unlink(), UNREADABLE, "no such file"),
        (lambda f: (f / f"{MARK}.png").write_bytes(MARK.encode()), UNREADABLE, "cannot be read"),
        (lambda f: write_huge_png(f / f"{MARK}.png"), UNREADABLE, "89,478,485 pixels"),
        (lambda f: write_png(f / f"{MARK}.png", noise(1, 7, 40)), UNREADABLE, "at least 8"),
        (lambda f: (f / f"{MARK}.png").write_bytes((f / f"{MARK}.png").read_bytes()[:90]),
         UNREADABLE, "cannot be read"),
        (lambda f: Image.fromarray(noise(1)).save(f / f"{MARK}.png", "BMP"), UNREADABLE,
         "cannot be read"),
        (linked_out, REFUSED, "out of the folder"),
        (lambda f: table_of_files(f.parent, [f"../{MARK}.png"]), REFUSED, "out of the folder"),
        (lambda f: table_of_files(f.parent, [f"/etc/{MARK}"]), REFUSED, "out of the folder"),
        (lambda f: table_of_files(f.parent, [f"{MARK}\0"]), UNREADABLE, "cannot be read"),
        (lambda f: table_of_files(f.parent, [""]), UNREADABLE, "no file is named"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_taken_are_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], code: str, words: str
) -> None:
    write_png(tmp_path / "scans" / f"{MARK}.png", noise(1))
    table_of_files(tmp_path, [f"{MARK}.png"])
    assert load(tmp_path, FOLDER).num_rows == 1
    spoil(tmp_path / "scans")
    refused(tmp_path, FOLDER, code, "images.csv: line 2: ", words)


def save_array(folder: Path, images: Any, name: str = "images") -> None:
    np.savez(folder / "images.npz", **{name: images})


def save_header_alone(folder: Path) -> None:
    """Write an array that says it has images of 100,000 x 100,000 pixels."""
    with zipfile.ZipFile(folder / "images.npz", "w") as archive:
        text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 100000, 100000)}"
        text = text.ljust(118) + "\n"
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text.encode())


def table_of_indices(folder: Path, index: object) -> None:
    write_table(folder / "images.csv", index=[0, index], patient=["p", "q"], kind=["glioma"] * 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "images.npz").unlink(), "images.npz: there is no such file"),
        (lambda f: (f / "images.npz").write_text(MARK), "images.npz: the file cannot be read"),
        (lambda f: save_array(f, noise(1, 3, 16, 16).astype(float)), "images.npz: it holds no"),
        (lambda f: save_array(f, np.asfortranarray(noise(1, 3, 16, 16))), "in C order"),
        (lambda f: save_array(f, noise(1, 3, 16, 16, 2)), "with the channels of the study"),
        (lambda f: save_array(f, np.array([{MARK: 1}] * 3, object)), "images.npz: it holds no"),
        (lambda f: save_array(f, noise(1, 3, 16, 16), name="x"), "images.npz: it holds no"),
        (lambda f: save_array(f, noise(1, 3, 7, 16)), "images.csv: line 2: no image"),
        (save_header_alone, "89,478,485 pixels"),
        (lambda f: table_of_indices(f, 3), "images.csv: line 3: the index is beyond the array"),
        (lambda f: table_of_indices(f, -1), "images.csv: line 3: the index is no number"),
        (lambda f: table_of_indices(f, MARK), "images.csv: line 3: the index is no number"),
        (lambda f: table_of_indices(f, ""), "images.csv: line 3: the index is no number"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_taken_are_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    (tmp_path / "scans").mkdir()
    save_array(tmp_path / "scans", noise(1, 3, SIZE, SIZE))
    table_of_indices(tmp_path / "scans", 2)
    assert load(tmp_path, ARRAY).num_rows == 2
    spoil(tmp_path / "scans")
    refused(tmp_path, ARRAY, UNREADABLE, words)


@pytest.mark.parametrize(
    ("write", "source"),
    [(one_radiograph, DICOM), (one_volume, NIFTI)],
)
def test_a_link_out_of_the_folder_is_refused(
    tmp_path: Path, write: Callable[[Path], None], source: str
) -> None:
    write(tmp_path)
    outside = tmp_path / "elsewhere"
    (file,) = [each for each in (tmp_path / "scans").iterdir() if each.suffix != ".csv"]
    outside.mkdir()
    file.rename(outside / file.name)
    file.symlink_to(outside / file.name)
    study = HEADS if source == NIFTI else STUDY
    refused(tmp_path, source + DEFACED, REFUSED, "leads out of the folder", study=study)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (f'{FOLDER}\nscaling = "window"', "source.scaling"),
        (f'{FOLDER}\nnpz = "x.npz"\nfiles = {{ x = "a" }}', "with npz there are none"),
        (f'{FOLDER}\nfiles = {{ y = "a" }}', "'y' is no channel of the study"),
        (f'{FOLDER}\nfiles = {{ x = "a" }}', "column 'a': missing"),
        (f'{FOLDER}\npatient = "a"', "column 'a': missing"),
        (f"{NIFTI}\nleast_foreground = 1", "source.least_foreground"),
        (f"{NIFTI}\nbetween = [0.1]", "source.between"),
        (f"{NIFTI}\nbetween = [0.0, 1.1]", "from 0 to 1"),
        ('kind = "image_folder"', "source.path"),
        ('kind = "table_file"\npath = "scans/images.csv"', "source.kind: the study is of images"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_sentence(tmp_path: Path, source: str, words: str) -> None:
    write_png(tmp_path / "scans" / "x.png", noise(1))
    table_of_files(tmp_path, ["x.png"])
    with pytest.raises(InvalidFileError) as caught:
        load(tmp_path, source)
    assert words in str(caught.value)


def test_a_study_of_a_table_needs_a_source_of_tables(tmp_path: Path) -> None:
    write_png(tmp_path / "scans" / "x.png", noise(1))
    table_of_files(tmp_path, ["x.png"])
    with pytest.raises(InvalidFileError, match=r"source\.kind: the study is of a table"):
        load(tmp_path, FOLDER, study_of())


def test_rows_outside_the_domain_are_dropped_with_their_images(tmp_path: Path) -> None:
    for number in range(3):
        write_png(tmp_path / "scans" / f"{number}.png", noise(number))
    names = [f"{number}.png" for number in range(3)]
    table_of_files(tmp_path, names, kind=["glioma", MARK, "healthy"])
    refused(tmp_path, FOLDER, "too_many_dropped", "column 'kind'", "33.3%")
    data = STUDY.data.model_copy(update={"max_dropped_share": 0.5})
    source = FOLDER + '\nscaling = "full_range"'
    found = site_of(tmp_path, source).load_table(data)
    np.testing.assert_array_equal(found.columns[IMAGE][1, :, :, 0], noise(2))
    table_of_files(tmp_path, names, patient=["a", "NA", "c"], kind=["glioma"] * 3)
    refused(tmp_path, FOLDER, "too_many_dropped", "column 'patient'")
