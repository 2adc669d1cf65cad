"""``pratique-client start``: a SuperNode as a child process, and our executor in this one."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from types import FrameType

from pratique_client.connection import proxy_environment
from pratique_client.health import look, signs_of
from pratique_client.signs import SIGNS_VARIABLE
from pratique_client.site import Site
from pratique_common.console import log_to_file
from pratique_common.errors import FederationError
from pratique_common.flower_settings import QUIET_ENVIRONMENT
from pratique_common.health import serve_health
from pratique_common.rotated_files import rotate_output
from pratique_common.tied import tied

_STOP_TIMEOUT_S = 8.0


def run_daemon(site: Site, *, health: str | None = None, metrics: str | None = None) -> None:
    """Serve the coordinator until SIGTERM or Ctrl-C; an answer that is being made is finished.

    Args:
        site: whose daemon this is.
        health: where to serve the gRPC health service: host:port on the loopback address.
        metrics: where to serve metrics in Prometheus text, as well.

    Raises:
        FederationError: the SuperNode ended by itself.
        UsageError: an address that is in use, or not of this machine alone.
    """
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log_to_file(site.log_file)
    signs = site.subfolder("signs")
    signs_of(site).forget()
    secret_file = site.folder / "executor.secret"
    _write_private(secret_file, secrets.token_bytes(32))
    port = _free_port()
    os.environ.update(QUIET_ENVIRONMENT, FLWR_HOME=str(site.subfolder("flower")))
    os.environ.update(proxy_environment(site.settings.coordinator, os.environ))
    os.environ[SIGNS_VARIABLE] = str(signs)
    with _served(site, health, metrics):
        node = subprocess.Popen(
            tied(_node_command(site, port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        node_log = rotate_output(node, site.folder / "supernode.log")
        site.security.record("started", version=version("pratique"))
        try:
            # Imported here: torch and Opacus take seconds, during which the SuperNode connects.
            from pratique_client.executor import Executor, read_secret

            executor = Executor(site, f"127.0.0.1:{port}", read_secret(secret_file))
            executor.run(lambda: stop.is_set() or node.poll() is not None)
            if node.poll() is None:
                time.sleep(executor.sending_s)
        finally:
            _stop(node)
            node_log.join(_STOP_TIMEOUT_S)
            site.security.record("stopped")
    if not stop.is_set():
        raise FederationError(
            f"the SuperNode of {site.name} ended by itself; run 'pratique-client check "
            f"{site.folder}', and see {site.folder}/supernode.log"
        )


@contextmanager
def _served(site: Site, health: str | None, metrics: str | None) -> Iterator[None]:
    with ExitStack() as stack:
        if health is not None:
            server = serve_health(health, lambda: {part.name: part.well for part in look(site)})
            stack.callback(server.stop, grace=None)
        if metrics is not None:
            from pratique_client.metrics import SiteMetrics, serve_metrics

            stack.callback(serve_metrics(metrics, SiteMetrics(site)))
        yield


def _node_command(site: Site, port: int) -> list[str]:
    coordinator = site.settings.coordinator
    encryption = (
        ["--insecure"]
        if coordinator.root_certificates is None
        else [
            "--root-certificates",
            str(site.folder / coordinator.root_certificates),
            "--auth-supernode-private-key",
            str(site.folder / coordinator.node_key),
        ]
    )
    return [
        sys.executable,
        "-m",
        "pratique_client.node",
        *encryption,
        "--superlink",
        coordinator.address,
        "--isolation",
        "process",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--superexec-auth-secret-file",
        str(site.folder / "executor.secret"),
    ]


def _write_private(path: "os.PathLike[str]", content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
