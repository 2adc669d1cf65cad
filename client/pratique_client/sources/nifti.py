"""Volumes in NIfTI files, and a table with a line a volume: axial slices become images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pratique_client.sources.base import bad_field
from pratique_client.sources.image_source import (
    Between,
    FoundImage,
    ImageSource,
    ImageStudy,
    check_files,
    check_volumes,
    evenly,
    file_columns,
    place_between,
    slices_around,
    without_neighbours,
)
from pratique_client.sources.nifti_files import Volume, read_volume
from pratique_common.images.image_pixels import (
    ImageError,
    by_percentiles,
    check_pixels,
    inside,
    square,
)
from pratique_common.schema import TableSchema


class NiftiVolumes(ImageSource):
    """Of a patient's slices some are taken, evenly."""

    kind: Literal["nifti"]
    folder: str | None = Field(
        default=None, min_length=1, description="from which files are named; default: the table's"
    )
    files: Mapping[str, str] = Field(default={}, description="channel → column of its file")
    between: Between = Field(
        default=(0.0, 1.0), description="of a volume's height: they become positions 0 and 1"
    )
    least_foreground: float = Field(
        default=0.05, ge=0, lt=1, description="share of a slice that must not be background"
    )
    defaced: bool = Field(default=False, description="a person says that faces were removed")

    def describe(self, site_file: Path) -> str:
        """Return the table, and the folder if it is another one."""
        table = super().describe(site_file)
        return table if self.folder is None else f"{table} and {self.folder}"

    def check(self, site_file: Path, schema: TableSchema) -> None:
        """Refuse heads with faces, unknown patients, and files of what is no channel."""
        assert schema.image is not None
        check_volumes(site_file, schema, defaced=self.defaced)
        check_files(site_file, schema.image.channels, self.files)

    def own_columns(self, schema: TableSchema) -> list[str]:
        """Return the columns of files and of patients."""
        assert schema.image is not None
        return [*file_columns(schema.image.channels, self.files), self._patient(schema)]

    def told_columns(self, schema: TableSchema) -> list[str]:
        """Return all columns but the position."""
        assert schema.image is not None
        return [name for name in schema.names if name != schema.image.position]

    def images(self, study: ImageStudy) -> Iterator[FoundImage]:
        """Yield slices, patient by patient."""
        folder = self._folder(study)
        columns = [study.texts(name) for name in file_columns(study.image.channels, self.files)]
        lines_of: dict[str | None, list[int]] = {}
        for line, patient in enumerate(study.patients(self._patient(study.schema))):
            lines_of.setdefault(patient, []).append(line)
        for patient, lines in lines_of.items():
            slices: list[FoundImage] = []
            for line in lines:
                try:
                    volumes = _read_line(folder, [column[line] for column in columns])
                    slices += self._slices(study, volumes, line, patient)
                except ImageError as problem:
                    raise study.bad_line(line, problem) from None
            if not slices and study.image.neighbours:
                raise study.bad_line(lines[0], without_neighbours())
            yield from evenly(slices, study.schema.max_rows_per_patient)

    def _folder(self, study: ImageStudy) -> Path:
        if self.folder is None:
            return study.table.parent
        folder = study.site_file.parent / self.folder
        if not folder.is_dir():
            raise bad_field(study.site_file, "folder", "no such folder", "correct the path")
        return folder

    def _patient(self, schema: TableSchema) -> str:
        assert schema.patient_id is not None  # checked
        return self.patient or schema.patient_id

    def _slices(
        self, study: ImageStudy, volumes: Sequence[Volume], line: int, patient: str | None
    ) -> Iterator[FoundImage]:
        """Yield the slices of one line that are not empty in the study's first channel.

        Those whose neighbours would lie outside the volume are left out.
        """
        foreground, heights_mm = volumes[0].foreground(), volumes[0].heights_mm()
        for number, share in enumerate(foreground):
            height = number / (len(foreground) - 1) if len(foreground) > 1 else 0.5
            position = place_between(height, self.between)
            if position is None or share < self.least_foreground:
                continue
            around = slices_around(heights_mm, number, study.image)
            if around is None:
                continue
            planes = []
            for volume, each in product(volumes, around):
                values_HW, spacing_mm = volume.slice(each)
                check_pixels(values_HW)
                planes.append(square(by_percentiles(values_HW), study.image.size_px, spacing_mm))
            yield FoundImage(line, patient, np.stack(planes, axis=-1), position)


def _read_line(folder: Path, names: Sequence[str | None]) -> list[Volume]:
    volumes = []
    for name in names:
        if name is None:
            raise ImageError("no file is named", "name it, or leave the line out")
        volumes.append(read_volume(inside(folder, name)))
    if not all(volume.lies_like(volumes[0]) for volume in volumes):
        raise ImageError(
            "the channels do not lie on the same voxels", "resample them to one of them"
        )
    return volumes
