"""Where a hospital keeps its data: every source gives the study's columns and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pratique_common.schema import TableSchema
from pratique_common.tables import Table


class DataSource(Protocol):
    """Reads one kind of source. Its errors never contain a value of a record."""

    @staticmethod
    def load(path: Path, schema: TableSchema, *, lacks: Sequence[str]) -> Table:
        """Return the accepted rows of the study's columns; those that it ``lacks`` are missing.

        Raises:
            InvalidFileError: the source cannot be read or too many rows are outside the domain.
        """

    @staticmethod
    def unused_columns(path: Path, schema: TableSchema) -> list[str]:
        """Return the names of columns that the study does not use: they are never read."""
