"""An in-process Grid: the same ServerApp and ClientApp code without sockets or processes."""

import time
import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Runs each message at once; every message makes the round trip over the wire format."""

    def __init__(self, client_app: ClientApp, site_files: list[str]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._app = client_app
        self._contexts = {
            100 + i: Context(
                run_id=1,
                node_id=100 + i,
                node_config={"site-file": site_file},
                state=RecordDict(),
                run_config={},
            )
            for i, site_file in enumerate(site_files)
        }
        self._replies: dict[str, Message] = {}
        self.silent: set[int] = set()
        """Nodes that never answer."""
        self.sent: list[bytes] = []
        """Everything that left a site, as bytes on the wire."""

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message_id = uuid.uuid4().hex
            ids.append(message_id)
            node = message.metadata.dst_node_id
            if node in self.silent:
                continue
            reply = self._app(_round_trip(message)[0], self._contexts[node])
            reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self._replies[message_id], wire = _round_trip(reply)
            self.sent.append(wire)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        ids = self.push_messages(messages)
        time.sleep(0)
        return self.pull_messages(ids)


def _round_trip(message: Message) -> tuple[Message, bytes]:
    wire = message_to_proto(message).SerializeToString()
    return message_from_proto(MessageProto.FromString(wire)), wire
