"""Log files that are rotated by size, appended to, and readable by their owner only."""

import logging
import os
import subprocess
import sys
import threading
from functools import cache
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 5_000_000
LOG_FILES = 5


class PrivateRotatingHandler(RotatingFileHandler):
    """Writes to a file of mode 0600 and keeps ``files`` older ones: ``.1`` is the newest."""

    def __init__(self, path: Path, *, max_bytes: int = LOG_BYTES, files: int = LOG_FILES) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=files, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """Tell in a sentence that a line was lost: logging itself would print a traceback."""
        error = sys.exc_info()[1]
        reason = getattr(error, "strerror", None) or type(error).__name__
        sys.stderr.write(f"{self.baseFilename} cannot be written: {reason}\n")


@cache
def _handler(path: Path) -> PrivateRotatingHandler:
    """Return the one handler of a file, which all children share that write to it."""
    return PrivateRotatingHandler(path)


def rotate_output(process: "subprocess.Popen[bytes]", path: Path) -> threading.Thread:
    """Copy a child's standard output, a pipe, into a rotated file; the thread ends with the child.

    Args:
        process: started with ``stdout=subprocess.PIPE`` and ``stderr=subprocess.STDOUT``.
        path: the file.
    """
    assert process.stdout is not None
    output, handler = process.stdout, _handler(path)

    def copy() -> None:
        for line in output:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            handler.handle(logging.LogRecord("child", logging.INFO, "", 0, "%s", (text,), None))

    thread = threading.Thread(target=copy, name=path.name, daemon=True)
    thread.start()
    return thread
