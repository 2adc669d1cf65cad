"""Child processes that never outlive the command that started them."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05


class Processes:
    """Starts processes in groups of their own and stops every group at the end."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def spawn(
        self, command: Sequence[str], *, environment: Mapping[str, str], log_file: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a process whose output goes to a file."""
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def stop(self) -> None:
        """Ask every group to end and kill what has not after some seconds."""
        for process in self._started:
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < end and any(p.poll() is None for p in self._started):
            time.sleep(_POLL_S)
        for process in self._started:
            # Also where the leader has ended: its children may not have.
            _signal_group(process, signal.SIGKILL)
            process.wait()
        self._started.clear()


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return  # the whole group has ended
