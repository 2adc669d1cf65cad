"""A CSV or Parquet file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pratique_client.sources.base import TableSource
from pratique_common.table_files import header, read_batches


class TableFile(TableSource):
    """One file with a line a row; the order of its rows counts."""

    kind: Literal["table_file"]
    path: str = Field(min_length=1, description=".csv (UTF-8, commas) or .parquet")

    def is_ordered(self, site_file: Path) -> bool:
        """A file has an order."""
        del site_file
        return True

    def file(self, site_file: Path) -> Path:
        """Return where the file is; relative paths start at the site's folder."""
        return site_file.parent / self.path

    def label(self, site_file: Path) -> str:
        """Return the file's path."""
        return str(self.file(site_file))

    def names(self, site_file: Path) -> list[str]:
        """Return the header."""
        return header(self.file(site_file))

    def batches(self, site_file: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield parts of the file; other columns are never loaded."""
        return read_batches(self.file(site_file), names)
