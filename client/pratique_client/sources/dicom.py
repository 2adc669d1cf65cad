"""A folder tree of DICOM files, and a table that tells of patients, exams, series or images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pratique_client.sources.base import bad_field
from pratique_client.sources.dicom_files import (
    Coded,
    DicomImage,
    HeaderReader,
    Key,
    files_below,
    read_pixels,
)
from pratique_client.sources.image_source import (
    Between,
    FoundImage,
    ImageSource,
    ImageStudy,
    check_volumes,
    evenly,
    keyed,
    place_between,
    slices_around,
    without_neighbours,
)
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_pixels import ImageError, UInt8Array
from pratique_common.schema import TableSchema

_GAP_MM = 0.1
"""How far slices of two channels may lie apart and still show the same place."""


@dataclass(frozen=True)
class _Place:
    """One place of a patient."""

    line: int  # of the table that tells of it
    images: tuple[DicomImage, ...]  # one a plane
    position: float | None


class DicomFolder(ImageSource):
    """Of a patient's images some are taken, evenly along its series."""

    kind: Literal["dicom"]
    folder: str = Field(min_length=1, description="of DICOM files, at any depth")
    key: Key = Field(description="the attribute, and the table's column, by which lines tell")
    channel: str | None = Field(
        default=None, min_length=1, description="column of the channel; where there are several"
    )
    where: Mapping[Coded, str] = Field(
        default={}, description="attribute → word that it must have; others are passed over"
    )
    between: Between = Field(
        default=(0.0, 1.0), description="of a series' height: they become positions 0 and 1"
    )
    defaced: bool = Field(default=False, description="a person says that faces were removed")

    def describe(self, site_file: Path) -> str:
        """Return table and folder."""
        return f"{super().describe(site_file)} and {self.folder}"

    def check(self, site_file: Path, schema: TableSchema) -> None:
        """Refuse heads with faces, unknown patients, and several channels that nothing names."""
        assert schema.image is not None
        check_volumes(site_file, schema, defaced=self.defaced)
        told = self.channel is not None and self.key in ("SeriesInstanceUID", "SOPInstanceUID")
        if len(schema.image.channels) > 1 and not told:
            raise bad_field(
                site_file,
                "channel",
                "the study has several channels, and nothing says which one a series is",
                "name a column of the table, with a line a series",
            )

    def own_columns(self, schema: TableSchema) -> list[str]:
        """Return the key, and what else is set."""
        del schema
        return [self.key, *(name for name in (self.patient, self.channel) if name)]

    def told_columns(self, schema: TableSchema) -> list[str]:
        """Return all columns but the position."""
        assert schema.image is not None
        return [name for name in schema.names if name != schema.image.position]

    def images(self, study: ImageStudy) -> Iterator[FoundImage]:
        """Yield images, patient by patient."""
        channels = self._channels(study)
        told = None if self.patient is None else study.patients(self.patient)
        by_patient: dict[str | None, list[DicomImage]] = {}
        owners: dict[int, str | None] = {}
        for image in self._headers(study):
            patient = image.patient if told is None else told[image.line]
            if patient is None and told is None:
                raise self._bad_file(study, image.ordinal, ImageError(
                    "the file has no PatientID", "name the table's column of patients as patient"
                ))  # fmt: skip
            if owners.setdefault(image.line, patient) != patient:
                raise study.bad_line(image.line, ImageError(
                    "images of two patients have this key", "give their exams UIDs of their own"
                ))  # fmt: skip
            by_patient.setdefault(patient, []).append(image)
        for patient, images in by_patient.items():
            places = self._places(study, images, channels)
            if not places and study.image.neighbours:
                raise study.bad_line(images[0].line, without_neighbours())
            for place in evenly(places, study.schema.max_rows_per_patient):
                planes = [self._pixels(study, image) for image in place.images]
                yield FoundImage(place.line, patient, np.stack(planes, axis=-1), place.position)

    def _channels(self, study: ImageStudy) -> list[int]:
        """Return for each line the number of its channel in the study."""
        names = study.image.channels
        if len(names) == 1:
            return [0] * study.num_lines
        assert self.channel is not None  # checked
        channels = []
        for line, name in enumerate(study.texts(self.channel)):
            if name not in names:
                problem = ImageError("no channel of the study", f"write {', '.join(names)}")
                raise study.bad_line(line, problem)
            channels.append(names.index(name))
        return channels

    def _headers(self, study: ImageStudy) -> list[DicomImage]:
        """Return all images that the table tells of, in its order, each once."""
        lines: dict[str, int] = {}
        for line, text in enumerate(study.texts(self.key)):
            key = keyed(study.id_key, text or "")
            if text is None or key in lines:
                problem = ImageError(f"{self.key} is missing or stands twice", "correct it")
                raise study.bad_line(line, problem)
            lines[key] = line
        folder = study.site_file.parent / self.folder
        reader = HeaderReader(self.key, lines, self.where, study.id_key, self.defaced)
        found: dict[str, DicomImage] = {}
        try:
            paths = files_below(folder)
        except ImageError as problem:
            raise bad_field(
                study.site_file, "folder", problem.problem, problem.remedy, code=problem.code
            ) from None
        for ordinal, path in enumerate(paths, start=1):
            try:
                image = reader.read(path, ordinal)
            except ImageError as problem:
                raise self._bad_file(study, ordinal, problem) from None
            if image is None:
                continue
            if image.instance in found:
                raise self._bad_file(study, ordinal, ImageError(
                    "an earlier file has the same SOPInstanceUID",
                    "remove copies, or give every image a UID of its own",
                ))  # fmt: skip
            found[image.instance] = image
        seen = {image.line for image in found.values()}
        for line in range(study.num_lines):
            if line not in seen:
                raise study.bad_line(line, ImageError(
                    "the folder has no image of it, or where excludes all of them",
                    "add its files, or remove the line",
                ))  # fmt: skip
        return sorted(found.values(), key=lambda each: (each.line, each.instance))

    def _places(
        self, study: ImageStudy, images: Sequence[DicomImage], channels: Sequence[int]
    ) -> list[_Place]:
        """Return a patient's places, stack by stack, each from its lowest to its highest."""
        stacks: dict[str, list[list[DicomImage]]] = {}
        several = len(study.image.channels) > 1
        for image in images:
            name = image.exam if several else image.series
            stack = stacks.setdefault(name, [[] for _ in study.image.channels])
            stack[channels[image.line]].append(image)
        places = []
        for stack in stacks.values():
            for channel in stack:
                channel.sort(key=_height_mm)
            if several:
                self._check_same_places(study, stack)
            heights = self._heights(study, stack[0])
            heights_mm = np.array([_height_mm(image)[0] for image in stack[0]])
            for number, height in enumerate(heights):
                position = None if height is None else place_between(height, self.between)
                if height is not None and position is None:
                    continue
                try:
                    around = slices_around(heights_mm, number, study.image)
                except ImageError as problem:
                    raise self._bad_file(study, stack[0][number].ordinal, problem) from None
                if around is not None:  # else there are none beside it
                    planes = tuple(channel[each] for channel in stack for each in around)
                    places.append(_Place(stack[0][number].line, planes, position))
        return places

    def _check_same_places(self, study: ImageStudy, stack: Sequence[Sequence[DicomImage]]) -> None:
        """Refuse an exam whose channels do not show the same places, or are told unlike things."""
        first, *others = stack
        told = [study.texts(name) for name in self.told_columns(study.schema)
                if name in study.cells.column_names]  # fmt: skip
        for other in others:
            some = (first or other)[0]
            if len(other) != len(first):
                raise self._bad_file(study, some.ordinal, ImageError(
                    "the channels of its exam have different numbers of images",
                    "give one series a channel, with the same slices",
                ))  # fmt: skip
            for one, another in zip(first, other, strict=True):
                if not _same_place(one, another):
                    raise self._bad_file(study, another.ordinal, ImageError(
                        "the channels of its exam do not lie on the same slices",
                        "resample them to one of them, or give NIfTI volumes",
                    ))  # fmt: skip
                if any(texts[one.line] != texts[another.line] for texts in told):
                    raise study.bad_line(another.line, ImageError(
                        "another channel of this exam has other values", "write the same ones"
                    ))  # fmt: skip

    def _heights(self, study: ImageStudy, series: Sequence[DicomImage]) -> list[float] | list[None]:
        """Return where images of a series lie, 0 to 1 from its lowest; they stand in that order.

        None of all where headers do not tell, and nobody asks.
        """
        for image in series:
            if image.placement is None or series[0].placement is None:
                asked = study.image.position is not None or study.image.neighbours
                if not asked and self.between == (0, 1):
                    return [None] * len(series)
                raise self._bad_file(study, image.ordinal, ImageError(
                    "the header does not tell where the image lies, and the study asks for it",
                    "leave it out, or give its position in a table of kind image_folder",
                ))  # fmt: skip
            if not image.placement.is_parallel(series[0].placement):
                raise self._bad_file(study, image.ordinal, ImageError(
                    "images of one series lie in different directions",
                    "leave localizers out: tell of images by SeriesInstanceUID",
                ))  # fmt: skip
        heights_mm = [_height_mm(image)[0] for image in series]
        if study.image.neighbours:
            for image, below, above in zip(series[1:], heights_mm, heights_mm[1:], strict=False):
                if above - below < _GAP_MM:
                    raise self._bad_file(study, image.ordinal, ImageError(
                        "another image of its series lies at the same place, and the study asks "
                        "for its neighbours", "tell of the images of one volume by SOPInstanceUID",
                    ))  # fmt: skip
        low, high = heights_mm[0], heights_mm[-1]
        return [(each - low) / (high - low) if high > low else 0.5 for each in heights_mm]

    def _pixels(self, study: ImageStudy, image: DicomImage) -> UInt8Array:
        try:
            return read_pixels(image, study.image.size_px)
        except ImageError as problem:
            raise self._bad_file(study, image.ordinal, problem) from None

    def _bad_file(self, study: ImageStudy, ordinal: int, problem: ImageError) -> InvalidFileError:
        """Return the error that names a file by its number: its name may be a patient's."""
        return InvalidFileError(
            study.site_file.parent / self.folder,
            field=f"file {ordinal}",
            problem=problem.problem,
            remedy=problem.remedy,
            code=problem.code,
        )


def _height_mm(image: DicomImage) -> tuple[float, str]:
    """Return by what images of a series are put in order."""
    return 0.0 if image.placement is None else image.placement.position_mm, image.instance


def _same_place(one: DicomImage, other: DicomImage) -> bool:
    """Whether two images show the same pixels of the same slice."""
    if one.placement is None or other.placement is None:
        return False
    return (
        one.shape == other.shape
        and np.allclose(one.spacing_mm, other.spacing_mm, rtol=0.01)
        and one.placement.is_parallel(other.placement)
        and np.allclose(one.placement.corner_mm, other.placement.corner_mm, atol=_GAP_MM)
    )
