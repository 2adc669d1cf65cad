"""Flower's SuperNode, changed in four things; ``python -m pratique_client.node`` runs it.

The stock SuperNode sleeps 3 s when idle and .5 s before a reply, which makes a round take seconds:
ours sleeps less at first, whenever a message came or its reply was sent.
It promises a heartbeat every 30 s, and after a crash the SuperLink turns the next one away until
two of them are missing: here that takes 20 s instead of 60.
When a run ends while a message of it is on its way, as a coordinator's crash ends it, the stock
SuperNode leaves the message's task open. The executor then waits two hours for the rest; or, if it
has all of it, answers, and that answer is taken for the next message's, whose own waits for the one
after: the hospital is one answer late from then on. Ours ends such a task, and its answer.
And an error that it does not try again, as that of an expired certificate, ends its work but not
its process, which its local server keeps: nobody would start it again. Ours ends.
Contract tests hold the pinned Flower to all of it.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import flwr.supercore.heartbeat as stock_heartbeat
import flwr.supernode.fleet_http_connection as stock_connection
import flwr.supernode.start_client_internal as stock
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from pratique_client.signs import NODE, Signs, signs_of_environment
from pratique_common.flower_settings import shorten_object_waits

FIRST_WAITS_S = {3: 0.2, 0.5: 0.05}
"""Stock wait → ours at first: for a message (a small request to the coordinator), for a reply."""

_SHARE_OF_WAITING = 0.05
"""Waits grow with what was waited, up to the stock ones: whatever takes long is noticed 5 % later,
and a daemon without work asks every 3 s and not five times a second."""

HEARTBEAT_INTERVAL_S = 10
"""The least that a SuperLink takes; heartbeats are sent twice as often."""


class Waits:
    """In place of the stock SuperNode's ``time.sleep``."""

    def __init__(self) -> None:
        self._since: dict[float, float] = {}

    def sleep(self, seconds: float) -> None:
        """Wait, for one of the two stock waits a share of what was waited since ``begin``."""
        if first := FIRST_WAITS_S.get(seconds):
            now = time.monotonic()
            waited_s = now - self._since.setdefault(seconds, now)
            seconds = min(seconds, max(first, _SHARE_OF_WAITING * waited_s))
        time.sleep(seconds)

    def begin(self) -> None:
        """Begin with short waits again: a message came, or its reply was sent."""
        self._since.clear()


def pull_message(*, stock_pull: Callable[..., int | None], **given: Any) -> int | None:
    """Pull a message by the stock function; when its run has ended, do what a failed pull does.

    Args:
        stock_pull: ``_pull_and_store_message``.
        given: what it is given, by name.
    """
    state, objects, receive = given["state"], given["object_store"], given["receive"]

    def receive_next() -> Any:
        received = receive()
        # One message at a time: an answer that was there before this one has nobody to go to.
        for reply in state.get_messages_legacy(is_reply=True):
            state.delete_messages(
                message_ids=[reply.metadata.message_id, reply.metadata.reply_to_message_id]
            )
            objects.delete(reply.metadata.message_id)
        return received

    given["receive"] = receive_next
    for name in ("pull_object", "confirm_message_received"):
        given[name] = _failing_where_a_run_ended(given[name])
    return stock_pull(**given)


def _failing_where_a_run_ended(ask: Callable[..., Any]) -> Callable[..., Any]:
    def asking(*arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except RunNotRunningException:
            raise RuntimeError("the run ended while a message of it was on its way") from None

    return asking


def give_sign_at_every_answer(signs: Signs) -> None:
    """Note when the coordinator last answered: the SuperNode asks it every 3 s, or more often."""
    for name in ("PullMessages", "SendNodeHeartbeat"):
        ask = getattr(FleetHttpClient, name)

        def ask_and_note(
            client: FleetHttpClient, request: Any, ask: Callable[..., Any] = ask
        ) -> Any:
            answer = ask(client, request)
            signs.give(NODE)
            return answer

        setattr(FleetHttpClient, name, ask_and_note)


def main() -> None:
    """Run the SuperNode until it is stopped."""
    if signs := signs_of_environment():
        give_sign_at_every_answer(signs)
    waits, push_messages = Waits(), stock._push_messages
    stock._pull_and_store_message = partial(pull_message, stock_pull=stock._pull_and_store_message)

    def push(*arguments: Any, **options: Any) -> None:
        waits.begin()
        push_messages(*arguments, **options)
        waits.begin()

    stock._push_messages = push
    stock.time = SimpleNamespace(  # type: ignore[assignment,attr-defined]
        sleep=waits.sleep, time=time.time, monotonic=time.monotonic
    )
    for module in (stock_heartbeat, stock_connection):
        module.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_INTERVAL_S  # type: ignore[attr-defined]
    shorten_object_waits()
    flower_supernode()
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    main()
