"""Coordinator, proxy and hospitals on hosts of their own, kept alive as systemd keeps them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pratique_common.signing import fingerprint
from tests.faults.hosts import PATH, Network

COORDINATOR = "coordinator"
STRANGER = "stranger"
DECISIONS = {0: "granted", 3: "refused", 4: "not_enough_data"}
PRATIQUE = [sys.executable, "-m", "pratique_server.cli"]
CLIENT = [sys.executable, "-m", "pratique_client.cli"]

# What a kill -9 looks for, in the command line of a process on that host.
VICTIMS = {
    "superlink": (COORDINATOR, "flower-superlink"),
    "superexec": (COORDINATOR, "flower-superexec"),
    "serverapp": (COORDINATOR, "flwr-serverapp"),
    "command": (COORDINATOR, "pratique_server.cli run"),
    "server": (COORDINATOR, "pratique_server.cli server start"),
    "proxy": (COORDINATOR, "nginx"),
    "machine of the coordinator": (COORDINATOR, ""),
    "daemon with its ClientApp": ("harbour", "pratique_client.cli start"),
    "supernode": ("harbour", "pratique_client.node"),
    "machine of a hospital": ("harbour", ""),
}

_RESTART_AFTER_S = 1.0  # the units wait 15
_LOOK_EVERY_S = 0.2

Result = subprocess.CompletedProcess[str]


@dataclass
class _Service:
    host: str
    command: Sequence[object]
    process: "subprocess.Popen[bytes] | None" = None
    ended_at: float = 0.0


class Federation:
    """One federation; ``close`` ends it.

    Args:
        folder: of everything.
        study: what all sites approve.
        data: site → its records.
        mounted: site → size in MB of the file system that its folder has to itself.
    """

    def __init__(
        self,
        folder: Path,
        study: Path,
        data: Mapping[str, Path],
        mounted: Mapping[str, int] | None = None,
    ) -> None:
        self.folder, self.study, self.sites = folder, study, tuple(data)
        self._mounted = mounted or {}
        self.network = Network([COORDINATOR, *data, STRANGER])
        self.server = folder / COORDINATOR
        self.wrapped: dict[str, Sequence[str]] = {}  # a command that a site's commands run under
        self._services: dict[str, _Service] = {}
        self._stop = threading.Event()
        try:
            self._deploy(data)
        except BaseException:
            self.close()
            raise
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def home(self, name: str) -> Path:
        """Return a site's folder: inside a file system of its own where it has one."""
        return self.folder / name / "site" if name in self._mounted else self.folder / name

    def on(self, host: str, *command: object, timeout_s: float = 120) -> Result:
        """Run a command on a host and wait for its end."""
        return subprocess.run(
            self.network.command(host, command), capture_output=True, text=True, check=False,
            timeout=timeout_s, env=_environment(),
        )  # fmt: skip

    def pratique(self, *arguments: object) -> str:
        return done(self.on(COORDINATOR, *PRATIQUE, *arguments))

    def client(self, name: str, *arguments: object) -> str:
        return done(self.on(name, *CLIENT, *arguments))

    def _deploy(self, data: Mapping[str, Path]) -> None:
        if self._mounted:
            # Each host's command has its own list of mounts; what is unmounted here must be there.
            _call("mount", "--bind", self.folder, self.folder)
            _call("mount", "--make-shared", self.folder)
        self.pratique("server", "init", self.server, "--host", COORDINATOR)
        for name, size_mb in self._mounted.items():
            (self.folder / name).mkdir()
            with self._image(name).open("wb") as image:
                image.truncate(size_mb * 1_000_000)
            _call("mkfs.ext4", "-q", self._image(name))
            self.mount(name)
        self.serve("server", COORDINATOR, [*PRATIQUE, "server", "start", self.server])
        self.wait_for("server", "serving on")
        self._start_proxy()
        for name, path in data.items():
            invitation = self.folder / f"{name}.invitation.json"
            self.pratique("server", "invite", self.server, name, "--out", invitation)
            folder = self.home(name)
            self.client(name, "init", invitation, "--folder", folder, "--data", path, "--simulated")
            told = fingerprint((folder / "site.pub").read_text().strip())
            self.pratique("server", "accept", self.server, folder / "request.json",
                          "--fingerprint", told)  # fmt: skip
        for name in data:
            self.client(name, "approve", self.study, "--site", self.home(name), "--yes",
                        "--sites", self.server / "sites.toml")  # fmt: skip
            self.start_daemon(name)

    def _image(self, name: str) -> Path:
        return self.folder / f"{name}.img"

    def mount(self, name: str) -> None:
        """Mount a site's own file system, which has errors behind it or not."""
        _call("fsck.ext4", "-p", self._image(name), allowed=(0, 1))
        _call("mount", "-o", "loop", self._image(name), self.folder / name)

    def unmount(self, name: str) -> None:
        _call("umount", self.folder / name)

    def start_daemon(self, name: str) -> None:
        self.serve(name, name, [*self.wrapped.get(name, ()), *CLIENT, "start", self.home(name)])

    def _start_proxy(self) -> None:
        home = self.folder / "nginx"
        home.mkdir()
        paths = "".join(
            f"{kind}_temp_path {home}/{kind}; "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "whole.conf").write_text(
            f"user root; daemon off; worker_processes 1; pid {home}/pid; "
            f"error_log {home}/error.log;\nevents {{}}\n"
            f"http {{ access_log {home}/access.log; {paths}\ninclude {self.server}/nginx.conf; }}\n"
        )
        self.serve("proxy", COORDINATOR, ["nginx", "-p", home, "-c", home / "whole.conf"])

    def serve(self, name: str, host: str, command: Sequence[object]) -> None:
        """Start a service that is started again whenever it ends."""
        service = _Service(host, command)
        self._spawn(name, service)
        self._services[name] = service

    def stop(self, name: str) -> None:
        """Stop a service as a person does, for good."""
        process = self._services.pop(name).process
        assert process is not None
        process.terminate()
        process.wait(60)

    def forget(self, name: str) -> None:
        """Keep a service alive no longer."""
        self._services.pop(name)

    def reload_proxy(self) -> None:
        """Have nginx read its certificate again."""
        home = self.folder / "nginx"
        done(self.on(COORDINATOR, "nginx", "-p", home, "-c", home / "whole.conf", "-s", "reload"))

    def connected(self) -> list[str]:
        """Return the sites whose SuperNodes the coordinator sees."""
        shown = json.loads(self.pratique("server", "sites", self.server, "--json"))
        return sorted(site["site"] for site in shown if site["connected"])

    def checks(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what ``pratique-client check`` finds at a site."""
        command = [*self.wrapped.get(name, ()), *CLIENT, "check", self.home(name), "--json"]
        shown = self.on(name, *command)
        assert "Traceback" not in shown.stdout + shown.stderr
        return {check["check"]: check for check in json.loads(shown.stdout)["checks"]}

    def _spawn(self, name: str, service: _Service) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            service.process = subprocess.Popen(
                self.network.command(service.host, service.command), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env=_environment(), start_new_session=True,
            )  # fmt: skip

    def _keep(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            for name, service in list(self._services.items()):
                if service.process is None or service.process.poll() is None:
                    continue
                if not service.ended_at:
                    service.ended_at = time.monotonic()
                elif time.monotonic() > service.ended_at + _RESTART_AFTER_S:
                    service.ended_at = 0.0
                    self._spawn(name, service)

    def wait_for(self, name: str, text: str, timeout_s: float = 120) -> None:
        path = self.folder / f"{name}.out"
        wait(lambda: text in path.read_text(), f"{text} is not in {path}", timeout_s)

    def kill(self, victim: str) -> int:
        """Kill -9 one of VICTIMS; return how many processes that were."""
        return self.network.kill(*VICTIMS[victim])

    def start_run(self, *options: object) -> "subprocess.Popen[str]":
        """Start ``pratique run`` with the study, or with other options instead."""
        command = [*PRATIQUE, "run", *(options or (self.study,)), "--server", self.server]
        return subprocess.Popen(
            self.network.command(COORDINATOR, command), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=_environment(), start_new_session=True,
        )  # fmt: skip

    def runs(self) -> list[str]:
        """Return the names of all runs, the last one last."""
        folder = self.server / "runs"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def events(self, run: str) -> list[dict[str, Any]]:
        path = self.server / "runs" / run / "events.jsonl"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]  # not what is being written now
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for_event(
        self, run: "subprocess.Popen[str]", known: set[str], timeout_s: float = 300, **wanted: Any
    ) -> str:
        """Wait for an event of a run that is not known yet, and return the run's name."""
        name = ""

        def seen() -> bool:
            nonlocal name
            assert run.poll() is None, run.stdout.read()  # type: ignore[union-attr]
            new = [run_name for run_name in self.runs() if run_name not in known]
            name = new[-1] if new else ""
            return any(wanted.items() <= event.items() for event in self.events(name))

        wait(seen, f"no {wanted} in the run's events", timeout_s)
        return name

    def result(self, run: str) -> tuple[Path, dict[str, Any]]:
        """Return the bundle or refusal of a run, verified, and its report."""
        (path,) = (
            path
            for kind in ("bundle", "refusal")
            if (path := self.server / "runs" / run / kind).exists()
        )
        invitation = json.loads((self.folder / f"{self.sites[0]}.invitation.json").read_text())
        trust = self.folder / "trust.toml"
        trust.write_text(
            (self.server / "sites.toml").read_text()
            + f'coordinator = "{invitation["invitation"]["coordinator"]}"\n'
        )
        assert "signed" in self.pratique("verify", path, "--trust", trust)
        return path, json.loads((path / "report.json").read_text())

    def ledger(self, name: str) -> list[dict[str, Any]]:
        """Return a site's entries; the command fails if the chain is broken."""
        shown = json.loads(self.client(name, "ledger", self.home(name), "--json"))
        entries: list[dict[str, Any]] = shown["entries"]
        return entries

    def close(self) -> None:
        self._stop.set()
        self.network.close()
        for name in self._mounted:
            if (self.folder / name).is_mount():
                _call("umount", "-l", self.folder / name)
        if self._mounted:
            _call("umount", "-l", self.folder)


def wait(wanted: Callable[[], bool], problem: str, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if wanted():
            return
        time.sleep(0.05)
    raise AssertionError(problem)


def _call(*command: object, allowed: Sequence[int] = (0,)) -> None:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False,
        env=_environment(), timeout=60,
    )  # fmt: skip
    assert result.returncode in allowed, f"{command}: {result.stdout}{result.stderr}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}


def done(result: Result) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
