"""Following a run: events, an outcome, a run without one, a SuperLink that is silent."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pratique_common.errors import FederationError
from pratique_server import following
from pratique_server.following import Outcome, Stopwatch, follow
from pratique_server.job import EVENTS_FILE, OUTCOME_FILE, Job, load_job, write_job


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_POLL_S", 0.001)
    monkeypatch.setattr(following, "_LOOK_AT_RUN_EVERY_S", 0.0)
    monkeypatch.setattr(following, "_PATIENCE_S", 0.05)


def _follow(
    folder: Path, has_finished: Callable[[], bool], seen: list[Mapping[str, Any]]
) -> Outcome:
    return follow(
        folder,
        watch=seen.append,
        stopwatch=Stopwatch(),
        require_alive=lambda: None,
        has_finished=has_finished,
        log_file=folder / "superlink.log",
    )


def _end(folder: Path) -> None:
    (folder / OUTCOME_FILE).write_text(json.dumps({"exit_code": 3, "decision": "refused"}))


def test_events_come_in_order_and_once_and_phases_are_timed(tmp_path: Path) -> None:
    events = [{"kind": "phase", "phase": "join"}, {"kind": "joined", "site": "quay"}]
    path, seen = tmp_path / EVENTS_FILE, list[Mapping[str, Any]]()
    path.write_text("".join(json.dumps(event) + "\n" for event in events))

    def has_finished() -> bool:
        if len(seen) == 2:
            with path.open("a") as file:
                file.write(json.dumps({"kind": "phase", "phase": "audit"}) + "\n")
        else:
            _end(tmp_path)
        return False

    outcome = _follow(tmp_path, has_finished, seen)
    assert [*events, {"kind": "phase", "phase": "audit"}] == seen
    assert (outcome.exit_code, outcome.decision, outcome.path) == (3, "refused", None)
    assert set(outcome.seconds_by_phase) == {"import", "join", "audit"}


def test_an_outcome_that_is_written_as_the_run_ends_is_found(tmp_path: Path) -> None:
    def has_finished() -> bool:
        _end(tmp_path)
        return True

    assert _follow(tmp_path, has_finished, []).decision == "refused"


def test_a_run_that_ends_without_an_outcome_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"without a result; see .*superlink\.log"):
        _follow(tmp_path, lambda: True, [])


def test_a_superlink_may_be_silent_for_a_moment_and_not_for_ever(tmp_path: Path) -> None:
    calls = 0

    def restarted() -> bool:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise FederationError("silent")
        _end(tmp_path)
        return False

    assert _follow(tmp_path, restarted, []).decision == "refused"
    (tmp_path / OUTCOME_FILE).unlink()

    def gone() -> bool:
        raise FederationError("silent")

    with pytest.raises(FederationError, match="silent"):
        _follow(tmp_path, gone, [])


def test_a_job_is_found_by_its_folders_name_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tmp_path / "runs"
    for folder in (jobs / "abc1", tmp_path / "secret"):
        folder.mkdir(parents=True)
        write_job(folder, Job(job="abc1", study_file="", sites={}, out=""))
    monkeypatch.setenv("PRATIQUE_COORDINATOR", str(jobs))
    job, folder = load_job("abc1")
    assert (job.job, folder) == ("abc1", jobs / "abc1")
    for name in ("", "abc2", "../secret", str(tmp_path / "secret"), "abc1/../abc1"):
        with pytest.raises(FederationError, match="no such job"):
            load_job(name)
