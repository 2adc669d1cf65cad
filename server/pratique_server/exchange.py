"""Ask all sites the same thing and collect their answers within a time limit.

Flower's own ``send_and_receive`` polls every 3 s; this loop polls often and never waits for ever.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from pratique_common.errors import FederationError
from pratique_common.messages import OK, Reply, unpack

POLL_S = 0.05
_TTL_MARGIN_S = 60.0

TIMEOUT = "timeout"
UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Failure:
    """Why a node gave no answer; ``site`` is what it calls itself, if it said so."""

    code: str
    site: str = ""


@dataclass(frozen=True)
class Answers:
    """What came back: replies with their records, and for every other node why not."""

    replies: dict[int, tuple[Reply, RecordDict]]
    failed: dict[int, Failure]


def exchange(
    grid: Grid,
    requests: Mapping[int, RecordDict],
    message_type: str,
    *,
    timeout_s: float,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.monotonic,
) -> Answers:
    """Send one request a node and wait for the replies.

    Args:
        grid: Flower's connection to the nodes.
        requests: node id → content.
        message_type: such as ``train.step``.
        timeout_s: nodes that have not replied by then have failed with ``timeout``.
        poll_s: how often to ask for replies.
        clock: seconds, for tests.
    """
    messages = [
        Message(content, dst_node_id=node, message_type=message_type, ttl=timeout_s + _TTL_MARGIN_S)
        for node, content in requests.items()
    ]
    waiting = set(grid.push_messages(messages))
    end = clock() + timeout_s
    # Errors made by the SuperLink come from node 1: only the id that they reply to tells whose.
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    replies: dict[int, tuple[Reply, RecordDict]] = {}
    failed: dict[int, Failure] = {}
    while waiting and clock() < end:
        for message in grid.pull_messages(waiting):
            waiting.discard(message.metadata.reply_to_message_id)
            node = node_of[message.metadata.reply_to_message_id]
            _sort_reply(message, node, replies, failed)
        if waiting:
            time.sleep(poll_s)
    failed.update({node_of[message_id]: Failure(TIMEOUT) for message_id in waiting})
    failed.update({node: Failure(UNREACHABLE) for node in requests if node not in replies | failed})
    return Answers(replies, failed)


def _sort_reply(
    message: Message,
    node: int,
    replies: dict[int, tuple[Reply, RecordDict]],
    failed: dict[int, Failure],
) -> None:
    if message.has_error():
        failed[node] = Failure(UNREACHABLE)
        return
    try:
        reply = unpack(message.content, Reply)
    except FederationError as error:
        failed[node] = Failure(error.code)
        return
    if reply.code == OK:
        replies[node] = (reply, message.content)
    else:
        failed[node] = Failure(reply.code, reply.site)
