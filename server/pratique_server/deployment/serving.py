"""``pratique server start``: the SuperLink behind the proxy, until it is told to stop."""

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType

from pratique_common.errors import FederationError
from pratique_server.deployment.folder import CA, LINK_CERTIFICATE, LINK_KEY, Server
from pratique_server.deployment.joining import control_of, reconcile
from pratique_server.processes import Processes
from pratique_server.superlink import Encryption, SuperLink

JOBS = "runs"
_LOOK_EVERY_S = 0.5


def superlink_of(server: Server) -> SuperLink:
    """Return the SuperLink of a coordinator's folder."""
    folder = server.folder
    return SuperLink(
        folder,
        server.subfolder(JOBS),
        port=server.settings.superlink_port,
        health_port=server.settings.health_port,
        encryption=Encryption(folder / LINK_CERTIFICATE, folder / LINK_KEY, folder / CA),
    )


def serve(server: Server, ready: Callable[[], None]) -> None:
    """Serve hospitals until SIGTERM or Ctrl-C, then stop everything.

    Args:
        ready: is called once hospitals can connect.

    Raises:
        FederationError: a server runs in this folder already, or the SuperLink does not serve, or
            ended by itself.
    """
    with _only_one(server):
        _serve(server, ready)


@contextmanager
def _only_one(server: Server) -> Iterator[None]:
    """Hold the folder's lock, which the system gives back however this process ends."""
    with (server.folder / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FederationError(
                f"a server runs in {server.folder} already; stop that one first",
                code="server_running",
            ) from None
        yield


def _serve(server: Server, ready: Callable[[], None]) -> None:
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    previous = {n: signal.signal(n, on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Processes() as processes:
            link = superlink_of(server)
            link.start(processes.spawn)
            link.wait_until_healthy()
            with control_of(server) as control:
                reconcile(server, control)
                # A run that was under way went with the server before this one.
                for lost in control.unfinished_runs():
                    control.stop(lost)
            server.security.record("started", version=version("pratique"))
            ready()
            while not stop.wait(_LOOK_EVERY_S):
                link.require_alive()
            server.security.record("stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
