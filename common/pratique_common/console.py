"""What both commands share on a terminal: exit codes, one-sentence errors, logs."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import typer
from rich.console import Console

from pratique_common.durable import disk_code
from pratique_common.errors import (
    EXIT_CODE_MEANINGS,
    ExitCode,
    PratiqueError,
    describe_without_values,
)
from pratique_common.rotated_files import PrivateRotatingHandler

out = Console(highlight=False)
"""Standard output: results."""

err = Console(stderr=True, highlight=False)
"""Standard error: progress and errors."""

EXIT_CODES_EPILOG = "Exit codes: " + " · ".join(
    f"{code.value} {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items()
)


def home() -> Path:
    """Return the folder of logs that belong to no site or run: ``PRATIQUE_HOME``."""
    return Path(os.environ.get("PRATIQUE_HOME", Path.home() / ".pratique"))


class _UtcFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _JsonFormatter(_UtcFormatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(fields)


def log_to_file(path: Path) -> None:
    """Write the application's log to a rotated file; ``PRATIQUE_LOG=json`` makes it JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = PrivateRotatingHandler(path)
    as_json = os.environ.get("PRATIQUE_LOG") == "json"
    plain = _UtcFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonFormatter() if as_json else plain)
    logger = logging.getLogger("pratique")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def print_json(value: Any) -> None:
    """Print a value for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def show_version(requested: bool) -> None:
    """Print the version and stop, as the callback of ``--version``."""
    if requested:
        out.print(f"pratique {version('pratique')}")
        raise typer.Exit


def run(app: typer.Typer) -> None:
    """Run a command line and end with a documented exit code, never with a traceback."""
    sys.exit(_exit_code(lambda: app(standalone_mode=False)))


def _exit_code(command: Callable[[], Any]) -> int:
    try:
        result = command()
    except PratiqueError as error:
        err.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        return int(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        result = int(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.INVALID)
    except OSError as error:
        if error.filename is None and disk_code(error) is None:
            return _internal_error(error)
        where = error.filename or "a file of this command"  # a write has no name
        err.print(
            f"[bold red]error:[/] {_escape(str(where))}: {error.strerror}; choose another path, or "
            "make room or rights for it.",
            soft_wrap=True,
        )
        return int(ExitCode.INVALID)
    except Exception as error:  # noqa: BLE001 - a bug: told in one sentence, kept in a log
        return _internal_error(error)
    if result == ExitCode.INTERRUPTED:  # Typer returns it for Ctrl-C instead of raising
        err.print("interrupted")
    return result if isinstance(result, int) else int(ExitCode.DONE)


def _internal_error(error: Exception) -> int:
    log = home() / "internal-errors.log"
    log_to_file(log)
    logging.getLogger("pratique").error("%s", describe_without_values(error))
    err.print(
        f"[bold red]internal error:[/] {type(error).__name__}: this is a bug of Pratique; "
        f"please report it with the last line of {log}",
        soft_wrap=True,
    )
    return int(ExitCode.INTERNAL)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
