"""Messages whose run ends while they are on their way to a hospital."""

from functools import partial

import flwr.supernode.start_client_internal as supernode
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import Status
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from pratique_client.node import pull_message


class SuperLink:
    """What the stock SuperNode asks for, of one coordinator; its run may end at either step."""

    def __init__(self, state: NodeState, store: ObjectStore) -> None:
        self.state, self.store = state, store
        self.ends_at = ""
        self.sent: list[Message] = []
        self.taken: list[str] = []
        self.late: Message | None = None

    def receive(self) -> tuple[Message, ObjectTree]:
        if self.late is not None:
            answer(self.late, self.state, self.store)  # while the SuperNode waits for more
        content = RecordDict({"number": ConfigRecord({"value": len(self.sent)})})
        message = Message(content, dst_node_id=1, message_type="query")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.sent.append(message)
        return message, get_object_tree(message)

    def pull_object(self, _: int, object_id: str) -> bytes:
        if self.ends_at == "pull":
            raise RunNotRunningException
        return get_all_nested_objects(self.sent[-1])[object_id].deflate()

    def confirm(self, _: int, object_id: str) -> None:
        if self.ends_at == "confirm":
            answer(self.sent[-1], self.state, self.store)  # an executor that was quick
            raise RunNotRunningException

    def take(self, reply: Message, tree: ObjectTree, _: float) -> tuple[set[str], str]:
        self.taken.append(reply.metadata.reply_to_message_id)
        return set(), ""


def answer(message: Message, state: NodeState, store: ObjectStore) -> None:
    reply = Message(RecordDict(), reply_to=message)
    state.record_message_processing_start(message.metadata.message_id)
    state.record_message_processing_end(message.metadata.message_id)
    supernode._insert_message(reply, state, store)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("ends_at", ["pull", "confirm", "pull, and the answer is late"])
def test_a_run_that_ends_amid_a_message_leaves_nothing_open(
    ends_at: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stock SuperNode leaves its task open, and takes its answer for the next message's."""
    for name, value in {"_task_id": 3, "_run_id": 7, "_node_id": 2}.items():
        monkeypatch.setattr(TaskIdentity, name, value)  # of a message's sender
    objects = ObjectStoreFactory()
    state, store = NodeStateFactory(objects).state(), objects.store()
    state.set_node_id(1)
    run = Run.create_empty(7)
    state.store_run(run)
    link = SuperLink(state, store)
    stock = supernode._pull_and_store_message
    pull = partial(pull_message, stock_pull=stock) if ours else stock

    def pull_next() -> int | None:
        return pull(
            state=state, object_store=store, node_config={}, receive=link.receive,
            get_run=lambda _: run, get_fab=lambda *_: pytest.fail("a known run has its bundle"),
            pull_object=link.pull_object, confirm_message_received=link.confirm,
            trusted_entities=None,
        )  # fmt: skip

    link.ends_at, _, is_late = ends_at.partition(",")
    assert pull_next() is None
    assert len(state.get_tasks(statuses=[Status.PENDING])) == (0 if ours else 1)
    link.ends_at, link.late = "", link.sent[0] if is_late else None
    assert pull_next() == 7
    answer(link.sent[1], state, store)
    supernode._push_messages(state, store, link.take, lambda *_: None)
    answered = ends_at != "pull"
    late = [link.sent[0].metadata.message_id] if answered and not ours else []
    assert link.taken == [*late, link.sent[1].metadata.message_id]
