"""DICOM files: what of a header is read, what is refused, and what survives.

Only the elements below are parsed: names, dates and descriptions never become objects here. Ids and
UIDs leave as hashes under the site's key.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pratique_client.sources.image_geometry import Placement
from pratique_client.sources.image_source import keyed
from pratique_common.images.image_pixels import (
    MOST_PIXELS,
    REFUSED,
    ImageError,
    by_percentiles,
    check_pixels,
    reading,
    square,
    too_large,
)

if TYPE_CHECKING:
    from pydicom import Dataset

Key = Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
Coded = Literal[
    "Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality",
    "ScanningSequence", "SequenceVariant",
]  # fmt: skip
"""Attributes that a site may choose by: words of the standard (code strings), no free text."""

_LOOKED_AT = (
    "SOPClassUID", "ImageType", "BurnedInAnnotation", "RecognizableVisualFeatures",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "ImagerPixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
)  # fmt: skip
_OVERLAYS = [
    group << 16 | element for group in range(0x6000, 0x6100, 2) for element in (0x10, 0x3000)
]
"""Rows and data of overlay planes (PS3.3 C.9.2): they are drawn over the image, often as text."""

_HEADER = [*get_args(Key), *get_args(Coded), *_LOOKED_AT, *_OVERLAYS]
_PIXELS = [
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration",
    "RescaleSlope", "RescaleIntercept", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "PixelData", "FloatPixelData", "DoubleFloatPixelData",
]  # fmt: skip

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_OFTEN_LABELLED = {"US", "XA", "RF", "SC", "OT", "ES", ""}
_WITH_FACES = {
    "BRAIN", "EAR", "FACE", "HEAD", "HEADNECK", "IAC", "JAW", "MAXILLA", "MANDIBLE", "NOSE",
    "ORBIT", "SINUS", "SKULL", "WHOLEBODY", "ZYGOMA",
}  # fmt: skip
"""Defined terms of BodyPartExamined (PS3.16 annex L) whose volumes show a face or part of one."""

_PREFIX_AT, _PREFIX = 128, b"DICM"


@dataclass(frozen=True)
class DicomImage:
    """What survives of a header: where the image is, whose, and how it lies."""

    ordinal: int  # of the file, from 1, in the order of paths as bytes
    path: Path
    line: int  # of the table that tells of it
    patient: str | None  # keyed, like the three below; None without a PatientID
    exam: str
    series: str
    instance: str
    placement: Placement | None
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]


def files_below(folder: Path) -> list[Path]:
    """Return all files of a folder tree, as ``find FOLDER -type f | LC_ALL=C sort`` lists them.

    Raises:
        ImageError: the folder cannot be read, or a link in it leads out.
    """

    def failed(_: OSError) -> None:
        raise ImageError("the folder cannot be read", "correct the path, or its rights")

    found = []
    for parent, folders, files in os.walk(folder, onerror=failed):
        for path in (Path(parent) / name for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise ImageError(
                    "a link in it leads out of the folder", "remove the link", code=REFUSED
                )
        found += [path for path in (Path(parent) / name for name in files)
                  if path.is_file() and not path.is_symlink()]  # fmt: skip
    return sorted(found, key=os.fsencode)


@dataclass(frozen=True)
class HeaderReader:
    """Reads headers of files that a table tells of.

    Attributes:
        key: the attribute by which the table tells of images.
        lines: keyed value of it → line.
        where: attribute → the text that it must have.
        id_key: of the site.
        defaced: a person said that faces were removed.
    """

    key: Key
    lines: Mapping[str, int]
    where: Mapping[Coded, str]
    id_key: bytes
    defaced: bool

    def read(self, path: Path, ordinal: int) -> DicomImage | None:
        """Return what a file is; None if it is no image, or none that the table tells of.

        Raises:
            ImageError: the file is damaged, or the image may show who somebody is.
        """
        with reading():
            from pydicom import dcmread

            with path.open("rb") as file:
                if file.read(_PREFIX_AT + len(_PREFIX))[_PREFIX_AT:] != _PREFIX:
                    return None
            header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
            line = self.lines.get(keyed(self.id_key, _text(header, self.key)))
            if "Rows" not in header or line is None or not self._is_chosen(header):
                return None
            _check_identity(header, defaced=self.defaced)
            _check_form(header)
            ids = {name: _text(header, name) for name in get_args(Key)}
            if not all(text for name, text in ids.items() if name != "PatientID"):
                raise ImageError("a UID of the image is missing", "export it again")
            keys = {name: keyed(self.id_key, text) for name, text in ids.items()}
            return DicomImage(
                ordinal=ordinal,
                path=path,
                line=line,
                patient=keys["PatientID"] if ids["PatientID"] else None,
                exam=keys["StudyInstanceUID"],
                series=keys["SeriesInstanceUID"],
                instance=keys["SOPInstanceUID"],
                placement=_placement(header),
                spacing_mm=_spacing_mm(header),
                shape=(int(header["Rows"].value), int(header["Columns"].value)),
            )

    def _is_chosen(self, header: "Dataset") -> bool:
        return all(text.upper() in _texts(header, name) for name, text in self.where.items())


def read_pixels(image: DicomImage, size_px: int) -> NDArray[np.uint8]:
    """Return an image as the study has it, (size_px, size_px).

    Windows and look-up tables for screens are not applied.

    Raises:
        ImageError: its pixels cannot be decoded, or are none.
    """
    with reading():
        from pydicom import dcmread

        content = dcmread(image.path, specific_tags=[*_PIXELS])
        try:
            values = content.pixel_array
        except Exception:  # noqa: BLE001 - what decoders raise is not one family
            raise ImageError(
                "the pixels are damaged, or compressed in a way that cannot be decoded here",
                "decompress the file, as dcmdjpeg or gdcmconv --raw do",
            ) from None
        slope = float(content.get("RescaleSlope") or 1)
        intercept = float(content.get("RescaleIntercept") or 0)
        values = values.astype(np.float64) * slope + intercept
        check_pixels(values)
        if _text(content, "PhotometricInterpretation") == "MONOCHROME1":  # white is nothing
            values = values.max() - values
    spacing_mm = image.spacing_mm
    if image.placement is not None:
        values, spacing_mm = image.placement.upright(values, spacing_mm)
    return square(by_percentiles(values), size_px, spacing_mm)


def _check_identity(header: "Dataset", *, defaced: bool) -> None:
    modality = _text(header, "Modality").upper()
    burned_in = _text(header, "BurnedInAnnotation").upper()
    if burned_in == "YES":
        problem, remedy = "the image has burned-in annotation", "remove the text or the image"
    elif "SECONDARY" in _texts(header, "ImageType") or _is_capture(header):
        problem = "the image is a secondary capture, which may show text"
        remedy = "give the scanner's own images"
    elif modality in _OFTEN_LABELLED and burned_in != "NO":
        problem = "images of this modality often show text, and BurnedInAnnotation is not said"
        remedy = "look at the images and set it, or leave them out"
    elif any(tag in header for tag in _OVERLAYS):
        problem, remedy = "the image has overlay planes", "remove groups 6000 to 60FF"
    elif _text(header, "RecognizableVisualFeatures").upper() == "YES":
        problem, remedy = "the image shows who somebody is", "remove the face or the image"
    elif modality in ("MR", "CT") and _text(header, "BodyPartExamined").upper() in _WITH_FACES:
        if defaced:
            return
        problem = "the image is of a head: a face can be rendered from its series"
        remedy = "remove faces, look at some, then write defaced = true into [source]"
    else:
        return
    raise ImageError(problem, remedy, code=REFUSED)


def _is_capture(header: "Dataset") -> bool:
    uid = _text(header, "SOPClassUID")
    return uid == _SECONDARY_CAPTURE or uid.startswith(f"{_SECONDARY_CAPTURE}.")


def _check_form(header: "Dataset") -> None:
    if int(_text(header, "NumberOfFrames") or 1) != 1:
        raise ImageError(
            "the file has several frames", "write one file a frame, or convert it to NIfTI"
        )
    grey = _text(header, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if int(_text(header, "SamplesPerPixel") or 1) != 1 or not grey:
        raise ImageError("the image is in colour", "leave it out, or export it as grey values")
    if int(header["Rows"].value) * int(header["Columns"].value) > MOST_PIXELS:
        raise too_large()


def _placement(header: "Dataset") -> Placement | None:
    orientation = header.get("ImageOrientationPatient")
    position = header.get("ImagePositionPatient")
    if not orientation or not position:
        return None
    try:
        return Placement.of_dicom([float(x) for x in orientation], [float(x) for x in position])
    except (ValueError, TypeError):
        raise ImageError("the header tells no plane of the image", "export it again") from None


def _spacing_mm(header: "Dataset") -> tuple[float, float]:
    found = header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or (1, 1)
    rows, columns = (float(each) for each in found)
    if not (rows > 0 and columns > 0 and isfinite(rows) and isfinite(columns)):
        raise ImageError("the header tells no spacing of pixels", "export it again")
    return rows, columns


def _texts(header: "Dataset", name: str) -> Collection[str]:
    value = header.get(name)
    values: Iterator[object] = iter([value] if isinstance(value, str) else value or ())
    return [str(each).strip().upper() for each in values]


def _text(header: "Dataset", name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()
