from collections.abc import Iterable
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from pratique_common.messages import Reply, pack
from pratique_server.exchange import exchange


class _Grid:
    """Answers per node: a record, an error, or nothing."""

    def __init__(self, answers: dict[int, RecordDict | Error | None]) -> None:
        self._answers = answers
        self._ready: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            ids.append(f"m{number}")
            answer = self._answers[message.metadata.dst_node_id]
            if answer is not None:
                self._ready.append(Message(answer, reply_to=message))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready, self._ready = self._ready, []
        return ready


def _ask(answers: dict[int, Any]) -> tuple[dict[int, Reply], dict[int, str]]:
    found = exchange(
        _Grid(answers),  # type: ignore[arg-type]
        {node: pack(Reply()) for node in answers},
        "query.join",
        timeout_s=0.2,
        poll_s=0.01,
    )
    codes = {node: failure.code for node, failure in found.failed.items()}
    return {node: reply for node, (reply, _) in found.replies.items()}, codes


def test_replies_errors_codes_and_silence_are_told_apart() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    replies, failed = _ask(
        {
            1: pack(Reply(site="a")),
            2: pack(Reply(code="budget_exhausted")),
            3: Error(code=5, reason="a text that must not travel on"),
            4: None,
            5: RecordDict(),
        }
    )
    assert replies == {1: Reply(site="a")}
    assert failed == {2: "budget_exhausted", 3: "unreachable", 4: "timeout",
                      5: "malformed_message"}  # fmt: skip
