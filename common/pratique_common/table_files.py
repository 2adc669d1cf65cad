"""Read columns of table files (CSV, Parquet): the named ones, and no others are ever loaded.

Messages name file, column and remedy and hold no value of a record.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pratique_common.errors import InvalidFileError


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Read the named columns of a table file and no other.

    Args:
        path: ``.csv`` (UTF-8, commas) or ``.parquet``.
        names: of the columns.

    Raises:
        InvalidFileError: no such file, unreadable, or a column missing or twice.
    """
    if not path.is_file():
        raise InvalidFileError(path, problem="no such file", remedy="check the path")
    if path.stat().st_size == 0:
        raise InvalidFileError(path, problem="the file is empty", remedy="export the table again")
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path, names)
        case ".parquet":
            return _read_parquet(path, names)
    raise _unknown_kind(path)


def _unknown_kind(path: Path) -> InvalidFileError:
    return InvalidFileError(
        path, problem="unknown kind of file", remedy="give a .csv or a .parquet file"
    )


def header(path: Path) -> list[str]:
    """Return the names of all columns of a table file, without reading its rows."""
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
            return next(csv.reader([file.readline()]), [])
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


def _check_header(path: Path | str, found: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in found:
            hint = "add the column or correct its name"
            if len(found) == 1 and ";" in found[0]:
                hint = "separate columns by commas, not by semicolons"
            raise InvalidFileError(path, field=f"column '{name}'", problem="missing", remedy=hint)
        if found.count(name) > 1:
            raise InvalidFileError(
                path, field=f"column '{name}'", problem="stands twice", remedy="keep one of them"
            )


def _read_csv(path: Path, names: Sequence[str]) -> pa.Table:
    found = _csv_header(path)
    _check_header(path, found, names)
    convert = pa.csv.ConvertOptions(
        include_columns=list(names),
        column_types={name: pa.string() for name in names},
        strings_can_be_null=False,
        check_utf8=True,
    )
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    try:
        return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        # Arrow quotes the offending row: its text must not be passed on.
        if "UTF8" in str(error) or "UTF-8" in str(error):
            raise _not_utf8(path) from None
        raise InvalidFileError(
            path,
            problem="rows have different numbers of cells, or a quote is not closed",
            remedy="export the table again",
        ) from None


def _read_parquet(path: Path, names: Sequence[str]) -> pa.Table:
    try:
        with pa.parquet.ParquetFile(path) as parquet:
            _check_header(path, list(parquet.schema_arrow.names), names)
            return parquet.read(columns=list(names))
    except (pa.ArrowException, OSError):
        raise damaged_parquet(path) from None
