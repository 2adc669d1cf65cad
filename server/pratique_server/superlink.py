"""A SuperLink on the loopback address, and the SuperExec that starts its ServerApps."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pratique_common.errors import FederationError
from pratique_common.flower_settings import QUIET_ENVIRONMENT, no_proxy_at_home
from pratique_server.job import HOME_VARIABLE

_HEALTH_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 1.0
_PROBE_EVERY_S = 0.1
_TASK_POLL_S = "0.05"
_LOOPBACK = "127.0.0.1"
_SECRET_BYTES = 32


def free_port() -> int:
    """Return a port that is free on the loopback address now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Encryption:
    """PEM files with which a SuperLink serves over TLS and demands hospitals' keys."""

    certificate: Path
    key: Path
    ca: Path


class SuperLink:
    """The Flower server processes, reachable from this machine only.

    ServerApps are started by a SuperExec that shares a secret with the SuperLink: without it nobody
    on this machine can take a run's task, and with it the run's place, over the Runtime API.

    Args:
        home: folder of logs, database, secret and Flower's own files.
        jobs: folder of jobs, in which the ServerApp finds its own by name.
        port, health_port: on the loopback address.
        encryption: None for a simulation, which keeps its state in memory as well.
    """

    def __init__(
        self, home: Path, jobs: Path, *, port: int, health_port: int, encryption: Encryption | None
    ) -> None:
        self._home, self._jobs, self._encryption = home, jobs, encryption
        self._bin = Path(sys.executable).parent
        self.address = f"{_LOOPBACK}:{port}"
        self._health_address = f"{_LOOPBACK}:{health_port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def log_file(self) -> Path:
        """Output of the SuperLink and its ServerApp."""
        return self._home / "superlink.log"

    @property
    def _secret_file(self) -> Path:
        return self._home / "superexec.secret"

    def start(self, spawn: Callable[..., "subprocess.Popen[bytes]"]) -> None:
        """Start the processes; ``wait_until_healthy`` tells when they serve."""
        self._secret_file.unlink(missing_ok=True)
        descriptor = os.open(self._secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        environment = {
            **os.environ,
            **QUIET_ENVIRONMENT,
            **no_proxy_at_home(os.environ),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _TASK_POLL_S,
            "FLWR_HOME": str(self._home / "flower"),
            HOME_VARIABLE: str(self._jobs),
            # Flower starts its own helpers by name.
            "PATH": os.pathsep.join([str(self._bin), os.environ.get("PATH", os.defpath)]),
        }
        for command in (self._link_command(), self._exec_command()):
            process = spawn(command, environment=environment, log_file=self.log_file)
            self._processes.append(process)

    def _link_command(self) -> list[str]:
        if self._encryption is None:
            safety = ["--insecure"]
        else:
            safety = [
                "--ssl-certfile", str(self._encryption.certificate),
                "--ssl-keyfile", str(self._encryption.key),
                "--ssl-ca-certfile", str(self._encryption.ca),
                "--enable-supernode-auth",
                "--database", str(self._home / "superlink.db"),
            ]  # fmt: skip
        return [
            str(self._bin / "flower-superlink"),
            *safety,
            "--host", _LOOPBACK,
            "--port", self.address.rpartition(":")[2],
            "--health-server-address", self._health_address,
            "--isolation", "process",
            "--superexec-auth-secret-file", str(self._secret_file),
            "--disable-runtime-dependency-installation",
        ]  # fmt: skip

    def _exec_command(self) -> list[str]:
        safety = ["--insecure"]
        if self._encryption is not None:
            safety = ["--root-certificates", str(self._encryption.ca)]
        return [
            str(self._bin / "flower-superexec"),
            *safety,
            "--runtime-api-address", self.address,
            "--superexec-auth-secret-file", str(self._secret_file),
        ]  # fmt: skip

    def wait_until_healthy(self) -> None:
        """Ask the SuperLink's health address until it says SERVING.

        Raises:
            FederationError: it ended, or does not serve in time.
        """
        end = time.monotonic() + _HEALTH_TIMEOUT_S
        with grpc.insecure_channel(self._health_address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < end:
                self.require_alive()
                try:
                    reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass  # not listening yet
                time.sleep(_PROBE_EVERY_S)
        raise FederationError(f"the SuperLink does not serve; see {self.log_file}")

    def require_alive(self) -> None:
        """Raise FederationError if one of the processes has ended."""
        if any(process.poll() is not None for process in self._processes):
            raise FederationError(f"the SuperLink ended by itself; see {self.log_file}")
