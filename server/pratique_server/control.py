"""The SuperLink's Control API on the loopback address: sites' keys, runs, and how a run goes.

It asks nobody for a password, so nothing but this machine may reach it.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from pratique_common.errors import FederationError
from pratique_common.flower_settings import no_proxy_at_home
from pratique_common.study import StudySpec
from pratique_common.thin_bundle import JOB_KEY, thin_bundle

_FINISHED, _ONLINE = "finished", "online"
_UNREGISTERED = "unregistered"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Node:
    """A registered SuperNode: its public key in PEM, and whether it is connected."""

    node_id: int
    public_key: bytes
    connected: bool


class Control:
    """Asks one SuperLink.

    Args:
        address: host:port on the loopback address.
        ca: certificate of its CA; None without encryption.
        remedy: what a person does when it does not answer.
    """

    def __init__(self, address: str, ca: Path | None, *, remedy: str) -> None:
        self._remedy = remedy
        os.environ.update(no_proxy_at_home(os.environ))
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=ca is None,  # the loopback address of this machine
            root_certificates=None if ca is None else ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A SuperLink that is stopped waits for open connections.
        self._client.close()

    def _ask(self, question: Callable[[], Result]) -> Result:
        try:
            return question()
        except httpx.HTTPError as error:
            raise FederationError(
                f"the SuperLink did not answer ({type(error).__name__}); {self._remedy}",
                code="superlink_unreachable",
            ) from None

    def submit(self, study: StudySpec, job: str) -> int:
        """Submit the study's thin bundle and return the run's id.

        Raises:
            FederationError: the SuperLink does not take it.
        """
        bundle = thin_bundle(study)
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto({JOB_KEY: job})
        )
        return int(self._ask(lambda: self._client.StartRun(request)).run_id)

    def has_finished(self, run_id: int) -> bool:
        """Return whether Flower counts the run as finished, however it ended.

        Raises:
            FederationError: the SuperLink does not answer.
        """
        request = ListRunsRequest(run_id=run_id)
        runs = self._ask(lambda: self._client.ListRuns(request)).run_dict
        return run_id in runs and runs[run_id].status.status == _FINISHED

    def unfinished_runs(self) -> list[int]:
        """Return the ids of runs that are under way."""
        runs = self._ask(lambda: self._client.ListRuns(ListRunsRequest())).run_dict
        return sorted(run_id for run_id, run in runs.items() if run.status.status != _FINISHED)

    def stop(self, run_id: int) -> None:
        """Stop a run; one that has finished stays as it is."""
        try:
            self._client.StopRun(StopRunRequest(run_id=run_id))
        except httpx.HTTPError:
            return  # it had finished, or its SuperLink has: nothing runs without that

    def nodes(self) -> list[Node]:
        """Return the registered SuperNodes."""
        reply = self._ask(lambda: self._client.ListNodes(ListNodesRequest()))
        return [
            Node(info.node_id, info.public_key, info.status == _ONLINE)
            for info in reply.nodes_info
            if info.status != _UNREGISTERED
        ]

    def register(self, site: str, public_key: bytes) -> None:
        """Let the SuperNode with this key connect; one that is known already stays as it is."""
        if all(node.public_key != public_key for node in self.nodes()):
            request = RegisterNodeRequest(public_key=public_key, name=site)
            self._ask(lambda: self._client.RegisterNode(request))

    def unregister(self, public_key: bytes) -> None:
        """Turn the SuperNode with this key away from now on."""
        for node in self.nodes():
            if node.public_key == public_key:
                request = UnregisterNodeRequest(node_id=node.node_id)
                self._ask(lambda: self._client.UnregisterNode(request))  # noqa: B023
