"""Where a hospital keeps its data: every source gives the study's columns and nothing else."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from pratique_common.column_base import Spec
from pratique_common.errors import InvalidFileError
from pratique_common.schema import TableSchema
from pratique_common.tables import Table, check_batches


class DataSource(Spec):
    """``[source]`` of a site file: the settings of one kind of source, which read it themselves.

    Errors of a source never contain a value of a record, a driver's own message or a password.
    """

    lacks: tuple[str, ...] = Field(
        default=(), description="columns of studies that this site does not record; no secret"
    )

    @abstractmethod
    def label(self, site_file: Path) -> str:
        """Return the file or folder that an error is about."""

    def describe(self, site_file: Path) -> str:
        """Return what people call the source, without a secret."""
        return Path(self.label(site_file)).name

    @abstractmethod
    def names(self, site_file: Path) -> list[str]:
        """Return the names of all columns, without reading the rows that they hold.

        Raises:
            InvalidFileError: the source cannot be reached or read.
        """

    @abstractmethod
    def load(
        self, site_file: Path, schema: TableSchema, *, lacks: Sequence[str], id_key: bytes
    ) -> Table:
        """Return the accepted rows of the study's columns; those that it ``lacks`` are missing.

        Args:
            site_file: which this source is written in; relative paths start at its folder.
            schema: the study's table.
            lacks: of the study's columns.
            id_key: secret of the site; under it headers of images are hashed to ids.

        Raises:
            InvalidFileError: the source cannot be read, lacks a column, or too many rows are
                outside the domain.
        """

    def unused_columns(self, site_file: Path, schema: TableSchema) -> list[str]:
        """Return the names of columns that the study does not use: they are never kept."""
        used = used_columns(schema)
        return [name for name in self.names(site_file) if name not in used]


class TableSource(DataSource):
    """A source of rows without images."""

    @abstractmethod
    def is_ordered(self, site_file: Path) -> bool:
        """Whether the order of rows means something and is the same tomorrow."""

    @abstractmethod
    def batches(self, site_file: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns, some ten thousand rows at a time, and keep none of them.

        Raises:
            InvalidFileError: the source cannot be reached or read, or lacks a column.
        """

    def load(
        self, site_file: Path, schema: TableSchema, *, lacks: Sequence[str], id_key: bytes
    ) -> Table:
        """Return the accepted rows."""
        del id_key  # ids of a table are its own
        if schema.image is not None:
            raise bad_field(
                site_file,
                "kind",
                "the study is of images, and this kind of source has none",
                "choose 'image_folder', 'dicom' or 'nifti'",
            )
        needed = [name for name in used_columns(schema) if name not in lacks]
        label = self.label(site_file)
        return check_batches(
            self.batches(site_file, needed),
            schema,
            source=label,
            patient_id=schema.patient_id,
            order_by=schema.visits.order_by if schema.visits else None,
            lacks=lacks,
            ordered=self.is_ordered(site_file),
        )


def used_columns(schema: TableSchema) -> list[str]:
    """Return the columns that a site reads: the study's, the patient's id, the order of visits."""
    more = (schema.patient_id, schema.visits.order_by if schema.visits else None)
    return list(dict.fromkeys([*schema.names, *(name for name in more if name)]))


def bad_field(
    site_file: Path, field: str, problem: str, remedy: str, *, code: str = "source_unreadable"
) -> InvalidFileError:
    """Return an error that names the site file and a field of ``[source]``."""
    return InvalidFileError(
        site_file, field=f"source.{field}", problem=problem, remedy=remedy, code=code
    )
