"""The standard gRPC health service on the loopback address, and its probe.

Each part of a program is a service of its own; the empty name stands for all of them. As a program,
``python -m pratique_common.health 127.0.0.1:9095`` ends with 0 if everything is well: the health
check of an image. https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pratique_common.errors import UsageError

_PROBE_TIMEOUT_S = 5.0
_THREADS = 2

Look = Callable[[], Mapping[str, bool]]
"""Returns part → whether it is well."""


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def __init__(self, look: Look) -> None:
        self._look = look

    def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        parts = self._look()
        if request.service and request.service not in parts:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such part")
        well = parts[request.service] if request.service else all(parts.values())
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if well else status.NOT_SERVING)


def serve_health(address: str, look: Look) -> grpc.Server:
    """Serve until ``stop`` of what is returned.

    Args:
        address: host:port on the loopback address.
        look: is called for every question.

    Raises:
        UsageError: not on the loopback address, or in use.
    """
    require_loopback(address, "--health")
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="health"),
        options=[("grpc.so_reuseport", 0)],  # two daemons on one port would answer by turns
    )
    health_pb2_grpc.add_HealthServicer_to_server(_Servicer(look), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise UsageError(f"--health {address}: the address is in use; give another") from None
    server.start()
    return server


def require_loopback(address: str, option: str) -> tuple[str, int]:
    """Return host and port of an address of this machine alone.

    Raises:
        UsageError: it is none.
    """
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "[::1]", "localhost") or not port.isdecimal():
        raise UsageError(f"{option} {address}: write 127.0.0.1:PORT; it has no authentication")
    return host.strip("[]"), int(port)


def probe(address: str, service: str = "") -> bool:
    """Return whether a health service says that a part is well."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_PROBE_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if probe(*sys.argv[1:3]) else 1)
