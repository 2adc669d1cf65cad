"""Signs of life of the daemon's two halves: files whose time says when each was last well.

``node``      the SuperNode had an answer from the coordinator
``executor``  the executor looked for tasks, or its task told the SuperNode that it goes on

They are files, so that another process (``status``, a health check) sees them also when the daemon
hangs. None of them tells what an answer held or how long it took.
"""

import os
import time
from pathlib import Path

NODE, EXECUTOR = "node", "executor"
SIGNS_VARIABLE = "PRATIQUE_SIGNS"
"""Environment of the SuperNode: the folder of its site's signs."""

_EVERY_S = 1.0


class Signs:
    """The signs of one site."""

    def __init__(self, folder: Path) -> None:
        """Name the folder that holds them."""
        self._folder = folder
        self._given: dict[str, float] = {}

    def give(self, name: str) -> None:
        """Say that this half is well; at most once a second touches the disk."""
        now = time.monotonic()
        if now - self._given.get(name, -_EVERY_S) < _EVERY_S:
            return
        self._given[name] = now
        try:
            (self._folder / name).touch(mode=0o600)
        except OSError:
            return  # a sign that cannot be given is missed by whoever looks

    def age_s(self, name: str) -> float | None:
        """Return the seconds since a sign was given; None if it never was."""
        try:
            return max(0.0, time.time() - (self._folder / name).stat().st_mtime)
        except OSError:
            return None

    def forget(self) -> None:
        """Remove the signs of a daemon before this one."""
        for name in (NODE, EXECUTOR):
            (self._folder / name).unlink(missing_ok=True)


def signs_of_environment() -> Signs | None:
    """Return the signs that the daemon told this process to give."""
    folder = os.environ.get(SIGNS_VARIABLE)
    return Signs(Path(folder)) if folder else None
