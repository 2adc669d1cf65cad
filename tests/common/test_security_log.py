"""The security log and rotated files: what is written, who can read it, what never gets in."""

import json
import logging
import multiprocessing
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pratique_common import security_log as module
from pratique_common.console import log_to_file
from pratique_common.rotated_files import PrivateRotatingHandler, rotate_output
from pratique_common.security_log import EVENTS, SecurityLog

STUDY = "ab" * 32


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_in_utc_for_the_owner_only(tmp_path: Path) -> None:
    log = SecurityLog(tmp_path)
    log.record("joined", study=STUDY, run="r1")
    log.record("refused", code="study_expired", question="join", study=STUDY, run="r1")
    first, second = _lines(log.path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first.pop("time")))
    assert first == {"event": "joined", "study": STUDY, "run": "r1"}
    assert second["code"] == "study_expired"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert log.last(["joined", "spent"]) == _lines(log.path)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code", "patient Smith, 44"),
        ("site", "Harbour\n{}"),
        ("study", "x"),
        ("run", "../../etc"),
        ("phase", "age 4711.25"),
        ("round", "4711.25"),
        ("sites", ["harbour", "Mrs Smith"]),
        ("question", 4711),
        ("anything", "harbour"),
    ],
)
def test_a_field_that_is_unknown_or_malformed_is_left_out(
    name: str, value: object, tmp_path: Path
) -> None:
    log = SecurityLog(tmp_path)
    log.record("refused", **{name: value})
    (line,) = _lines(log.path)
    assert set(line) == {"time", "event"}


def test_an_event_that_nobody_documented_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no event"):
        SecurityLog(tmp_path).record("looked")


def test_every_event_and_field_is_documented() -> None:
    text = module.__doc__ or ""
    for event in EVENTS:
        assert re.search(rf"^{event}\b", text, re.M), event
    for field in (*module._TEXTS, *module._NUMBERS, "sites"):
        assert re.search(rf"\b{field}\b", text), field


def test_it_is_rotated_by_size_and_older_files_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 500)
    monkeypatch.setattr(module, "LOG_FILES", 3)
    log = SecurityLog(tmp_path)
    for number in range(40):
        log.record("dropped", round=number, site="harbour", code="timeout")
    files = sorted(path.name for path in tmp_path.glob("security.log*"))
    assert files == ["security.log", "security.log.1", "security.log.2", "security.log.3"]
    assert all(path.stat().st_size <= 500 for path in tmp_path.glob("security.log*"))
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in tmp_path.glob("security.log*"))
    rounds = [entry["round"] for entry in log.entries()]
    assert rounds == list(range(39, 39 - len(rounds), -1)) and len(rounds) > 5


def test_a_line_that_a_crash_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    log = SecurityLog(tmp_path)
    log.record("joined", run="r1")
    with log.path.open("a") as file:
        file.write('{"time": "2026-')
    log.record("joined", run="r2")
    log.record("joined", run="r3")
    assert [entry["run"] for entry in log.entries()] == ["r3", "r2", "r1"]
    assert log.path.read_text().count("\n") == 4


def _write(folder: Path, start: int) -> None:
    log = SecurityLog(folder)
    for number in range(start, start + 50):
        log.record("dropped", round=number)


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, 50 * i)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(int(str(line["round"])) for line in _lines(tmp_path / "security.log")) == list(
        range(150)
    )


def test_a_log_that_cannot_be_written_is_told_in_the_other_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "security.log").mkdir()
    with caplog.at_level(logging.ERROR, "pratique"):
        SecurityLog(tmp_path).record("stopped")
    assert "security.log cannot be written: Is a directory" in caplog.text


def test_a_childs_output_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = PrivateRotatingHandler.__init__.__kwdefaults__
    monkeypatch.setitem(kept, "max_bytes", 2_000)
    child = subprocess.Popen(
        [sys.executable, "-c", "for i in range(500): print('line', i)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    rotate_output(child, tmp_path / "child.log").join(20)
    assert child.wait(20) == 0
    files = sorted(tmp_path.glob("child.log*"))
    assert len(files) == 3 and all(file.stat().st_size <= 2_000 for file in files)
    assert (tmp_path / "child.log").read_text().endswith("line 499\n")
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


def test_the_applications_log_is_private_and_in_utc(tmp_path: Path) -> None:
    logger = logging.getLogger("pratique")
    before = list(logger.handlers)
    log_to_file(tmp_path / "site.log")
    try:
        logger.warning("hello")
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.close()
    line = (tmp_path / "site.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING hello\n", line)
    assert stat.S_IMODE((tmp_path / "site.log").stat().st_mode) == 0o600
