"""A daemon outlives heartbeats that come too late for their task."""

import time

import httpx
import pytest

from pratique_client.executor import TaskHeartbeat, task_retries


def test_a_short_task_sends_none() -> None:
    sent: list[float] = []
    heartbeat = TaskHeartbeat(lambda: sent.append(1.0), interval_s=0.2)
    time.sleep(0.05)
    heartbeat.stop()
    time.sleep(0.3)
    assert sent == []


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("gone"),
        httpx.HTTPStatusError(
            "401", request=httpx.Request("POST", "http://x"), response=httpx.Response(401)
        ),
        RuntimeError("Cannot send a request, as the client has been closed."),
    ],
)
def test_a_refused_heartbeat_is_no_end_and_the_next_one_is_sent(error: Exception) -> None:
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        raise error

    heartbeat = TaskHeartbeat(send, interval_s=0.02)
    end = time.monotonic() + 5
    while len(sent) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    heartbeat.stop()
    assert len(sent) >= 3


def test_stopping_does_not_wait_for_one_on_its_way() -> None:
    heartbeat = TaskHeartbeat(lambda: time.sleep(5), interval_s=0.01)
    time.sleep(0.1)
    started = time.monotonic()
    heartbeat.stop()
    assert time.monotonic() - started < 0.5


def test_the_answer_that_a_task_has_ended_ends_no_daemon() -> None:
    """Flower's own invoker would send this process SIGINT."""
    asked = []

    def ended() -> None:
        asked.append(1)
        raise httpx.HTTPStatusError(
            "401", request=httpx.Request("POST", "http://x"), response=httpx.Response(401)
        )

    with pytest.raises(httpx.HTTPStatusError):
        task_retries().invoke(ended)
    assert len(asked) == 1


def test_a_supernode_that_does_not_answer_is_asked_again() -> None:
    asked = []

    def away() -> str:
        asked.append(1)
        if len(asked) < 2:
            raise httpx.ConnectError("away")
        return "here"

    assert task_retries().invoke(away) == "here"
