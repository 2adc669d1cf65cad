"""What all sources of images share: a table that tells of them, and rows with their pixels.

A source finds images and says whose they are; ids are hashed under a key of the site, so that none
of a hospital's own travels on, and no header survives the function that reads it.
"""

import hashlib
import hmac
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from pratique_client.sources.base import DataSource, bad_field, used_columns
from pratique_common.cells import read_texts
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_cells import image_cells
from pratique_common.images.image_pixels import REFUSED, ImageError, UInt8Array
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.schema import TableSchema
from pratique_common.table_files import header, read_columns
from pratique_common.tables import Table, check_batches

Item = TypeVar("Item")


def _in_order(between: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= between[0] < between[1] <= 1:
        raise ValueError("write two numbers from 0 to 1, the lower one first")
    return between


Between = Annotated[tuple[float, float], AfterValidator(_in_order)]
"""Two positions, the lower one first."""

_BATCH_BYTES = 1 << 26
_ID_HEX = 32
"""128 bits of a hash: no two patients of any hospital share one by chance."""


def keyed(key: bytes, text: str) -> str:
    """Return an id that says nothing without the site's key."""
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()[:_ID_HEX]


@dataclass(frozen=True)
class FoundImage:
    """An image, and what the source knows of it."""

    line: int  # of the table, from 0
    patient: str | None  # a keyed id; None if nobody knows, or if the study names no patients
    pixels: UInt8Array  # (H, W, C)
    position: float | None = None  # 0 to 1; None if the table tells it


@dataclass(frozen=True)
class ImageStudy:
    """What a source of images needs to know of study and site."""

    site_file: Path
    schema: TableSchema
    table: Path
    cells: pa.Table  # texts: the columns that study and source use
    id_key: bytes

    @property
    def image(self) -> ImageSpec:
        """What an image of the study is."""
        assert self.schema.image is not None
        return self.schema.image

    @property
    def num_lines(self) -> int:
        """Of the table, without its header."""
        return int(self.cells.num_rows)

    def texts(self, name: str) -> list[str | None]:
        """Return the stripped texts of a column, None where one is missing."""
        missing = {None, *self.schema.missing_values}
        texts = read_texts(self.cells.column(name), self.table, name)
        return [None if text in missing else text for text in texts]

    def patients(self, name: str) -> list[str | None]:
        """Return the keyed ids of a column of patients."""
        return [None if text is None else keyed(self.id_key, text) for text in self.texts(name)]

    def bad_line(self, line: int, problem: ImageError) -> InvalidFileError:
        """Return the error that names a line of the table; its first one is the header."""
        return problem.told(self.table, line=line)


class ImageSource(DataSource):
    """A table that tells of images: a row an image, a volume or a series."""

    path: str = Field(min_length=1, description="the table: .csv (UTF-8, commas) or .parquet")
    patient: str | None = Field(
        default=None, min_length=1, description="its column of patients' ids"
    )

    def label(self, site_file: Path) -> str:
        """Return the table's path."""
        return str(site_file.parent / self.path)

    def names(self, site_file: Path) -> list[str]:
        """Return the table's header."""
        return header(Path(self.label(site_file)))

    @abstractmethod
    def check(self, site_file: Path, schema: TableSchema) -> None:
        """Refuse settings that do not fit the study, before anything is read.

        Raises:
            InvalidFileError: with the field.
        """

    @abstractmethod
    def own_columns(self, schema: TableSchema) -> list[str]:
        """Return the columns of the table that say where images are, and whose."""

    @abstractmethod
    def told_columns(self, schema: TableSchema) -> list[str]:
        """Return the study's columns that the table tells; the source knows the others."""

    @abstractmethod
    def images(self, study: ImageStudy) -> Iterator[FoundImage]:
        """Yield images, those of a patient in an order that is the same tomorrow.

        Raises:
            InvalidFileError: one cannot be read, or may show who somebody is.
        """

    def load(
        self, site_file: Path, schema: TableSchema, *, lacks: Sequence[str], id_key: bytes
    ) -> Table:
        """Return the accepted rows with their images."""
        if schema.image is None:
            raise bad_field(
                site_file,
                "kind",
                "the study is of a table, and this kind of source has images",
                "choose 'table_file', 'sql' or 'fhir'",
            )
        self.check(site_file, schema)
        told = [name for name in self.told_columns(schema) if name not in lacks]
        table = Path(self.label(site_file))
        cells = read_columns(table, list(dict.fromkeys([*self.own_columns(schema), *told])))
        study = ImageStudy(site_file, schema, table, cells, id_key)
        return check_batches(
            _batches(self.images(study), study, told),
            schema,
            source=table,
            patient_id=schema.patient_id,
            lacks=lacks,
        )

    def unused_columns(self, site_file: Path, schema: TableSchema) -> list[str]:
        """Return the names of columns that neither the study nor the source uses."""
        used = [*used_columns(schema), *self.own_columns(schema)]
        return [name for name in self.names(site_file) if name not in used]


def _batches(found: Iterator[FoundImage], study: ImageStudy, told: list[str]) -> Iterator[pa.Table]:
    schema, image = study.schema, study.image
    while part := list(islice(found, max(1, _BATCH_BYTES // image.num_pixels))):
        columns = {name: study.cells.column(name) for name in told}
        batch = pa.table(columns).take([each.line for each in part]) if told else None
        cells = {} if batch is None else {name: batch.column(name) for name in told}
        if image.position is not None and image.position not in told:
            cells[image.position] = pa.array([each.position for each in part], pa.float64())
        if schema.patient_id is not None:
            cells[schema.patient_id] = pa.array([each.patient for each in part], pa.string())
        cells[IMAGE] = image_cells(np.stack([each.pixels for each in part]), image)
        yield pa.table(cells)


def file_columns(channels: Sequence[str], files: Mapping[str, str]) -> list[str]:
    """Return the column that names each channel's file.

    Args:
        channels: of the study.
        files: channel → column; by default ``file`` of a single one and ``file_CHANNEL`` of several
    """
    several = len(channels) > 1
    return [files.get(name, f"file_{name}" if several else "file") for name in channels]


def check_files(site_file: Path, channels: Sequence[str], files: Mapping[str, str]) -> None:
    """Refuse columns for what is no channel.

    Raises:
        InvalidFileError: with the first of them.
    """
    if unknown := set(files) - set(channels):
        raise bad_field(
            site_file,
            "files",
            f"'{min(unknown)}' is no channel of the study",
            f"channels are {', '.join(channels)}",
        )


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items: cut into equal parts, the middle of each."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * most)] for place in range(most)]


def place_between(position: float, between: tuple[float, float]) -> float | None:
    """Return where a slice lies in the part that a site takes, 0 to 1; None outside of it."""
    low, high = between
    return (position - low) / (high - low) if low <= position <= high else None


def without_neighbours() -> ImageError:
    """Return what is wrong with a patient of whom no slice has all its neighbours."""
    return ImageError(
        "no slice of this patient has the neighbours that the study asks for",
        "leave the lines of this patient out, or agree on a smaller gap_mm or fewer neighbours",
    )


def slices_around(
    heights_mm: NDArray[np.float64], number: int, image: ImageSpec
) -> list[int] | None:
    """Return the slices that are a slice's planes, lowest first; None if one would lie outside.

    Each is the nearest to where it must be, by less than half a gap: so none is taken twice.

    Args:
        heights_mm: of all slices of a volume; it ends half a slice beyond the first and the last.
        number: of the slice.
        image: of the study.

    Raises:
        ImageError: inside the volume no slice is as near.
    """
    low, high = heights_mm.min(), heights_mm.max()
    half_slice = (high - low) / max(1, len(heights_mm) - 1) / 2
    found = []
    for offset in image.offsets_mm:
        wanted = heights_mm[number] + offset
        if not low - half_slice <= wanted <= high + half_slice:
            return None
        nearest = number if offset == 0 else int(np.abs(heights_mm - wanted).argmin())
        if abs(heights_mm[nearest] - wanted) >= image.gap_mm / 2:
            raise ImageError(
                "slices lie so far apart that none is where the study asks for a neighbour",
                "leave it out, or ask for a study with a larger gap_mm",
            )
        found.append(nearest)
    return found


def check_volumes(site_file: Path, schema: TableSchema, *, defaced: bool) -> None:
    """Refuse volumes of which nobody says whose they are, and heads with faces.

    Raises:
        InvalidFileError: the study names no patients, so that slices of one would count as several;
            or it is of heads, and no person said that faces were removed.
    """
    assert schema.image is not None
    if schema.patient_id is None:
        raise bad_field(
            site_file,
            "kind",
            "the study names no patient_id, and volumes are many images of a patient",
            "ask for a study that names one",
        )
    if schema.image.prior == "brain_mri" and not defaced:
        raise bad_field(
            site_file,
            "defaced",
            "the study is of heads: a face can be rendered from a volume",
            "remove faces or skulls, look at some volumes, then write defaced = true",
            code=REFUSED,
        )
