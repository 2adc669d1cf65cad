"""PNG and JPEG files, or the array ``images`` of an .npz file, and a table with a line an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from pratique_client.sources.base import bad_field
from pratique_client.sources.image_pixels import (
    ImageError,
    UInt8Array,
    by_full_range,
    by_percentiles,
    check_pixels,
    inside,
    reading,
    square,
)
from pratique_client.sources.image_source import (
    FoundImage,
    ImageSource,
    ImageStudy,
    check_files,
    file_columns,
)
from pratique_client.sources.npz_images import read_npz
from pratique_common.schema import TableSchema

_KINDS = ("PNG", "JPEG")
_DEEP_GREY = ("I;16", "I")  # PNG of 16 bits a pixel; all other kinds become 8 bits of grey
_INDEX_REMEDY = "write the image's place in the array, from 0"


class ImageFolder(ImageSource):
    """Files are named from the table's folder; the order of the table's lines counts."""

    kind: Literal["image_folder"]
    files: Mapping[str, str] = Field(default={}, description="channel → column of its file")
    npz: str | None = Field(default=None, min_length=1, description="instead of files")
    index: str = Field(default="index", min_length=1, description="column of the place in npz")
    scaling: Literal["percentile", "full_range"] = Field(
        default="percentile", description="full_range: pixels were scaled before, alike everywhere"
    )

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.npz is not None and self.files:
            raise ValueError("files: with npz there are none")
        return self

    def check(self, site_file: Path, schema: TableSchema) -> None:
        """Refuse files of what is no channel, and files where slices have neighbours."""
        assert schema.image is not None
        if schema.image.neighbours and self.npz is None:
            raise bad_field(
                site_file,
                "npz",
                "the study asks for neighbouring slices, and a file holds one",
                f"give an array as npz, with {schema.image.shape[2]} planes an image",
            )
        check_files(site_file, schema.image.channels, self.files)

    def own_columns(self, schema: TableSchema) -> list[str]:
        """Return the columns of files, or of the index, and of patients."""
        assert schema.image is not None
        columns = file_columns(schema.image.channels, self.files) if self.npz is None else []
        patient = self.patient or schema.patient_id if schema.patient_id else None
        return [*(columns or [self.index]), *([patient] if patient else [])]

    def told_columns(self, schema: TableSchema) -> list[str]:
        """Return all columns of the study."""
        return list(schema.names)

    def images(self, study: ImageStudy) -> Iterator[FoundImage]:
        """Yield an image for each line."""
        patients: list[str | None] = [None] * study.num_lines
        if study.schema.patient_id is not None:
            patients = study.patients(self.patient or study.schema.patient_id)
        images = self._of_files(study) if self.npz is None else self._of_array(study)
        for line, pixels in enumerate(images):
            yield FoundImage(line, patients[line], pixels)

    def _of_files(self, study: ImageStudy) -> Iterator[UInt8Array]:
        names = file_columns(study.image.channels, self.files)
        columns = [study.texts(name) for name in names]
        for line in range(study.num_lines):
            try:
                planes = [
                    self._plane(_read_file(study.table.parent, column[line]), study.image.size_px)
                    for column in columns
                ]
            except ImageError as problem:
                raise study.bad_line(line, problem) from None
            yield np.stack(planes, axis=-1)

    def _of_array(self, study: ImageStudy) -> Iterator[UInt8Array]:
        assert self.npz is not None
        places = []
        for line, text in enumerate(study.texts(self.index)):
            if text is None or not (text.isascii() and text.isdigit()):
                raise study.bad_line(line, ImageError("the index is no number", _INDEX_REMEDY))
            places.append(int(text))
        line_of = {place: line for line, place in enumerate(places)}

        def prepare(place: int, image_HWC: UInt8Array) -> UInt8Array:
            try:
                planes = np.moveaxis(image_HWC, -1, 0)
                return np.stack([self._plane(each, study.image.size_px) for each in planes], -1)
            except ImageError as problem:
                raise study.bad_line(line_of[place], problem) from None

        path, num_planes = study.table.parent / self.npz, study.image.shape[2]
        read = read_npz(path, num_planes, line_of.keys(), prepare)
        for line, place in enumerate(places):
            if place not in read:
                problem = ImageError("the index is beyond the array", _INDEX_REMEDY)
                raise study.bad_line(line, problem)
            yield read[place]

    def _plane(self, values_HW: NDArray[np.generic], size_px: int) -> UInt8Array:
        check_pixels(values_HW)
        scaled = by_percentiles if self.scaling == "percentile" else by_full_range
        return square(scaled(values_HW), size_px)


def _read_file(folder: Path, name: str | None) -> NDArray[np.generic]:
    """Return grey values (H, W); comments, EXIF and colour profiles are never looked at."""
    if name is None:
        raise ImageError("no file is named", "name it, or leave the line out")
    with reading(), Image.open(inside(folder, name), formats=_KINDS) as image:
        if image.mode in _DEEP_GREY:
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image.convert("L"))
