"""The hospital's own executor: a long-lived process that answers a SuperNode's tasks.

It holds the bundle of each message against the bundles of approved studies, byte for byte by its
SHA-256, never unpacks it and always runs the installed ClientApp in this process: torch is imported
once, state lives between messages and no fork ever copies a random state.

It stands on internals of Flower 1.41.0, which ``tests/client/test_flower_contract.py`` checks.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp as flower

from pratique_client.app import SITE_FILE_SETTING, app
from pratique_client.approval import approved_digests, require
from pratique_client.site import SITE_FILE, Site
from pratique_common.errors import PratiqueError, describe_without_values
from pratique_common.flower_settings import shorten_object_waits
from pratique_common.messages import Reply, pack
from pratique_common.thin_bundle import thin_bundle

POLL_S = 0.05
HEARTBEAT_INTERVAL_S = 10.0
"""Flower gives a task up after twice its own interval of 30 s."""

_CLIENT_APP_TASK = "flwr-clientapp"
_ACQUIRE_TASK = "/flwr.proto.Runtime/AcquireTask"

log = logging.getLogger("pratique.client")


class TaskHeartbeat:
    """Tells the SuperNode that a long task is still being worked on, until ``stop``.

    Most tasks end before the first heartbeat. Flower's own sender sends one at once, and when the
    task has ended meanwhile it interrupts the whole process: right for its one-task processes, and
    the end of a daemon. Here a heartbeat that is refused says nothing: if a task is truly lost, the
    coordinator's timeout notices.
    """

    def __init__(
        self, send: Callable[[], object], *, interval_s: float = HEARTBEAT_INTERVAL_S
    ) -> None:
        self._send, self._interval_s = send, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._send()
            except (httpx.HTTPError, RuntimeError) as error:  # a closed client is a RuntimeError
                log.info("a heartbeat was not taken: %s", type(error).__name__)

    def stop(self) -> None:
        """Send no more heartbeats; one that is on its way is not waited for."""
        self._stopped.set()


class Executor:
    """Answers the tasks of the SuperNode of one site until ``should_stop``."""

    def __init__(self, site: Site, runtime_address: str, secret: bytes) -> None:
        self._site = site
        self._address = runtime_address
        self._secret = secret
        shorten_object_waits()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Poll for tasks and answer them."""
        client = self._client(
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=self._secret, protected_methods=frozenset({_ACQUIRE_TASK})
            ),
        )
        log.info("ready for tasks")
        while not should_stop():
            try:
                task = client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=[_CLIENT_APP_TASK])
                )
            except httpx.HTTPError:
                time.sleep(POLL_S)
                continue
            if task.HasField("task") and task.token:
                self._answer(task.token)
            else:
                time.sleep(POLL_S)

    def _answer(self, token: str) -> None:
        client = self._client(
            RuntimeVersionHttpInterceptor(component_name=_CLIENT_APP_TASK),
            RuntimeTokenHttpInterceptor(token),
        )
        heartbeat = TaskHeartbeat(lambda: client.SendTaskHeartbeat(SendTaskHeartbeatRequest()))
        try:
            message, context, _, bundle = flower.pull_task_input(client)
            if self._is_approved(bundle.content):
                context.node_config[SITE_FILE_SETTING] = str(self._site.folder / SITE_FILE)
                reply = app(message, context)
            else:
                log.warning("refused: a bundle of no approved study")
                reply = Message(pack(Reply(code="study_not_approved")), reply_to=message)
            flower.push_message(client, reply, context)
            flower.push_task_output(
                client=client, context=context, sub_status=SubStatus.COMPLETED, details=""
            )
        except Exception as error:  # noqa: BLE001 - a daemon survives any message
            # The coordinator's timeout decides what a lost message means.
            log.warning("a message was lost: %s", describe_without_values(error))
        finally:
            heartbeat.stop()
            client.close()

    def _is_approved(self, bundle: bytes) -> bool:
        received = hashlib.sha256(bundle).hexdigest()
        for digest in approved_digests(self._site):
            try:
                study = require(self._site, digest).study
            except PratiqueError as error:
                log.warning("refused: %s", error)
                continue
            if hashlib.sha256(thin_bundle(study)).hexdigest() == received:
                return True
        return False

    def _client(self, *interceptors: Any) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # the SuperNode's own API on the loopback address of this machine
            root_certificates=None,
            interceptors=list(interceptors),
            retry_invoker=make_simple_http_retry_invoker(),
        )


def read_secret(path: Path) -> bytes:
    """Return the secret that the SuperNode and this executor share."""
    return path.read_bytes()
