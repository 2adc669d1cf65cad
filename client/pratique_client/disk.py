"""Whether a site's disk takes what a run writes."""

import shutil
import tempfile
from pathlib import Path

from pratique_common.durable import DISK_FULL, NOT_WRITABLE, disk_code
from pratique_common.errors import InvalidFileError

_LEAST_FREE_BYTES = 2**30
"""Room for a run's candidates, logs and what Flower keeps: a choice, not a measurement."""


def require_room(folder: Path) -> str:
    """Return how much room there is, in words.

    Raises:
        InvalidFileError: the folder cannot be written to, or has less than 1 GiB.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise InvalidFileError(
            folder,
            problem=f"cannot be written to ({error.strerror})",
            remedy="mount it writable, make room, or give this account the right",
            code=disk_code(error) or NOT_WRITABLE,
        ) from None
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise InvalidFileError(
            folder,
            problem=f"only {free / 2**20:,.0f} MiB are free",
            remedy=f"make {_LEAST_FREE_BYTES / 2**30:.0f} GiB free: a full disk stops the ledger",
            code=DISK_FULL,
        )
    return f"{free / 2**30:,.1f} GiB free"
