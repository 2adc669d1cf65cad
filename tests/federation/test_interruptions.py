"""Real processes that are stopped, killed and started again in the middle of a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.federation.commands import (
    DECISIONS,
    processes_of,
    read_or_nothing,
    site_options,
)


def _start(quick_study: Path, files: dict[str, Path], out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pratique_server.cli", "simulate", str(quick_study),
               *site_options(files), "--out", str(out)]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _wait_for(run: "subprocess.Popen[str]", path: Path, text: str, timeout_s: float = 300) -> None:
    """Wait as long as a loaded machine may need, but not for a run that has ended."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.exists() and text in path.read_text():
            return
        if run.poll() is not None:
            raise AssertionError(f"{text} is not in {path}, and the run ended: {run.communicate()}")
        time.sleep(0.05)
    raise AssertionError(f"{text} did not appear in {path}")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.faults)]
)
def test_ctrl_c_stops_everything(
    number: signal.Signals, quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = _start(quick_study, small_cohort, out)
    _wait_for(run, out / "coordinator" / "events.jsonl", '"round": 1')
    run.send_signal(number)
    _, stderr = run.communicate(timeout=240)
    assert run.returncode == 130
    assert stderr.rstrip().endswith("interrupted")
    assert processes_of(out) == []
    assert not (out / "bundle").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone knows how")
def test_kill_9_of_the_command_leaves_nothing_running(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    """SuperLink, SuperExec, ServerApp, daemons and SuperNodes: each ends with its parent."""
    out = tmp_path / "run"
    run = _start(quick_study, small_cohort, out)
    _wait_for(run, out / "coordinator" / "events.jsonl", '"round": 1')
    before = processes_of(out)
    for program in ("superlink", "superexec", "serverapp", "pratique_client.node"):
        assert any(program in line for line in before), program
    run.kill()
    run.communicate(timeout=20)
    end = time.monotonic() + 5
    while left := processes_of(out):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _daemon(out: Path, site: str) -> int:
    """Return the process id of a site's daemon."""
    wanted = f"pratique_client.cli\0start\0{out}/sites/{site}"
    return next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and wanted in read_or_nothing(entry / "cmdline")
    )


@pytest.mark.faults
def test_a_killed_daemon_that_is_started_again_goes_on_with_its_run(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    """Four sites, one of which may be missing: kill -9 in round 2, a new daemon, a new node."""
    study, quay, out = tmp_path / "four.toml", tmp_path / "quay.csv", tmp_path / "run"
    shutil.copy(small_cohort["lakeside"], quay)
    text = quick_study.read_text().replace("rounds = 4\n", "rounds = 8\n")
    study.write_text(text.replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n"))
    run = _start(study, {**small_cohort, "quay": quay}, out)
    events = out / "coordinator" / "events.jsonl"
    _wait_for(run, events, '"round": 2')
    os.kill(_daemon(out, "lakeside"), signal.SIGKILL)
    again = subprocess.Popen(
        [sys.executable, "-m", "pratique_client.cli", "start", str(out / "sites" / "lakeside")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _, stderr = run.communicate(timeout=240)
    finally:
        again.terminate()
        again.wait(20)
    assert run.returncode in DECISIONS, stderr
    assert "lakeside dropped out" in stderr
    assert "lakeside came back" in stderr
    report = json.loads(next(out.glob("*/report.json")).read_text())
    (drop,) = report["evidence"]["dropped"]["lakeside"]
    assert 2 <= drop["round"] < drop["returned"] <= 8
    assert drop["code"] == "unreachable"
    assert sorted(report["sites"]["answered"]) == ["harbour", "lakeside", "northgate", "quay"]
    failed_rules = [r["rule"] for r in report["reasons"] if r["tier"] == 0 and not r["passed"]]
    assert not failed_rules
    assert "Traceback" not in stderr
    assert processes_of(out) == []


def test_a_daemon_that_is_stopped_finishes_the_answer_it_is_at(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    study, quay, out = tmp_path / "four.toml", tmp_path / "quay.csv", tmp_path / "run"
    shutil.copy(small_cohort["lakeside"], quay)
    text = quick_study.read_text().replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n")
    study.write_text(text.replace("round_timeout_s = 60", "round_timeout_s = 25"))
    run = _start(study, {**small_cohort, "quay": quay}, out)
    # Paid for, and so being computed or held until its time.
    _wait_for(run, out / "sites" / "quay" / "security.log", '"phase": "round 2"')
    os.kill(_daemon(out, "quay"), signal.SIGTERM)
    _wait_for(run, out / "sites" / "quay" / "security.log", '"event": "stopped"')
    _, stderr = run.communicate(timeout=240)
    assert run.returncode in DECISIONS, stderr
    events = [
        json.loads(line) for line in (out / "coordinator" / "events.jsonl").read_text().splitlines()
    ]
    sites = {event["round"]: event["sites"] for event in events if event["kind"] == "round"}
    assert (sites[2], sites[3]) == (4, 3)
    # Its sum came; when sums are opened it may be missed already.
    (dropped,) = (event for event in events if event["kind"] == "dropped")
    assert dropped["site"] == "quay" and dropped["round"] in (2, 3)


def test_kill_9_of_a_daemon_ends_with_a_named_site_and_a_whole_ledger(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = _start(quick_study, small_cohort, out)
    events = out / "coordinator" / "events.jsonl"
    _wait_for(run, events, '"round": 1')
    os.kill(_daemon(out, "lakeside"), signal.SIGKILL)
    _, stderr = run.communicate(timeout=240)
    assert run.returncode == 7
    assert "site lakeside" in stderr
    assert "Traceback" not in stderr
    assert processes_of(out) == []
    opened = events.read_text().count('"kind": "round"')
    from pratique_client.site import load_site

    for name in small_cohort:
        ledger = load_site(out / "sites" / name).ledger
        ledger.verify()
        paid = [entry for entry in ledger.entries() if entry.phase.startswith("round")]
        assert len(paid) >= opened
