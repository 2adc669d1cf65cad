"""Child processes that never outlive the command that started them."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pratique_common.rotated_files import rotate_output

_STOP_TIMEOUT_S = 10.0


class Processes:
    """Starts processes in sessions of their own and stops all of them at the end."""

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
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        rotated: bool = False,
    ) -> "subprocess.Popen[bytes]":
        """Start a process whose output goes to a file, which is rotated if it runs for months."""
        if rotated:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._started.append(process)
            rotate_output(process, log_file)
            return process
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
        """Ask everything to end, kill what has not after some seconds, and wait for it."""
        everything = self._with_descendants()
        for process in everything:
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(everything, timeout=_STOP_TIMEOUT_S)
        for process in alive:
            _quietly(process.kill)
        psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)
        for started in self._started:
            _kill_group(started.pid)
            started.wait()
        self._started.clear()

    def _with_descendants(self) -> list[psutil.Process]:
        """Return our processes and all that they started: Flower puts some in other groups."""
        found: list[psutil.Process] = []
        for started in self._started:
            try:
                process = psutil.Process(started.pid)
                found += [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found


def _kill_group(leader: int) -> None:
    """Kill what is left of a group whose leader was killed, and whose children it orphaned."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # the whole group has ended


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return  # it has ended meanwhile
