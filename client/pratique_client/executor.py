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
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp as flower

from pratique_client.app import SITE_FILE_SETTING, app
from pratique_client.approval import approved_digests, require
from pratique_client.health import signs_of
from pratique_client.signs import EXECUTOR
from pratique_client.site import SITE_FILE, Site
from pratique_common.errors import PratiqueError, describe_without_values
from pratique_common.flower_settings import shorten_object_waits
from pratique_common.messages import Reply, pack
from pratique_common.thin_bundle import thin_bundle

POLL_S = 0.05
HEARTBEAT_INTERVAL_S = 10.0
"""Flower gives a task up after twice its own interval of 30 s."""

_TASK_TRIES = 6  # over some five seconds

SENDING_S = 5.0
"""How long after an answer the SuperNode may still be sending it."""

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
        self._signs = signs_of(site)
        self._answered: float | None = None
        shorten_object_waits()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Poll for tasks and answer them."""
        client = self._client(
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=self._secret, protected_methods=frozenset({_ACQUIRE_TASK})
            ),
            retry=False,  # this loop asks again by itself, and must see that it should stop
        )
        log.info("ready for tasks")
        while not should_stop():
            self._signs.give(EXECUTOR)
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
        heartbeat = TaskHeartbeat(lambda: self._go_on(client))
        try:
            message, context, _, bundle = flower.pull_task_input(client)
            if self._is_approved(bundle.content):
                context.node_config[SITE_FILE_SETTING] = str(self._site.folder / SITE_FILE)
                reply = app(message, context)
            else:
                log.warning("refused: a bundle of no approved study")
                self._site.security.record(
                    "refused",
                    code="study_not_approved",
                    question="bundle",
                    bundle=hashlib.sha256(bundle.content).hexdigest(),
                )
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
            self._answered = time.monotonic()

    @property
    def sending_s(self) -> float:
        """For how many seconds the SuperNode should be left to send the last answer."""
        if self._answered is None:
            return 0.0
        return max(0.0, self._answered + SENDING_S - time.monotonic())

    def _go_on(self, client: RuntimeHttpClient) -> None:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        self._signs.give(EXECUTOR)

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

    def _client(self, *interceptors: Any, retry: bool = True) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # the SuperNode's own API on the loopback address of this machine
            root_certificates=None,
            interceptors=list(interceptors),
            retry_invoker=task_retries() if retry else None,
        )


def task_retries() -> RetryInvoker:
    """Ask the SuperNode again where it did not answer; any answer ends the task at most.

    Flower's own invoker interrupts the process at the answer that a task has ended, as the
    SuperNode ends those of a run that its coordinator lost: right for one-task processes.
    """
    return RetryInvoker(
        wait_gen_factory=lambda: exponential(max_delay=1),
        recoverable_exceptions=(httpx.TransportError,),
        max_tries=_TASK_TRIES,
        max_time=None,
    )


def read_secret(path: Path) -> bytes:
    """Return the secret that the SuperNode and this executor share."""
    return path.read_bytes()
