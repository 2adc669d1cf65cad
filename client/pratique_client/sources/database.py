"""Read a query from any database that SQLAlchemy knows: read-only, in parts, within a time.

A driver's messages may quote records or passwords: only their public state (SQLSTATE) is told.
"""

import logging
import re
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from sqlalchemy import URL, Connection, CursorResult, Engine, create_engine, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pratique_client.sources.base import bad_field
from pratique_client.sources.values import arrow_table
from pratique_common.errors import InvalidFileError

_CONNECT_TIMEOUT_S = 10.0
_ROWS = 20_000  # of a batch: 50 columns of Python objects are then some 60 MB
_SQLITE_STEPS = 100_000  # between two looks at the clock
_COLON = re.compile(r"(?<![:\w\\]):(?=\w)")  # what SQLAlchemy would take for a parameter

_LOST = ("the connection was lost", "look whether the database still runs")
_NO_DRIVER = "install it: 'pip install pratique[postgres]' for postgresql+pg8000://"
_STATES = {
    "28": ("user or password are refused", "correct the URL"),
    "3D": ("there is no such database", "correct the URL"),
    "08": _LOST,
    "57P01": _LOST,
    "57014": ("reading took longer than timeout_s", "make the query quicker, or allow more time"),
    "25006": ("the query writes", "select only: this connection is read-only"),
    "0A000": ("the query does more than select", "write one SELECT"),
    "42501": ("this user may not read all of it", "grant SELECT on what the query reads"),
    "42P01": ("the query names a table that is not there", "correct the query"),
    "42703": ("the query names a column that is not there", "correct the query"),
    "42601": ("the query is no single SELECT", "write one SELECT, without other statements"),
    "22": ("a value of the database cannot be computed with", "select plain columns"),
    "SQLITE_READONLY": ("the query writes", "select only: this connection is read-only"),
    "SQLITE_INTERRUPT": ("reading took longer than timeout_s", "allow more time"),
    "SQLITE_NOTADB": ("the file is no SQLite database", "correct the URL"),
}
"""By SQLSTATE, its class, or SQLite's name of an error."""


def read_database(
    url: URL, query: str, site_file: Path, *, timeout_s: float, root_certificates: Path | None
) -> Generator[pa.Table, None, None]:
    """Yield a query's rows; the first batch is there even if there are none.

    Args:
        url: of the database.
        query: one SELECT.
        site_file: named in errors.
        timeout_s: longest that all of it may take.
        root_certificates: CA file to prove the server's name, for postgresql+pg8000.

    Raises:
        InvalidFileError: it cannot be reached or read; the message says no value and no secret.
    """
    # Its logs hold statements, rows and drivers' messages, and those of errors are always on.
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    deadline = time.monotonic() + timeout_s
    try:
        engine = _engine(url, site_file, deadline, root_certificates)
        with engine.connect() as connection:
            result = _run(_read_only(connection, timeout_s), query)
            yield from _batches(result, site_file, deadline)
    except ssl.SSLError:
        raise bad_field(
            site_file,
            "root_certificates",
            "the server does not prove its name with them",
            "ask your database's staff for its CA, and write the host as its certificate names it",
        ) from None
    except DBAPIError as error:
        raise _refused(site_file, error) from None
    except (NoSuchModuleError, ImportError):
        raise bad_field(
            site_file, "url", f"no driver for {url.drivername} is installed", _NO_DRIVER
        ) from None
    except (SQLAlchemyError, ArgumentError, OSError, ValueError) as error:
        raise bad_field(
            site_file,
            "query",
            f"the database cannot be read ({type(error).__name__})",
            "try URL and query with the database's own client",
        ) from None


def _engine(url: URL, site_file: Path, deadline: float, certificates: Path | None) -> Engine:
    arguments: dict[str, Any] = {"poolclass": NullPool, "hide_parameters": True}
    backend = url.get_backend_name()
    if backend == "sqlite":
        return create_engine("sqlite://", creator=_sqlite(url, site_file, deadline), **arguments)
    if url.host is not None and url.port is not None:
        _check_reachable(url.host, url.port, site_file)
    if certificates is not None:
        if backend != "postgresql" or url.get_driver_name() != "pg8000":
            raise bad_field(site_file, "root_certificates", "is for postgresql+pg8000 only",
                            "write what your driver needs into the URL")  # fmt: skip
        try:
            context = ssl.create_default_context(cafile=str(certificates))
        except (OSError, ssl.SSLError):
            raise bad_field(
                site_file, "root_certificates", "cannot be read", "name a file of certificates"
            ) from None
        arguments["connect_args"] = {"ssl_context": context}
    return create_engine(url, **arguments)


def _check_reachable(host: str, port: int, site_file: Path) -> None:
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError:
        raise bad_field(
            site_file,
            "url",
            f"{host}:{port} cannot be reached",
            "look whether the database runs there and a firewall is in between",
        ) from None


def _sqlite(url: URL, site_file: Path, deadline: float) -> Callable[[], sqlite3.Connection]:
    path = site_file.parent / (url.database or "")
    if not path.is_file():
        raise bad_field(site_file, "url", f"there is no file {path}", "correct the path")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _SQLITE_STEPS)
        return connection

    return connect


def _read_only(connection: Connection, timeout_s: float) -> Connection:
    """Make the coming transaction read-only and limit its statements, where that is known."""
    milliseconds = int(timeout_s * 1000)
    match connection.dialect.name:
        case "postgresql":
            connection = connection.execution_options(postgresql_readonly=True)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        case "mysql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET SESSION max_execution_time = {milliseconds}")
        case "mariadb":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET SESSION max_statement_time = {timeout_s}")
        case "oracle":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    return connection


def _run(connection: Connection, query: str) -> CursorResult[Any]:
    streaming = connection.execution_options(stream_results=True, yield_per=_ROWS)
    return streaming.execute(text(_COLON.sub(r"\\:", query)))


def _batches(result: CursorResult[Any], site_file: Path, deadline: float) -> Iterator[pa.Table]:
    if not result.returns_rows:
        raise bad_field(site_file, "query", "selects nothing", "write one SELECT")
    names: Sequence[str] = list(result.keys())
    yield arrow_table(names, [])
    for rows in result.partitions(_ROWS):
        yield arrow_table(names, rows)
        if time.monotonic() > deadline:
            raise bad_field(site_file, "query", *_STATES["57014"])


def _refused(site_file: Path, error: DBAPIError) -> InvalidFileError:
    state = _state(error.orig)
    for known in (state, state[:2]):
        if known in _STATES:
            problem, remedy = _STATES[known]
            break
    else:
        problem = f"the database refuses ({state or type(error.orig).__name__})"
        remedy = "try URL and query with the database's own client"
    field = "url" if state[:2] in ("28", "3D", "08") else "query"
    return bad_field(site_file, field, problem, remedy)


def _state(error: BaseException | None) -> str:
    """Return SQLSTATE or SQLite's name of an error: words of a standard, never a value."""
    first = error.args[0] if error is not None and error.args else None
    found = [first.get("C")] if isinstance(first, dict) else []
    found += [getattr(error, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorname")]
    return next((state for state in found if isinstance(state, str) and state.isascii()), "")
