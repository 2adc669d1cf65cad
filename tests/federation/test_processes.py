"""The public commands with real processes: SuperLink, SuperNodes, daemons, and bad input."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.federation.commands import (
    DECISIONS,
    Result,
    failed,
    pratique,
    processes_of,
    site_options,
)
from tests.federation.marks import TEXTS, found_below, found_in, plant


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, quick_study: Path, small_cohort: dict[str, Path]
) -> tuple[Path, Result]:
    """One whole simulation, of records with marked values."""
    folder = tmp_path_factory.mktemp("finished")
    marked = {name: plant(path, folder / path.name) for name, path in small_cohort.items()}
    out = folder / "run"
    return out, pratique("simulate", quick_study, *site_options(marked), "--out", out)


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
    assert processes_of(out) == []


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
    arguments = ["simulate", quick_study, *site_options(small_cohort), "--out"]
    failed(pratique(*arguments, out), 2, "exists already")
    (tmp_path / "precious.txt").write_text("x")
    failed(pratique(*arguments, tmp_path, "--force"), 2, "not made by Pratique")
    assert (tmp_path / "precious.txt").exists()


def test_bad_data_of_a_site_are_told_with_its_name(
    quick_study: Path, small_cohort: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(small_cohort["lakeside"].read_text().replace(",never,", ",SECRET-LEVEL,"))
    sites = site_options({**small_cohort, "lakeside": bad})
    result = pratique("simulate", quick_study, *sites, "--out", tmp_path / "run")
    failed(result, 2, "site lakeside", "bad.csv", "column 'smoking'", "study")
    assert "SECRET-LEVEL" not in result.stdout + result.stderr
    assert processes_of(tmp_path / "run") == []


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
