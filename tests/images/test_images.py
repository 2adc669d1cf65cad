"""The images, and a federation of them: it trains, one site is cut off and heals, one is killed.

Run by `make test-images`, after `make images`. Without an engine, the images or the proxy's image,
everything here is skipped with its reason. Faults are made with the engine's own commands: a site's
network is taken away and given back, and a daemon is killed inside its container.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pratique_common.phantoms.cohort import study_path, write_cohort

pytestmark = [pytest.mark.images, pytest.mark.timeout(1_800)]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.rehearsal.yaml"
CLIENT = os.environ.get("CLIENT_IMAGE", "pratique-client:0.1.0")
SERVER = os.environ.get("SERVER_IMAGE", "pratique-server:0.1.0")
PROXY = os.environ.get("PROXY_IMAGE", "nginx:1.28-alpine")
USER = 10_001
SITES = ("harbour", "lakeside", "northgate", "quay")
CUT, KILLED = "lakeside", "quay"
DECISIONS = {0: "granted", 3: "refused", 4: "not_enough_data"}

Result = subprocess.CompletedProcess[str]


def docker(*arguments: object, check: bool = True, timeout_s: float = 300) -> Result:
    command = ["docker", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert result.returncode == 0 or not check, result.stdout + result.stderr
    return result


def _why_not() -> str | None:
    """Return why nothing here can run."""
    if shutil.which("docker") is None:
        return "docker is not here"
    if docker("info", check=False).returncode:
        return "no container engine answers (docker info)"
    if docker("compose", "version", check=False).returncode:
        return "docker compose is not here"
    for image in (CLIENT, SERVER, PROXY):
        if docker("image", "inspect", image, check=False).returncode:
            return f"the image {image} is not here: `make images`, or docker pull"
    return None


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if reason := _why_not():
        pytest.skip(reason)


def _inside(image: str, code: str) -> str:
    """Run Python in an image as hardened as the compose files make it."""
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none",
                "--security-opt", "no-new-privileges:true")  # fmt: skip
    return docker("run", "--rm", *hardened, "--entrypoint", "python", image, "-c", code).stdout


@pytest.mark.parametrize("image", [CLIENT, SERVER])
def test_an_image_holds_nothing_that_it_does_not_need(image: str) -> None:
    code = """
import glob, importlib.util, json, os, pathlib
folders = [f'/{name}' for name in os.listdir('/') if name not in ('proc', 'sys', 'dev')]
files = [os.path.join(where, name) for folder in folders
         for where, _, names in os.walk(folder) for name in names]
status = dict(line.split(':\\t') for line in open('/proc/self/status') if ':\\t' in line)
try:
    pathlib.Path('/var/lib/pratique/x').write_text('x')
    wrote = True
except OSError:
    wrote = False
print(json.dumps({
    'uid': os.getuid(), 'capabilities': status['CapBnd'].strip(),
    'no_new_privileges': status['NoNewPrivs'].strip(), 'wrote': wrote,
    'left': [f for f in files if f.endswith(('pip.conf', '.whl', '.key', '/pip', '/pip3', '/gcc'))],
    'pip': importlib.util.find_spec('pip') is not None,
    'compiled': bool(glob.glob('/opt/venv/lib/*/site-packages/flwr/__pycache__/*.pyc')),
    'sbom': [c['name'] for c in json.load(open('/usr/share/pratique/sbom.cdx.json'))['components']],
    'environment': sorted(os.environ),
}))
"""
    found = json.loads(_inside(image, code))
    assert found["uid"] == USER
    assert int(found["capabilities"], 16) == 0
    assert found["no_new_privileges"] == "1"
    assert (found["wrote"], found["left"], found["pip"]) == (False, [], False)
    assert found["compiled"]
    assert {"torch", "flwr", "cryptography"} <= set(found["sbom"])
    assert not [name for name in found["environment"] if "KEY" in name or "SECRET" in name]


@pytest.mark.parametrize("image", [CLIENT, SERVER])
def test_an_images_history_tells_nothing_of_where_it_was_built(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "find-links" not in history and "index-url=" not in history


class Federation:
    """A federation in containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ, "FEDERATION": str(folder), "CLIENT_IMAGE": CLIENT,
            "SERVER_IMAGE": SERVER, "PROXY_IMAGE": PROXY,
        }  # fmt: skip

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> Result:
        command = ["docker", "compose", "-f", str(COMPOSE), *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s,
            env=self.environment,
        )  # fmt: skip
        assert result.returncode == 0 or not check, result.stdout + result.stderr
        return result

    def run(self, image: str, *arguments: str) -> str:
        """Run a command in a container of its own, with everything of the federation mounted."""
        return docker(
            "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none",
            "-v", f"{self.folder}:/federation",
            "-v", f"{self.folder}/coordinator:/var/lib/pratique", image, *arguments,
        ).stdout  # fmt: skip

    def site(self, name: str, *arguments: str) -> str:
        """Run a client's command as it is run at a hospital."""
        return docker(
            "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none",
            "-v", f"{self.folder}/sites/{name}:/var/lib/pratique",
            "-v", f"{self.folder}/records/{name}:/records:ro", "-v", f"{self.folder}/post:/post",
            CLIENT, *arguments,
        ).stdout  # fmt: skip

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).stdout.strip()

    def health(self, service: str) -> str:
        format_ = "{{.State.Health.Status}}"
        return docker("inspect", "-f", format_, self.container(service)).stdout.strip()

    def restarts(self, service: str) -> int:
        return int(docker("inspect", "-f", "{{.RestartCount}}", self.container(service)).stdout)

    def status(self) -> dict[str, Any]:
        shown = self.compose(
            "exec", "-T", "server", "pratique", "status", "/var/lib/pratique", "--json", check=False
        )
        found: dict[str, Any] = json.loads(shown.stdout) if shown.stdout else {}
        return found

    def events(self) -> list[dict[str, Any]]:
        runs = self.folder / "coordinator" / "runs"
        lines = [line for p in runs.glob("*/events.jsonl") for line in p.read_text().splitlines()]
        return [json.loads(line) for line in lines]


def _wait(wanted: Callable[[], object], problem: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not wanted():
        assert time.monotonic() < end, problem
        time.sleep(1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Make everybody's folders with the images' own commands, and start it all."""
    folder = tmp_path_factory.mktemp("federation")
    cohort = write_cohort(
        folder / "cohort", seed=7,
        num_patients={"harbour": 400, "lakeside": 250, "northgate": 300},
    )  # fmt: skip
    cohort["quay"] = cohort["lakeside"]
    text = study_path().read_text().replace("near_match", "rows = 500\nnear_match")
    text = text.replace("expected_patients = 12000", "expected_patients = 1200")
    text = text.replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n")
    for name in ("coordinator", "post", *(f"sites/{s}" for s in SITES)):
        (folder / name).mkdir(parents=True)
    (folder / "post" / "study.toml").write_text(
        text + "\n[training]\nrounds = 20\nround_timeout_s = 180\n"
    )
    shutil.copy(folder / "post" / "study.toml", folder / "coordinator" / "study.toml")
    for site in SITES:
        (folder / "records" / site).mkdir(parents=True)
        shutil.copy(cohort[site], folder / "records" / site / "rows.csv")
    _give_away(folder)
    made = Federation(folder)
    home = "/var/lib/pratique"
    made.run(SERVER, "server", "init", home, "--host", "coordinator")
    for site in SITES:
        invitation = f"/federation/post/{site}.json"
        made.run(SERVER, "server", "invite", home, site, "--out", invitation)
        told = made.site(site, "init", f"/post/{site}.json", "--folder", home,
                         "--data", "/records/rows.csv", "--simulated")  # fmt: skip
        (line,) = (line for line in told.splitlines() if line.startswith("this site"))
        fingerprint = line.removeprefix("this site").strip()
        made.run(SERVER, "server", "accept", home, f"/federation/sites/{site}/request.json",
                 "--fingerprint", fingerprint)  # fmt: skip
    shutil.copy(folder / "coordinator" / "sites.toml", folder / "post" / "sites.toml")
    for site in SITES:
        made.site(site, "approve", "/post/study.toml", "--site", home, "--yes",
                  "--sites", "/post/sites.toml")  # fmt: skip
    try:
        made.compose("up", "-d", timeout_s=600)
        yield made
    finally:
        (folder / "logs.txt").write_text(made.compose("logs", "--no-color", check=False).stdout)
        made.compose("down", "--timeout", "10", check=False)


def _give_away(folder: Path) -> None:
    """Give the folders to the images' user; needs root, as an administrator has it."""
    if os.geteuid() != 0:
        pytest.skip("giving folders to the images' user needs root")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    for path in folder.parents:
        if path.stat().st_mode & 0o005 == 0 and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o005)


def test_a_federation_in_containers_loses_two_sites_gets_them_back_and_decides(
    federation: Federation,
) -> None:
    services = ("server", *SITES)
    for service in services:
        _wait(lambda s=service: federation.health(s) == "healthy", f"{service} is not well", 300)
    status = federation.status()
    assert (status["serving"], status["connected"]) == (True, len(SITES))
    _nothing_but_the_fleet_passes(federation)

    command = ["docker", "compose", "-f", str(COMPOSE), "exec", "-T", "server", "pratique", "run",
               "/var/lib/pratique/study.toml", "--server", "/var/lib/pratique",
               "--out", "/var/lib/pratique/out"]  # fmt: skip
    run = subprocess.Popen(
        command, env=federation.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        _wait(lambda: _reached(federation, 2), "training did not begin", 180)
        _cut_and_heal(federation)
        _kill(federation)
        output, _ = run.communicate(timeout=600)
    finally:
        run.kill()
    assert run.returncode in DECISIONS, output
    kind = "bundle" if run.returncode == 0 else "refusal"
    report = json.loads(
        (federation.folder / "coordinator" / "out" / kind / "report.json").read_text()
    )
    assert report["decision"] == DECISIONS[run.returncode]
    dropped = report["evidence"]["dropped"]
    assert {CUT, KILLED} <= set(dropped)
    verified = federation.run(SERVER, "verify", f"/var/lib/pratique/out/{kind}")
    assert "coordinator" in verified
    for site in SITES:
        ledger = json.loads(federation.site(site, "ledger", "/var/lib/pratique", "--json"))
        phases = [(entry["role"], entry["phase"]) for entry in ledger["entries"]]
        assert len(set(phases)) == len(phases), "a phase was paid twice"


def _reached(federation: Federation, number: int) -> bool:
    return any(e["kind"] == "round" and e["round"] >= number for e in federation.events())


def _told(federation: Federation, kind: str, site: str) -> bool:
    return any(e["kind"] == kind and e.get("site") == site for e in federation.events())


def _nothing_but_the_fleet_passes(federation: Federation) -> None:
    """From a hospital's own network the proxy answers, and no port of the SuperLink does."""
    code = (
        "import socket, ssl\n"
        "context = ssl.create_default_context(cafile='/var/lib/pratique/ca.crt')\n"
        "with socket.create_connection(('coordinator', 443), 5) as raw:\n"
        "  with context.wrap_socket(raw, server_hostname='coordinator') as tls:\n"
        "    tls.sendall(b'GET /v1/control/list-runs HTTP/1.0\\r\\n\\r\\n')\n"
        "    print(tls.recv(100).decode().split()[1])\n"
        "for host, port in (('coordinator', 8000), ('coordinator', 8001), ('1.1.1.1', 443)):\n"
        "  try:\n"
        "    socket.create_connection((host, port), 5).close()\n"
        "    print('open', host, port)\n"
        "  except OSError:\n"
        "    print('shut')\n"
    )
    shown = docker("exec", federation.container("harbour"), "python", "-c", code).stdout.split()
    assert shown == ["403", "shut", "shut", "shut"]


def _cut_and_heal(federation: Federation) -> None:
    network = f"pratique-rehearsal_{CUT}"
    container = federation.container(CUT)
    docker("network", "disconnect", network, container)
    try:
        _wait(lambda: _told(federation, "dropped", CUT), "the cut was not noticed", 180)
        _wait(lambda: federation.health(CUT) == "unhealthy", "the cut site still looks well", 180)
    finally:
        docker("network", "connect", "--alias", CUT, network, container)
    _wait(lambda: _told(federation, "returned", CUT), "the cut site did not come back", 180)


def _kill(federation: Federation) -> None:
    """Kill a daemon as the kernel does when memory runs out: its container is started again."""
    before = federation.restarts(KILLED)
    code = (
        "import os, pathlib, signal\n"
        "for p in pathlib.Path('/proc').iterdir():\n"
        "  if p.name.isdigit() and b'pratique-client\\0start' in (p / 'cmdline').read_bytes():\n"
        "    if p.name != '1': os.kill(int(p.name), signal.SIGKILL)\n"
    )
    docker("exec", federation.container(KILLED), "python", "-c", code, check=False)
    _wait(lambda: federation.restarts(KILLED) > before, "the container did not restart", 60)
    _wait(lambda: _told(federation, "dropped", KILLED), "the killed site was not missed", 180)
