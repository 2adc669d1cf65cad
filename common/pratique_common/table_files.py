"""Read columns of table files (CSV, Parquet): the named ones, and no others are ever loaded.

Messages name file, column and remedy and hold no value of a record.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pratique_common.errors import InvalidFileError

BATCH_ROWS = 65_536
"""Of a table that is read in parts: with 50 columns of texts some 50 MB."""

_BLOCK_BYTES = 1 << 24


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Read the named columns of a table file and no other; see ``read_batches``.

    Raises:
        InvalidFileError: there are no rows, too.
    """
    if not (batches := list(read_batches(path, names))):
        raise InvalidFileError(path, problem="there are no rows", remedy="export the table again")
    return pa.concat_tables(batches)


def read_batches(path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    """Read the named columns of a table file and no other, some ten thousand rows at a time.

    Args:
        path: ``.csv`` (UTF-8, commas) or ``.parquet``.
        names: of the columns.

    Raises:
        InvalidFileError: no such file, unreadable, or a column missing or twice.
    """
    check_columns(header(path), names, path)
    reading = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    yield from reading(path, names)


def _unknown_kind(path: Path) -> InvalidFileError:
    return InvalidFileError(
        path, problem="unknown kind of file", remedy="give a .csv or a .parquet file"
    )


def header(path: Path) -> list[str]:
    """Return the names of all columns of a table file, without reading its rows.

    Raises:
        InvalidFileError: no such file, or unreadable.
    """
    if not path.is_file():
        raise InvalidFileError(path, problem="no such file", remedy="check the path")
    if path.stat().st_size == 0:
        raise InvalidFileError(path, problem="the file is empty", remedy="export the table again")
    if path.suffix.lower() == ".csv":
        return _csv_header(path)
    if path.suffix.lower() != ".parquet":
        raise _unknown_kind(path)
    try:
        return list(pa.parquet.read_schema(path).names)
    except (pa.ArrowException, OSError):
        raise damaged_parquet(path) from None


def _csv_header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])  # a quoted cell may have several lines
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except csv.Error:
        raise InvalidFileError(
            path, problem="the first line is no header", remedy="export the table again"
        ) from None


def _not_utf8(path: Path) -> InvalidFileError:
    return InvalidFileError(path, problem="not UTF-8 text", remedy="save the file as UTF-8")


def damaged_parquet(path: Path | str) -> InvalidFileError:
    """Return the error for a file that Arrow cannot read as Parquet."""
    return InvalidFileError(
        path, problem="not an intact Parquet file", remedy="export or copy the table again"
    )


def check_columns(found: Sequence[str], names: Sequence[str], source: Path | str) -> None:
    """Refuse a table in which a named column is missing or stands twice.

    Raises:
        InvalidFileError: with the first such column.
    """
    for name in names:
        if name not in found:
            hint = "add the column or correct its name"
            if len(found) == 1 and ";" in found[0]:
                hint = "separate columns by commas, not by semicolons"
            raise InvalidFileError(source, field=f"column '{name}'", problem="missing", remedy=hint)
        if found.count(name) > 1:
            raise InvalidFileError(
                source, field=f"column '{name}'", problem="stands twice", remedy="keep one of them"
            )


def csv_options(
    names: Sequence[str],
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    """Return how CSV is read: the named columns, every cell as the text that stands there."""
    convert = pa.csv.ConvertOptions(
        include_columns=list(names),
        column_types={name: pa.string() for name in names},
        strings_can_be_null=False,
        check_utf8=True,
    )
    read = pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
    return read, pa.csv.ParseOptions(newlines_in_values=True), convert


def _read_csv(path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    read, parse, convert = csv_options(names)
    try:
        with pa.csv.open_csv(path, read, parse, convert) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        raise damaged_csv(path, error) from None
    except pa.ArrowKeyError:
        raise InvalidFileError(
            path, problem="the first line is no header", remedy="write it without odd signs"
        ) from None


def damaged_csv(path: Path, error: pa.ArrowInvalid) -> InvalidFileError:
    """Return the error for a file that Arrow cannot read as CSV: without the row that it quotes."""
    if "UTF8" in str(error) or "UTF-8" in str(error):
        return _not_utf8(path)
    return InvalidFileError(
        path,
        problem="rows have different numbers of cells, or a quote is not closed",
        remedy="export the table again",
    )


def _read_parquet(path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    try:
        with pa.parquet.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(names)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError):
        raise damaged_parquet(path) from None
