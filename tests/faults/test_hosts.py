"""A federation across hosts: what a stranger reaches, and a wire that is pulled and put back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Deploy
from tests.faults.federation import COORDINATOR, DECISIONS, STRANGER, Federation

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_200)]

_SCAN = """
import asyncio, sys
async def try_port(host, port, gate):
    async with gate:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
        except OSError:
            return None
        writer.close()
        return port
async def scan(host):
    gate = asyncio.Semaphore(500)
    found = await asyncio.gather(*(try_port(host, port, gate) for port in range(1, 65536)))
    print(host, *(port for port in found if port))
for host in sys.argv[1:]:
    asyncio.run(scan(host))
"""

# What anybody can write who knows Flower: an app that shows where it ran.
_APP = """
from pathlib import Path
from flwr.serverapp import ServerApp
from flwr.clientapp import ClientApp
Path({mark!r}).write_text("ran")
app = ServerApp()
client = ClientApp()
@app.main()
def main(grid, context):
    Path({mark!r}).write_text("ran")
"""
_PYPROJECT = """
[project]
name = "stranger"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "stranger.app:app"
clientapp = "stranger.app:client"
"""


def _flwr_run(
    federation: Federation, host: str, address: str
) -> "subprocess.CompletedProcess[str]":
    """Do what Flower's manual says, with the coordinator's own CA."""
    folder = federation.folder / f"flwr-on-{host}"
    (folder / "stranger").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PYPROJECT)
    mark = str(federation.folder / f"ran-on-{host}")
    (folder / "stranger" / "app.py").write_text(_APP.format(mark=mark))
    (folder / "stranger" / "__init__.py").write_text("")
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "target"\n[superlink.target]\n'
        f'address = "{address}"\nroot-certificates = "{federation.server / "ca.crt"}"\n'
    )
    flwr = Path(sys.executable).parent / "flwr"
    return federation.on(host, "env", f"FLWR_HOME={home}", flwr, "run", folder, "target")


def test_a_stranger_finds_one_port_and_nothing_behind_it(deploy: Deploy) -> None:
    federation = deploy()
    hosts = [COORDINATOR, *federation.sites]
    scanned = federation.on(STRANGER, sys.executable, "-c", _SCAN, *hosts, timeout_s=600)
    open_ports = {line.split()[0]: line.split()[1:] for line in scanned.stdout.splitlines()}
    assert open_ports == {COORDINATOR: ["443"], **{name: [] for name in federation.sites}}

    outside = _flwr_run(federation, STRANGER, f"{COORDINATOR}:443")
    assert outside.returncode != 0
    assert "403" in outside.stdout + outside.stderr
    # A positive control: the same call from the coordinator's own machine is taken.
    inside = _flwr_run(federation, COORDINATOR, "127.0.0.1:8000")
    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert not (federation.folder / f"ran-on-{STRANGER}").exists()


def test_a_hospital_is_cut_off_and_heals(deploy: Deploy) -> None:
    federation = deploy(rounds=12)
    run = federation.start_run()
    name = federation.wait_for_event(run, set(), kind="round", round=2)
    federation.network.cut("lakeside")
    federation.wait_for_event(run, set(), kind="dropped", site="lakeside")
    federation.network.heal("lakeside")
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
    _, report = federation.result(name)
    (drop,) = report["evidence"]["dropped"]["lakeside"]
    assert 2 <= drop["round"] < drop["returned"] <= 12
    assert sorted(report["sites"]["answered"]) == sorted(federation.sites)
    assert json.dumps(report).count("Traceback") == 0


def test_the_coordinator_is_cut_off_for_seconds_and_nobody_is_missed(deploy: Deploy) -> None:
    federation = deploy(rounds=12)
    run = federation.start_run()
    name = federation.wait_for_event(run, set(), kind="round", round=2)
    federation.network.cut(COORDINATOR)
    try:
        run.communicate(timeout=8)
    except subprocess.TimeoutExpired:
        federation.network.heal(COORDINATOR)
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
    _, report = federation.result(name)
    assert sorted(report["sites"]["answered"]) == sorted(federation.sites)
