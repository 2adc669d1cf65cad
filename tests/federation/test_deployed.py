"""Hospitals behind a proxy: joining, TLS, keys, one run, and what a stranger reaches: nothing."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

from pratique_common.errors import FederationError, UsageError, VerificationError
from pratique_common.health import probe
from pratique_common.study import load_study
from pratique_server.control import Control
from pratique_server.deployment.certificates import create_ca
from pratique_server.deployment.folder import load_server
from pratique_server.deployment.joining import control_of
from pratique_server.superlink import free_port
from tests.federation.commands import DECISIONS, processes_of
from tests.federation.deployed import (
    NGINX,
    Deployed,
    client,
    deploy,
    done,
    pratique,
)

needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)"
)


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, quick_study: Path, small_cohort: dict[str, Path]
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    study = folder / "patient.toml"  # not whether a busy machine is quick enough is tested here
    study.write_text(quick_study.read_text().replace("timeout_s = 60", "timeout_s = 300"))
    federation = deploy(folder, study, small_cohort)
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def finished(deployed: Deployed) -> subprocess.CompletedProcess[str]:
    """One run."""
    command = [sys.executable, "-m", "pratique_server.cli", "run", str(deployed.study), "--server",
               str(deployed.server), "--out", str(deployed.folder / "out")]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def test_a_run_over_tls_ends_in_a_signed_decision(
    deployed: Deployed, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode in DECISIONS, finished.stderr
    path = deployed.folder / "out" / ("bundle" if finished.returncode == 0 else "refusal")
    report = json.loads((path / "report.json").read_text())
    assert report["decision"] == DECISIONS[finished.returncode]
    assert sorted(report["sites"]["answered"]) == ["harbour", "lakeside", "northgate"]
    assert "round 4/4 · 3 sites" in finished.stderr
    # Signed by the keys that the hospitals exchanged, and by that of the invitation.
    trust = deployed.folder / "trust.toml"
    key = json.loads((deployed.folder / "harbour.invitation.json").read_text())
    trust.write_text(
        (deployed.server / "sites.toml").read_text()
        + f'coordinator = "{key["invitation"]["coordinator"]}"\n'
    )
    assert "known: signed by lakeside" in done(pratique("verify", path, "--trust", trust))


def test_the_hospital_with_a_proxy_went_through_it(
    deployed: Deployed, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode in DECISIONS
    assert set(deployed.proxy.asked) == {f"localhost:{deployed.port}"}


def test_the_coordinator_sees_who_is_connected(deployed: Deployed) -> None:
    _wait_until_connected(deployed)
    assert "lakeside" in done(pratique("server", "sites", deployed.server))


def _wait_until_connected(deployed: Deployed) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sites = json.loads(done(pratique("server", "sites", deployed.server, "--json")))
        if all(site["connected"] for site in sites):
            assert {site["site"] for site in sites} == {"harbour", "lakeside", "northgate"}
            return
        time.sleep(0.2)
    raise AssertionError(sites)


def test_check_sees_proxy_certificate_clock_and_identity(deployed: Deployed) -> None:
    for name, way_out in (("harbour", deployed.proxy.address), ("lakeside", "none")):
        checks = _checks(deployed, name)
        assert checks["proxy"]["finding"].startswith(way_out)
        assert "TLSv1.3" in checks["certificate"]["finding"]
        assert "knows this site's key" in checks["identity"]["finding"]
        assert all(check["passed"] for check in checks.values()), checks
        assert {"disk", "ledger", "clock", "data", "patients", "budget", "GPU"} <= set(checks)


def _checks(deployed: Deployed, name: str) -> dict[str, dict[str, object]]:
    shown = json.loads(client("check", deployed.site(name), "--json").output)
    return {check["check"]: check for check in shown["checks"]}


def test_an_unknown_key_is_turned_away_until_it_is_accepted_and_again_once_removed(
    deployed: Deployed, small_cohort: dict[str, Path]
) -> None:
    told = deployed.invite_and_init("quay", small_cohort["lakeside"])
    assert "does not know this site's key" in str(_checks(deployed, "quay")["identity"])
    with pytest.raises(VerificationError, match="do not accept it"):
        _raise(deployed.accept("quay", told[:-1] + ("0" if told[-1] != "0" else "1")))
    assert "quay" not in (deployed.server / "sites.toml").read_text()
    assert "does not know this site's key" in str(_checks(deployed, "quay")["identity"])
    # Its daemon starts when a study is approved; the SuperLink turns it away.
    trust = deployed.folder / "with-quay.toml"
    key = (deployed.site("quay") / "site.pub").read_text().strip()
    trust.write_text((deployed.server / "sites.toml").read_text() + f'quay = "{key}"\n')
    done(client("approve", deployed.study, "--site", deployed.site("quay"), "--yes", "--sites",
                trust))  # fmt: skip
    daemon = deployed.start_daemon("quay")
    assert daemon.wait(60) == 7
    assert "pratique-client check" in " ".join((deployed.folder / "quay.out").read_text().split())
    done(deployed.accept("quay", told.upper().replace(" ", ":")))
    assert _checks(deployed, "quay")["identity"]["passed"]
    done(pratique("server", "remove", deployed.server, "quay"))
    assert not _checks(deployed, "quay")["identity"]["passed"]


def _raise(result: object) -> None:
    assert result.exit_code != 0  # type: ignore[attr-defined]
    raise result.exception  # type: ignore[attr-defined]


def test_another_ca_is_not_trusted(deployed: Deployed) -> None:
    file = deployed.site("lakeside") / "ca.crt"
    right = file.read_text()
    try:
        create_ca(deployed.folder / "x.key", file, host="localhost")
        check = _checks(deployed, "lakeside")["certificate"]
    finally:
        file.write_text(right)
    assert not check["passed"]
    assert "firewall that opens TLS" in str(check["finding"])


@needs_nginx
def test_nothing_but_the_fleet_api_passes_the_proxy(deployed: Deployed) -> None:
    ca, address = (deployed.server / "ca.crt").read_bytes(), f"localhost:{deployed.port}"
    control = ControlHttpClient.from_server_address(address, False, ca, [])
    runtime = RuntimeHttpClient.from_server_address(address, False, ca, [])
    for call in (
        lambda: control.ListRuns(ListRunsRequest()),
        lambda: runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"])),
    ):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            call()
        assert refused.value.response.status_code == 403
    # What `flwr run` does.
    outside = Control(address, deployed.server / "ca.crt", remedy="")
    with pytest.raises(FederationError):
        outside.submit(load_study(deployed.study), "x")


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/v1/control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/%252e%252e/control/list-runs",
        "//v1/control/list-runs",
        "/v1/fleet/./../runtime/acquire-task",
        "/V1/Control/list-runs",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_spelling_of_a_path_leads_around_the_proxy(deployed: Deployed, path: str) -> None:
    context = ssl.create_default_context(cafile=deployed.server / "ca.crt")
    plain = socket.create_connection(("127.0.0.1", deployed.port), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
            "Content-Type: application/x-protobuf\r\nConnection: close\r\n\r\n".encode()
        )
        status = int(connection.recv(4096).split()[1])
    assert status in (403, 404, 400)
    assert status == 403 or path.startswith("/v1/fleet/%25")


@needs_nginx
def test_the_proxy_takes_tls_1_2_and_no_less(deployed: Deployed) -> None:
    context = ssl.create_default_context(cafile=deployed.server / "ca.crt")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=context) as client_12:
        reply = client_12.get(f"https://localhost:{deployed.port}/")
    assert reply.status_code == 403
    assert "max-age" in reply.headers["strict-transport-security"]
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with httpx.Client(verify=context) as client_11, pytest.raises(httpx.ConnectError):
        client_11.get(f"https://localhost:{deployed.port}/")


def test_on_the_coordinators_machine_a_task_needs_the_shared_secret(deployed: Deployed) -> None:
    ca = (deployed.server / "ca.crt").read_bytes()
    runtime = RuntimeHttpClient.from_server_address(
        f"127.0.0.1:{deployed.link_port}", False, ca, []
    )
    with pytest.raises(httpx.HTTPStatusError) as refused:
        runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    assert refused.value.response.status_code in (401, 403)


def test_every_private_key_is_its_owners(deployed: Deployed) -> None:
    for folder in (deployed.server, deployed.site("harbour")):
        keys = [*folder.glob("*.key"), *folder.glob("*.secret")]
        assert len(keys) >= 4
        assert [key for key in keys if key.stat().st_mode & 0o077] == []


def _security(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "security.log").read_text().splitlines()]


def _status(deployed: Deployed) -> dict[str, object]:
    shown: dict[str, object] = json.loads(pratique("status", deployed.server, "--json").output)
    return shown


def _run(deployed: Deployed) -> dict[str, Any]:
    run = _status(deployed)["run"]
    assert isinstance(run, dict)
    return run


def test_status_health_and_metrics_see_a_daemon_go_and_come(
    deployed: Deployed, finished: subprocess.CompletedProcess[str]
) -> None:
    site = deployed.site("lakeside")
    daemon = next(p for p in deployed.processes if str(site) in p.args)  # type: ignore[operator]
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0
    assert _security(site)[-1]["event"] == "stopped"
    _wait(lambda: _status(deployed)["connected"] == 2, "a site that stopped is still connected")
    health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    deployed.start_daemon("lakeside", "--health", health, "--metrics", metrics)
    _wait(lambda: probe(health), "the daemon is not well")
    assert json.loads(client("status", site, "--json").output)["well"] is True
    with httpx.Client(trust_env=False) as browser:
        lines = browser.get(f"http://{metrics}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["pratique_contact_age_seconds"]) < 10
    assert float(values["pratique_epsilon_spent"]) > 0
    assert {values[f'pratique_well{{part="{part}"}}'] for part in ("supernode", "executor")} == {
        "1.0"
    }
    status = _status(deployed)
    assert (status["serving"], status["connected"]) == (True, 3)
    run = _run(deployed)
    assert run["under_way"] is False
    assert (run["round"], run["rounds"], run["missing"]) == (4, 4, {})
    assert run["outcome"]["decision"] == DECISIONS[finished.returncode]
    assert "harbour" in done(pratique("status", deployed.server))


def test_the_coordinators_security_log_tells_who_came(
    deployed: Deployed, finished: subprocess.CompletedProcess[str]
) -> None:
    events = _security(deployed.server)
    assert events[0]["event"] == "key_made"
    for event in ("invited", "accepted", "started", "joined"):
        assert any(e["event"] == event and e.get("site") != "" for e in events)
    decided = [e["decision"] for e in events if e["event"] == "decided"]
    assert decided == [DECISIONS[finished.returncode]]
    for name in ("security.log", "superlink.log"):
        assert (deployed.server / name).stat().st_mode & 0o077 == 0


def _wait(wanted: Callable[[], bool], problem: str, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if wanted():
            return
        time.sleep(0.2)
    raise AssertionError(problem)


def test_ctrl_c_stops_a_run_at_the_server_too(deployed: Deployed) -> None:
    before = set((deployed.server / "runs").iterdir())
    command = [sys.executable, "-m", "pratique_server.cli", "run", deployed.study, "--server",
               deployed.server]  # fmt: skip
    run = deployed.spawn("interrupted", command)
    with control_of(load_server(deployed.server)) as control:
        end = time.monotonic() + 60
        while not control.unfinished_runs():
            assert time.monotonic() < end
            time.sleep(0.1)
        with pytest.raises(FederationError, match="a run is under way"):
            _raise(pratique("run", deployed.study, "--server", deployed.server))
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
        assert control.unfinished_runs() == []
    (folder,) = set((deployed.server / "runs").iterdir()) - before
    assert not (folder / "bundle").exists()

    _wait(lambda: not _run(deployed)["under_way"], "the stopped run is still shown")


@pytest.mark.parametrize("phase", ["training", pytest.param("audit", marks=pytest.mark.faults)])
def test_a_run_goes_on_after_kill_9_of_all_of_the_coordinator(
    deployed: Deployed, phase: str
) -> None:
    """Of the server and the command; Flower's processes end with them, and the port is free."""
    known = {path.name for path in (deployed.server / "runs").iterdir()}
    command = [sys.executable, "-m", "pratique_server.cli", "run", deployed.study, "--server",
               deployed.server]  # fmt: skip
    run = deployed.spawn(f"cut-{phase}", command)
    end = time.monotonic() + 300
    name = ""
    while f'"{phase}"' not in _events(deployed, name):
        assert run.poll() is None and time.monotonic() < end
        name = next(iter({p.name for p in (deployed.server / "runs").iterdir()} - known), "")
        time.sleep(0.05)
    for process in (run, deployed.server_process()):
        process.kill()
        process.wait()
    killed = time.monotonic()
    assert not (deployed.server / "runs" / name / "bundle").exists()
    _wait(lambda: processes_of(deployed.server) == [], "something was left running", 5)
    assert time.monotonic() - killed < 5
    deployed.start_server()
    _wait_until_connected(deployed)
    with pytest.raises(UsageError, match="leave them out"):
        _raise(pratique("run", deployed.study, "--resume", name, "--server", deployed.server))
    with pytest.raises(UsageError, match="there is no run"):
        _raise(pratique("run", "--server", deployed.server, "--resume", "x"))
    again = subprocess.run(
        [sys.executable, "-m", "pratique_server.cli", "run", "--server", str(deployed.server),
         "--resume", name], capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert again.returncode in DECISIONS, again.stderr
    kind = "bundle" if again.returncode == 0 else "refusal"
    report = json.loads((deployed.server / "runs" / name / kind / "report.json").read_text())
    assert sorted(report["sites"]["answered"]) == ["harbour", "lakeside", "northgate"]
    for site in ("harbour", "lakeside", "northgate"):
        shown = json.loads(done(client("ledger", deployed.site(site), "--json")))
        paid = [(e["role"], e["phase"]) for e in shown["entries"] if e["run"] == name]
        assert len(paid) == len(set(paid)) == 1 + 4 + 3
    with pytest.raises(UsageError, match="ended; see"):
        _raise(pratique("run", "--server", deployed.server, "--resume", name))


def _events(deployed: Deployed, name: str) -> str:
    path = deployed.server / "runs" / name / "events.jsonl"
    return path.read_text() if name and path.exists() else ""


def test_a_folder_has_one_server(deployed: Deployed) -> None:
    with pytest.raises(FederationError, match="already; stop that one first"):
        _raise(pratique("server", "start", deployed.server))


def test_sigterm_stops_the_server_and_check_says_that_it_is_away(deployed: Deployed) -> None:
    server = deployed.server_process()
    server.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert server.wait(40) == 0
    assert time.monotonic() - asked < 9, "something had to be killed"
    assert (deployed.folder / "server.out").read_text().rstrip().endswith("stopped")
    shown = _checks(deployed, "lakeside")
    failed = [name for name, check in shown.items() if not check["passed"]]
    assert pratique("status", deployed.server, "--json").output.count('"serving": false') == 1
    assert _security(deployed.server)[-1]["event"] == "stopped"
    assert failed == ["identity"] if NGINX is not None else ["connection"]
    with pytest.raises(FederationError, match="pratique server start"):
        _raise(pratique("run", deployed.study, "--server", deployed.server))
