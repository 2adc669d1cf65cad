"""Child processes of a command: their logs are rotated, private and whole."""

import os
import stat
import sys
from pathlib import Path

import psutil
import pytest

from pratique_common.rotated_files import PrivateRotatingHandler
from pratique_server.processes import Processes

_TALKER = "for i in range(500): print('line', i)\nraise SystemExit('error: the last word')"


def test_output_is_rotated_private_and_whole_once_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PrivateRotatingHandler.__init__.__kwdefaults__
    monkeypatch.setitem(kept, "max_bytes", 2_000)
    log = tmp_path / "daemon.log"
    with Processes() as processes:
        child = processes.spawn([sys.executable, "-c", _TALKER], environment=os.environ,
                                log_file=log)  # fmt: skip
        assert child.wait(30) == 1
        processes.wait_for_log(child)
        assert log.read_text().endswith("line 499\nerror: the last word\n")
    files = sorted(tmp_path.glob("daemon.log*"))
    assert len(files) == 3
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_stop_ends_what_does_not_want_to_end_and_keeps_its_last_words(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: print('heard', flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(.05)"
    )
    log = tmp_path / "child.log"
    with pytest.MonkeyPatch.context() as patch, Processes() as processes:
        patch.setattr("pratique_server.processes._STOP_TIMEOUT_S", 0.5)
        child = processes.spawn([sys.executable, "-c", stubborn], environment=os.environ,
                                log_file=log)  # fmt: skip
        while not log.exists() or "ready" not in log.read_text():
            assert child.poll() is None
        processes.stop()
    assert not psutil.pid_exists(child.pid)
    assert log.read_text() == "ready\nheard\n"
