"""``pratique-client start``: a SuperNode as a child process, and our executor in this one."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType

from pratique_client.site import Site
from pratique_common.console import log_to_file
from pratique_common.errors import FederationError
from pratique_common.flower_settings import QUIET_ENVIRONMENT

_STOP_TIMEOUT_S = 8.0


def run_daemon(site: Site) -> None:
    """Serve the coordinator until SIGTERM or Ctrl-C.

    Raises:
        FederationError: the SuperNode ended by itself.
    """
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log_to_file(site.log_file)
    secret_file = site.folder / "executor.secret"
    _write_private(secret_file, secrets.token_bytes(32))
    port = _free_port()
    os.environ.update(QUIET_ENVIRONMENT, FLWR_HOME=str(site.subfolder("flower")))
    with (site.folder / "supernode.log").open("ab") as node_log:
        node = subprocess.Popen(
            _node_command(site, port), stdout=node_log, stderr=node_log, stdin=subprocess.DEVNULL
        )
        try:
            # Imported here: torch and Opacus take seconds, during which the SuperNode connects.
            from pratique_client.executor import Executor, read_secret

            executor = Executor(site, f"127.0.0.1:{port}", read_secret(secret_file))
            executor.run(lambda: stop.is_set() or node.poll() is not None)
        finally:
            _stop(node)
    if not stop.is_set():
        raise FederationError(
            f"the SuperNode of {site.name} ended by itself; its log is {site.folder}/supernode.log"
        )


def _node_command(site: Site, port: int) -> list[str]:
    coordinator = site.settings.coordinator
    encryption = (
        ["--insecure"]
        if coordinator.root_certificates is None
        else ["--root-certificates", str(site.folder / coordinator.root_certificates)]
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
