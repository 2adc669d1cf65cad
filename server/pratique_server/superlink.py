"""A SuperLink on the loopback address: start, probe its health, submit a run, follow it."""

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pratique_common.errors import FederationError
from pratique_common.flower_settings import QUIET_ENVIRONMENT
from pratique_common.study import StudySpec
from pratique_common.thin_bundle import JOB_KEY, thin_bundle
from pratique_server.job import HOME_VARIABLE

_HEALTH_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 1.0
_PROBE_EVERY_S = 0.1
_FINISHED = "finished"
_TASK_POLL_S = "0.05"


def free_port() -> int:
    """Return a port that is free on the loopback address now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SuperLink:
    """The Flower server process of one run, reachable from this machine only."""

    def __init__(self, home: Path, bin_folder: Path) -> None:
        self._home = home
        self.address = f"127.0.0.1:{free_port()}"
        self._health_address = f"127.0.0.1:{free_port()}"
        self._command = [
            str(bin_folder / "flower-superlink"),
            "--insecure",
            "--host",
            "127.0.0.1",
            "--port",
            self.address.rpartition(":")[2],
            "--health-server-address",
            self._health_address,
            "--isolation",
            "subprocess",
            "--disable-runtime-dependency-installation",
        ]
        self._control: ControlHttpClient | None = None

    @property
    def log_file(self) -> Path:
        """Output of the SuperLink and its ServerApp."""
        return self._home / "superlink.log"

    def start(self, spawn: Callable[..., "subprocess.Popen[bytes]"]) -> None:
        """Start the process; ``wait_until_healthy`` tells when it serves."""
        environment = {
            **os.environ,
            **QUIET_ENVIRONMENT,
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _TASK_POLL_S,
            "FLWR_HOME": str(self._home / "flower"),
            HOME_VARIABLE: str(self._home),
            # Flower starts its own helpers by name.
            "PATH": os.pathsep.join([str(Path(self._command[0]).parent), os.environ["PATH"]]),
        }
        self.process = spawn(self._command, environment=environment, log_file=self.log_file)

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
        """Raise FederationError if the process has ended."""
        if self.process.poll() is not None:
            raise FederationError(f"the SuperLink ended by itself; see {self.log_file}")

    def submit(self, study: StudySpec, job: str) -> int:
        """Submit the study's thin bundle and return the run's id."""
        bundle = thin_bundle(study)
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto({JOB_KEY: job})
        )
        try:
            return int(self._client().StartRun(request).run_id)
        except httpx.HTTPError as error:
            raise FederationError(
                f"the SuperLink did not take the run ({type(error).__name__}); see {self.log_file}"
            ) from None

    def has_finished(self, run_id: int) -> bool:
        """Return whether Flower counts the run as finished, however it ended."""
        try:
            runs = self._client().ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except httpx.HTTPError:
            return False
        return run_id in runs and runs[run_id].status.status == _FINISHED

    def _client(self) -> ControlHttpClient:
        if self._control is None:
            self._control = ControlHttpClient.from_server_address(
                self.address,
                insecure=True,  # the loopback address of this machine
                root_certificates=None,
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
            )
        return self._control
