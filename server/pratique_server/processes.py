"""Child processes that never outlive the command that started them, however it ends."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pratique_common.rotated_files import rotate_output
from pratique_common.tied import tied

_STOP_TIMEOUT_S = 10.0
_LOG_TIMEOUT_S = 2.0  # a child of its own may hold the pipe open


class Processes:
    """Starts processes in sessions of their own and stops all of them at the end."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, threading.Thread] = {}

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
        """Start a process whose output goes to a rotated file.

        Call it from the main thread: the process is killed when that ends.
        """
        process = subprocess.Popen(
            tied(command),
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.append(process)
        self._logs[process.pid] = rotate_output(process, log_file)
        return process

    def wait_for_log(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until all that an ended process wrote stands in its file."""
        self._logs[process.pid].join(_LOG_TIMEOUT_S)

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
            self.wait_for_log(started)
        self._started.clear()
        self._logs.clear()

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
