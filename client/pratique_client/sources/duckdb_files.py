"""Read a query over CSV and Parquet files with DuckDB, which sees these files and nothing else."""

import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from pratique_client.sources.base import bad_field
from pratique_common.errors import InvalidFileError
from pratique_common.table_files import BATCH_ROWS, csv_options, header

_MEMORY = "1GB"  # beyond it DuckDB writes to a folder of the site, ours alone, that goes afterwards


def read_files(
    files: Mapping[str, str], query: str, site_file: Path, *, timeout_s: float
) -> Generator[pa.Table, None, None]:
    """Yield a query's rows; the first batch is there even if there are none.

    Args:
        files: table → path from the site's folder; cells of CSV are texts, as they stand there.
        query: one SELECT.
        site_file: named in errors.
        timeout_s: longest that all of it may take.

    Raises:
        InvalidFileError: a file or the query cannot be read; the message holds no value.
    """
    import duckdb

    # No file but those below, no extension, no setting: whatever the query says.
    settings: dict[str, Any] = {
        "threads": 1,
        "memory_limit": _MEMORY,
        "enable_external_access": "false",
        "python_enable_replacements": "false",
    }
    with (
        tempfile.TemporaryDirectory(prefix=".query-", dir=site_file.parent) as spill,
        duckdb.connect(":memory:", config={**settings, "temp_directory": spill}) as connection,
    ):
        timer = threading.Timer(timeout_s, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            for name, path in files.items():
                connection.register(name, _dataset(site_file.parent / path))
            connection.execute("SET lock_configuration = true")
            statements = duckdb.extract_statements(query)
            if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                raise bad_field(
                    site_file, "query", "is no single SELECT", "write one SELECT, and no more"
                )
            reader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
            yield pa.Table.from_batches([], schema=reader.schema)
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except (duckdb.Error, pa.ArrowException) as error:
            raise _failed(site_file, error) from None
        finally:
            timer.cancel()


def _dataset(path: Path) -> pa.dataset.Dataset:
    names = header(path)
    if path.suffix.lower() == ".csv":
        _, parse, convert = csv_options(names)
        convert.include_columns = []
        form = pa.dataset.CsvFileFormat(parse_options=parse, convert_options=convert)
        return pa.dataset.dataset(path, format=form)
    return pa.dataset.dataset(path, format="parquet")


def _failed(site_file: Path, error: Exception) -> InvalidFileError:
    """Return the error for one of DuckDB's: its own text may quote a value."""
    kind = type(error).__name__
    problem, remedy = {
        "InterruptException": (
            "reading took longer than timeout_s",
            "make the query quicker, or allow more time",
        ),
        "ParserException": ("is no SQL that DuckDB understands", "correct it"),
        "CatalogException": (
            "names a table or a function that is not there",
            "tables are the names under files",
        ),
        "BinderException": (
            "names a column that is not there, or compares unlike types",
            "correct it; cells of CSV are texts until the query casts them",
        ),
        "ConversionException": (
            "casts a value that does not convert",
            "write TRY_CAST, which gives a missing value instead",
        ),
        "OutOfMemoryException": (f"needs more than {_MEMORY}", "join or sort fewer columns"),
    }.get(kind, (f"cannot be run ({kind})", "try it in DuckDB's own shell"))
    return bad_field(site_file, "query", problem, remedy)
