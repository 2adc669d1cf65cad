"""The systemd units: valid, hardened, and starting commands that exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pratique_client.cli import app as client_cli
from pratique_server.cli import app as server_cli

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
COMMANDS: dict[str, typer.Typer] = {"pratique": server_cli, "pratique-client": client_cli}
MOST_EXPOSED = 1.5
"""systemd's scale: 0 is a service that can do nothing, 10 one that can do anything."""

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here")


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def _settings(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.M)


@needs_systemd
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    """With a program that exists: where ours will be is no matter of the unit's syntax."""
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M))
    result = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    ours = [line for line in result.stderr.splitlines() if unit.name in line]
    assert (result.returncode, ours) == (0, [])


@needs_systemd
def test_systemd_finds_the_unit_hardened(unit: Path) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd cannot judge units offline (before version 250)")
    (exposure,) = re.findall(r"exposure level for \S+: ([0-9.]+)", result.stdout)
    assert float(exposure) <= MOST_EXPOSED


def test_the_command_exists(unit: Path) -> None:
    (line,) = _settings(unit, "ExecStart")
    program, *words = shlex.split(line)
    steps = [word for word in words[:2] if not word.startswith(("/", "-"))]
    shown = CliRunner().invoke(COMMANDS[Path(program).name], [*steps, "--help"])
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.output


def test_it_is_restarted_for_ever_and_stopped_in_peace(unit: Path) -> None:
    assert _settings(unit, "Restart") == ["always"]
    assert _settings(unit, "RestartSec") == ["15"]
    assert _settings(unit, "StartLimitIntervalSec") == ["0"]
    assert _settings(unit, "KillMode") == ["mixed"]
    # What a unit may write is its own folder, and nothing else.
    (state,) = _settings(unit, "StateDirectory")
    assert _settings(unit, "ReadWritePaths") == [f"/var/lib/{state}"]
