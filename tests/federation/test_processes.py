"""The public commands with real processes: SuperLink, SuperNodes, daemons, kills and bad input."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pratique_common.phantoms.cohort import study_path
from tests.federation.marks import TEXTS, found_below, found_in, plant

Result = subprocess.CompletedProcess[str]
DECISIONS = {0: "granted", 3: "refused", 4: "not_enough_data"}


def pratique(*arguments: object, timeout_s: float = 240) -> Result:
    command = [sys.executable, "-m", "pratique_server.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def failed(result: Result, code: int, *words: str) -> None:
    """Check exit code, one sentence and no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr + result.stdout


@pytest.fixture(scope="module")
def quick_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's study with few rounds and rows, and tolerances that a small cohort can show."""
    text = study_path().read_text() + "\n[training]\nrounds = 4\nround_timeout_s = 60\n"
    text = text.replace("near_match_patients = 150", "rows = 500\nnear_match_patients = 150")
    path = tmp_path_factory.mktemp("study") / "quick.toml"
    path.write_text(text.replace("expected_patients = 12000", "expected_patients = 950"))
    return path


def _sites(files: dict[str, Path]) -> list[str]:
    return [part for name, path in files.items() for part in ("--site", f"{name}={path}")]


def _processes_of(folder: Path) -> list[str]:
    """Return command lines of running processes that work in or for a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            state = str(folder)
            if (state in line or state in environment) and entry.name != str(os.getpid()):
                found.append(line)
    return found


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, quick_study: Path, small_cohort: dict[str, Path]
) -> tuple[Path, Result]:
    """One whole simulation, of records with marked values."""
    folder = tmp_path_factory.mktemp("finished")
    marked = {name: plant(path, folder / path.name) for name, path in small_cohort.items()}
    out = folder / "run"
    return out, pratique("simulate", quick_study, *_sites(marked), "--out", out)


def test_a_simulation_ends_in_a_signed_decision(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.returncode in DECISIONS, result.stderr
    path = out / ("bundle" if result.returncode == 0 else "refusal")
    report = json.loads((path / "report.json").read_text())
    assert report["decision"] == DECISIONS[result.returncode]
    assert (path / "report.html").stat().st_size > 10_000
    assert "round 4/4 · 3 sites" in result.stderr
    assert "SIMULATED DATA" in result.stdout
    phases = json.loads((out / "timing.json").read_text())
    assert {"set up sites", "training", "audit", "conclusion", "stop"} <= set(phases)


def test_nothing_runs_on_after_it(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    assert _processes_of(out) == []


def test_no_value_of_a_record_is_in_a_file_of_any_process(finished: tuple[Path, Result]) -> None:
    """Messages at rest, bundle or refusal, and the logs of daemons, SuperNodes and SuperLink."""
    out, result = finished
    assert found_below(out) == {}
    assert found_in((result.stdout + result.stderr).encode()) == []
    assert set(found_in((out.parent / "harbour.csv").read_bytes())) >= set(TEXTS)


def test_every_process_writes_private_logs(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    for name in ("harbour", "northgate", "lakeside"):
        site = out / "sites" / name
        for log in ("site.log", "supernode.log", "daemon.log", "security.log"):
            assert stat.S_IMODE((site / log).stat().st_mode) == 0o600
        lines = (site / "security.log").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events.count("spent") == 4 + 4
        for event in ("key_made", "approved", "started", "joined", "signed", "stopped"):
            assert event in events
        assert (site / "signs" / "node").exists()
    assert stat.S_IMODE((out / "coordinator" / "superlink.log").stat().st_mode) == 0o600
    server = (out / "coordinator" / "security.log").read_text()
    assert '"event": "decided"' in server


def test_every_site_has_its_ledger_log_and_annex(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    for name in ("harbour", "northgate", "lakeside"):
        site = out / "sites" / name
        assert len(list((site / "annex").glob("*.json"))) == 1
        command = [sys.executable, "-m", "pratique_client.cli", "ledger", str(site), "--json"]
        ledger = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert ledger["population"] == f"{name}/patients (simulated)"
        phases = [entry["phase"] for entry in ledger["entries"]]
        kinds = [phase.split(" ")[0] for phase in phases]
        assert kinds == ["histograms", *["round"] * 4, "audit", "audit", "utility"]
        assert "joined run" in (site / "site.log").read_text()


def test_verify_is_right_about_whole_and_changed_bundles(
    finished: tuple[Path, Result], tmp_path: Path
) -> None:
    out, result = finished
    path = out / ("bundle" if result.returncode == 0 else "refusal")
    whole = pratique("verify", path)
    assert whole.returncode == 0
    assert "identity not checked: signed by coordinator" in whole.stdout
    keys = json.loads(pratique("verify", path, "--json").stdout)["signed_by"]
    assert set(keys) == {"coordinator", "harbour", "lakeside", "northgate"}
    trust = tmp_path / "trust.toml"
    trust.write_text("".join(f'{name} = "{key}"\n' for name, key in keys.items()))
    assert "known: signed by harbour" in pratique("verify", path, "--trust", trust).stdout
    trust.write_text(trust.read_text().replace(keys["harbour"], keys["lakeside"]))
    failed(pratique("verify", path, "--trust", trust), 5, "the key of harbour")
    for name in ("report.json", "report.html", "study.toml", "manifest.json"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(bytes(content))
        failed(pratique("verify", copy), 5, name if name != "manifest.json" else "error: ")


def test_verify_needs_no_torch(finished: tuple[Path, Result]) -> None:
    out, result = finished
    path = out / ("bundle" if result.returncode == 0 else "refusal")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['flwr'] = sys.modules['sklearn'] = None;"
        f"sys.argv = ['pratique', 'verify', {str(path)!r}];"
        "from pratique_server.cli import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_older_result_is_replaced_only_by_force(
    finished: tuple[Path, Result], quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    out, _ = finished
    arguments = ["simulate", quick_study, *_sites(small_cohort), "--out"]
    failed(pratique(*arguments, out), 2, "exists already")
    (tmp_path / "precious.txt").write_text("x")
    failed(pratique(*arguments, tmp_path, "--force"), 2, "not made by Pratique")
    assert (tmp_path / "precious.txt").exists()


def _start(quick_study: Path, files: dict[str, Path], out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pratique_server.cli", "simulate", str(quick_study),
               *_sites(files), "--out", str(out)]  # fmt: skip
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    assert _processes_of(out) == []
    assert not (out / "bundle").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone knows how")
def test_kill_9_of_the_command_leaves_nothing_running(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    """SuperLink, SuperExec, ServerApp, daemons and SuperNodes: each ends with its parent."""
    out = tmp_path / "run"
    run = _start(quick_study, small_cohort, out)
    _wait_for(run, out / "coordinator" / "events.jsonl", '"round": 1')
    before = _processes_of(out)
    for program in ("superlink", "superexec", "serverapp", "pratique_client.node"):
        assert any(program in line for line in before), program
    run.kill()
    run.communicate(timeout=20)
    end = time.monotonic() + 5
    while left := _processes_of(out):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _daemon(out: Path, site: str) -> int:
    """Return the process id of a site's daemon."""
    wanted = f"pratique_client.cli\0start\0{out}/sites/{site}"
    return next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and wanted in _read(entry / "cmdline")
    )


def test_a_killed_daemon_that_is_started_again_goes_on_with_its_run(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    """Four sites, one of which may be missing: kill -9 in round 2, a new daemon, a new node."""
    study, quay, out = tmp_path / "four.toml", tmp_path / "quay.csv", tmp_path / "run"
    shutil.copy(small_cohort["lakeside"], quay)
    text = quick_study.read_text().replace("rounds = 4\n", "rounds = 20\n")
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
    assert 2 <= drop["round"] < drop["returned"] <= 20
    assert drop["code"] == "unreachable"
    assert sorted(report["sites"]["answered"]) == ["harbour", "lakeside", "northgate", "quay"]
    failed_rules = [r["rule"] for r in report["reasons"] if r["tier"] == 0 and not r["passed"]]
    assert not failed_rules
    assert "Traceback" not in stderr
    assert _processes_of(out) == []


def test_a_daemon_that_is_stopped_finishes_the_answer_it_is_at(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    study, quay, out = tmp_path / "four.toml", tmp_path / "quay.csv", tmp_path / "run"
    shutil.copy(small_cohort["lakeside"], quay)
    text = quick_study.read_text().replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n")
    study.write_text(text.replace("round_timeout_s = 60", "round_timeout_s = 40"))
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
    assert _processes_of(out) == []
    opened = events.read_text().count('"kind": "round"')
    from pratique_client.site import load_site

    for name in small_cohort:
        ledger = load_site(out / "sites" / name).ledger
        ledger.verify()
        paid = [entry for entry in ledger.entries() if entry.phase.startswith("round")]
        assert len(paid) >= opened


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_bad_data_of_a_site_are_told_with_its_name(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(small_cohort["lakeside"].read_text().replace(",never,", ",SECRET-LEVEL,"))
    sites = _sites({**small_cohort, "lakeside": bad})
    result = pratique("simulate", quick_study, *sites, "--out", tmp_path / "run")
    failed(result, 2, "site lakeside", "bad.csv", "column 'smoking'", "study")
    assert "SECRET-LEVEL" not in result.stdout + result.stderr
    assert _processes_of(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--site", "a=x.csv", "--site", "a=x.csv"], ["given twice"]),
        (["--site", "a=nothing.csv"], ["nothing.csv", "no such file"]),
        (["--site", "A B=x.csv"], ["NAME=PATH"]),
        (["--site", "a=x.csv", "--site", "b=x.csv"], ["demands 3 sites"]),
    ],
)
def test_wrong_sites(
    quick_study: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "x.csv").write_text("x\n")
    here = [argument.replace("=x.csv", f"={tmp_path}/x.csv") for argument in arguments]
    result = pratique("simulate", quick_study, *here, "--out", tmp_path / "run")
    failed(result, 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("target_epsilon = 3.0", "target_epsilon = 0"), ["privacy.target_epsilon"]),
        (("target_epsilon = 3.0", "target_epsilon = -1"), ["privacy.target_epsilon"]),
        (("[privacy]", "[generator]\nname = 'magic'\n[privacy]"), ["generator.name", "magic"]),
        (("[privacy]", "[generator]\nhidden_units = 1\n[privacy]"), ["hidden_units"]),
        (("[privacy]", "[privacy"), ["not valid TOML"]),
        (("target_epsilon = 3.0", "target_epsilon = 0.05"), ["privacy:", "raise an epsilon"]),
    ],
)
def test_bad_studies(
    quick_study: Path, tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    study = tmp_path / "bad-study.toml"
    text = quick_study.read_text().replace("rounds = 4\n", "rounds = 10000\nsample_rate = 1\n")
    study.write_text(text.replace(*change))
    failed(pratique("study", "check", study), 2, "bad-study.toml", *words)


def test_study_check_tells_digest_words_and_plan(quick_study: Path) -> None:
    shown = pratique("study", "check", quick_study)
    assert shown.returncode == 0
    assert "an attacker who knows everything else" in shown.stdout
    assert "more than chance has, and of at most" in shown.stdout
    assert "The other hospitals see the opened sums too" in shown.stdout
    plan = json.loads(pratique("study", "check", quick_study, "--json").stdout)
    assert len(plan["digest"]) == 64
    assert plan["epsilon_of_training"] <= 3.0
    assert plan["noise_multiplier_of_a_step"] > 0


def test_a_bug_ends_with_1_and_says_where_the_log_is(tmp_path: Path) -> None:
    code = (
        "import pratique_common.bundle as b\n"
        "def boom(*a, **k): raise KeyError('SECRET-LEVEL')\n"
        "b.verify_bundle = boom\n"
        "import sys; sys.argv = ['pratique', 'verify', 'x']\n"
        "from pratique_server.cli import main; main()"
    )
    environment = {**os.environ, "PRATIQUE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    failed(result, 1, "internal error", "internal-errors.log")
    assert "SECRET-LEVEL" not in result.stderr
    assert "KeyError at" in (tmp_path / "internal-errors.log").read_text()
