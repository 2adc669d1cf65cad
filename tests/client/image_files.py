"""Files of images as scanners and exports write them, with a name planted wherever one may be."""

import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pratique_common.study import StudySpec
from pratique_common.tables import Table
from tests.client.phantoms import site_of
from tests.conftest import small_study

MARK = "MARKEDXYZZY"
"""Part of a name that must be nowhere but in the files."""

UIDS = "1.2.826.0.1.3680043.8.498.4711"
SIZE = 16

KIND = {"name": "kind", "type": "categorical", "categories": ["healthy", "glioma"]}
PLACE = {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 8}


def image_study(*, rows: int = 1, **image: Any) -> StudySpec:
    """Return a study of chest images; ``image`` changes what an image is."""
    data: dict[str, Any] = {
        "kind": "image", "patient_id": "patient", "max_rows_per_patient": rows, "target": "kind",
        "max_dropped_share": 0.0, "columns": [KIND],
        "image": {"prior": "chest_xray", "size_px": SIZE, "channels": ["x"], **image},
    }  # fmt: skip
    if image.get("position"):
        data["columns"] = [KIND, PLACE]
    return small_study(data=data, generator={"name": "sim_pe", "phantoms": 40})


def write_table(path: Path, **columns: list[Any]) -> None:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = {name: pa.array([str(cell) for cell in cells]) for name, cells in columns.items()}
    pa.csv.write_csv(pa.table(cells), path)


def write_png(path: Path, values: NDArray[Any]) -> None:
    """Write a PNG whose comments hold the mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = PngInfo()
    texts.add_text("Comment", MARK)
    Image.fromarray(values).save(path, pnginfo=texts)


def write_huge_png(path: Path) -> None:
    """Write a PNG of some hundred bytes whose header tells of 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")
                     + chunk(b"IEND", b""))  # fmt: skip


def dicom(values: NDArray[Any], **changes: Any) -> FileDataset:
    """Return a radiograph of Doe; None takes an attribute away."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    attributes = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": f"{UIDS}.1", "SeriesInstanceUID": f"{UIDS}.2",
        "PatientName": f"Doe^{MARK}", "PatientID": f"id-{MARK}", "PatientBirthDate": "19700101",
        "StudyDescription": MARK, "SeriesDescription": MARK, "AccessionNumber": MARK,
        "InstitutionName": MARK, "StudyDate": "20200102", "ImageComments": MARK,
        "Modality": "CR", "ImageType": ["ORIGINAL", "PRIMARY"], "ViewPosition": "PA",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "Rows": values.shape[0], "Columns": values.shape[1], "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
        "PixelData": np.ascontiguousarray(values, "<u2").tobytes(),
    } | changes  # fmt: skip
    for name, value in attributes.items():
        if value is not None:
            setattr(found, name, value)
    found["PixelData"].VR = "OW"
    return found


def write_dicom(path: Path, values: NDArray[Any], **changes: Any) -> None:
    """Write what ``dicom`` returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom(values, **changes).save_as(path, enforce_file_format=True)


def sampled(
    volume: NDArray[Any], corner: NDArray[Any], across: NDArray[Any], down: NDArray[Any]
) -> NDArray[Any]:
    """Return the slice that begins at a voxel and runs along two axes of a volume (RAS)."""
    rows, columns = (abs(int(axis @ volume.shape)) for axis in (down, across))
    steps_down, steps_across = np.arange(rows), np.arange(columns)
    place = (
        corner[:, None, None]
        + down[:, None, None] * steps_down[:, None]
        + across[:, None, None] * steps_across
    )
    return np.asarray(volume[place[0], place[1], place[2]])


def write_series(
    folder: Path,
    volume: NDArray[Any],
    across: tuple[int, int, int],
    down: tuple[int, int, int],
    **changes: Any,
) -> None:
    """Write every slice of a volume (right, anterior, superior; voxels of 1 mm) as one series."""
    a, d = np.array(across), np.array(down)
    normal = np.abs(np.cross(a, d))
    last = np.array(volume.shape) - 1
    start = np.where((a + d) < 0, last, 0)
    for number in range(int(normal @ volume.shape)):
        corner = np.where(normal > 0, number, start)
        to_lps = np.array([-1, -1, 1])
        geometry = {
            "ImageOrientationPatient": [*map(float, a * to_lps), *map(float, d * to_lps)],
            "ImagePositionPatient": list(map(float, corner * to_lps)),
            "PixelSpacing": [1.0, 1.0],
        }
        write_dicom(folder / f"{MARK}-{number}.dcm", sampled(volume, corner, a, d),
                    **{"Modality": "MR", **geometry, **changes})  # fmt: skip


def write_nifti(path: Path, volume: NDArray[Any], axes: str = "RAS", **header: Any) -> None:
    """Write a volume (right, anterior, superior; voxels of 1 mm), stored along other axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = nibabel.Nifti1Image(volume, np.eye(4))
    turned = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(("R", "A", "S")),
        nibabel.orientations.axcodes2ornt(tuple(axes)),
    )
    image = image.as_reoriented(turned)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)


def head(seed: int = 0, shape: tuple[int, int, int] = (16, 16, 12)) -> NDArray[np.int16]:
    """Return a volume in which every voxel differs from its neighbours, and no slice is empty."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 4000, shape).astype(np.int16)


STUDY = image_study()
HEADS = image_study(rows=12, prior="brain_mri", channels=["t1"], position="place")
AXIAL = ((-1, 0, 0), (0, -1, 0))

FOLDER = 'kind = "image_folder"\npath = "scans/images.csv"'
ARRAY = f'{FOLDER}\nnpz = "images.npz"\nscaling = "full_range"'
DICOM = 'kind = "dicom"\npath = "scans/cases.csv"\nfolder = "scans"\nkey = "SeriesInstanceUID"'
NIFTI = 'kind = "nifti"\npath = "scans/volumes.csv"'
DEFACED = "\ndefaced = true"


def load(folder: Path, source: str, study: StudySpec = STUDY) -> Table:
    return site_of(folder, source).load_table(study.data)


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape or (SIZE, SIZE), np.uint8)


def table_of_files(folder: Path, names: list[str], **more: list[Any]) -> None:
    kinds = ["healthy", "glioma"] * len(names)
    cells: dict[str, list[Any]] = {
        "file": names, "patient": [f"p-{MARK}-{n}" for n in range(len(names))],
        "kind": kinds[: len(names)], **more,
    }  # fmt: skip
    write_table(folder / "scans" / "images.csv", **cells)


def one_series(folder: Path, volume: Any = None, **changes: Any) -> None:
    write_series(folder / "scans", head() if volume is None else volume, *AXIAL, **changes)
    write_table(folder / "scans" / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])


def one_radiograph(folder: Path, values: Any = None, **changes: Any) -> None:
    pixels = noise(1) if values is None else values
    write_dicom(folder / "scans" / f"{MARK}.dcm", pixels, **changes)
    write_table(folder / "scans" / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])


def one_volume(folder: Path, volume: Any = None, axes: str = "RAS", **header: Any) -> None:
    pixels = head() if volume is None else volume
    write_nifti(folder / "scans" / f"{MARK}.nii.gz", pixels, axes, **header)
    write_table(folder / "scans" / "volumes.csv", file=[f"{MARK}.nii.gz"],
                patient=[f"id-{MARK}"], kind=["glioma"])  # fmt: skip
