"""PNG and JPEG files, or the array ``images`` of an .npz file, and a table with a line an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from pratique_client.sources.base import bad_field
from pratique_client.sources.image_source import (
    FoundImage,
    ImageSource,
    ImageStudy,
    check_files,
    file_columns,
)
from pratique_common.images.image_pixels import (
    ImageError,
    Scaling,
    UInt8Array,
    inside,
    prepared,
    reading,
)
from pratique_common.images.npz_images import images_at, read_places
from pratique_common.schema import TableSchema

_KINDS = ("PNG", "JPEG")
_DEEP_GREY = ("I;16", "I")  # PNG of 16 bits a pixel; all other kinds become 8 bits of grey


class ImageFolder(ImageSource):
    """Files are named from the table's folder; the order of the table's lines counts."""

    kind: Literal["image_folder"]
    files: Mapping[str, str] = Field(default={}, description="channel → column of its file")
    npz: str | None = Field(default=None, min_length=1, description="instead of files")
    index: str = Field(default="index", min_length=1, description="column of the place in npz")
    scaling: Scaling = Field(
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
                    prepared(
                        _read_file(study.table.parent, column[line])[..., None],
                        self.scaling,
                        study.image.size_px,
                    )
                    for column in columns
                ]
            except ImageError as problem:
                raise study.bad_line(line, problem) from None
            yield np.concatenate(planes, axis=-1)

    def _of_array(self, study: ImageStudy) -> Iterator[UInt8Array]:
        assert self.npz is not None
        places = read_places(study.table, study.texts(self.index))
        npz = study.table.parent / self.npz
        return images_at(npz, study.table, places, study.image, self.scaling)


def _read_file(folder: Path, name: str | None) -> NDArray[np.generic]:
    """Return grey values (H, W); comments, EXIF and colour profiles are never looked at."""
    if name is None:
        raise ImageError("no file is named", "name it, or leave the line out")
    with reading(), Image.open(inside(folder, name), formats=_KINDS) as image:
        if image.mode in _DEEP_GREY:
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image.convert("L"))
