"""Children that end with their parent, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pratique_common import tied as module
from pratique_common.tied import tied

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone knows how")

_PARENT = """
import subprocess, sys, time
from pratique_common.tied import tied
child = subprocess.Popen(tied([sys.executable, "-c", "import time; time.sleep(60)"]),
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def _until(wanted: Callable[[], bool], timeout_s: float = 10) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and not wanted():
        time.sleep(0.02)
    return wanted()


def _ended(pid: int) -> bool:
    """Return whether a process has ended, though nobody may have asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_in_a_session_of_its_own_ends_with_its_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # It has become the command by then.
    assert _until(lambda: any("time.sleep(60)" in part for part in psutil.Process(child).cmdline()))
    assert os.getsid(child) == child
    parent.send_signal(number)
    parent.wait(10)
    assert _until(lambda: _ended(child), 3)


def test_a_child_is_the_command_itself_and_keeps_its_exit_code() -> None:
    code = "import os, sys; print(os.getpid(), os.environ['OF_OURS'], sys.argv[1:]); sys.exit(5)"
    environment = {**os.environ, "OF_OURS": "yes"}
    command = tied([sys.executable, "-c", code, "a b", "--c"])
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    told, _ = child.communicate(timeout=20)
    assert child.returncode == 5
    assert told.split(maxsplit=2) == [str(child.pid), "yes", "['a b', '--c']\n"]


def test_a_child_whose_parent_was_quicker_never_starts(tmp_path: Path) -> None:
    """Its parent ended, and another took its place, before it could ask to be killed."""
    command = [sys.executable, "-I", "-S", module.__file__, "1", "touch", str(tmp_path / "x")]
    assert subprocess.run(command, check=False).returncode == 1
    assert not (tmp_path / "x").exists()


def test_no_thread_that_may_end_starts_a_child() -> None:
    told: list[str] = []

    def start() -> None:
        try:
            tied(["true"])
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert told == ["a child would end with the thread that starts it"]
