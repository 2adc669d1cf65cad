"""Answers of one kind take one time, whatever the work took."""

import time
from math import inf

from pratique_client.reply_times import ReplyTimes

INTERVAL_S = 0.3


def seconds(
    times: ReplyTimes, kind: str, work_s: float, *, fail: bool = False, latest_s: float = inf
) -> float:
    started = time.monotonic()
    try:
        with times.hold(kind) as interval:
            interval.seconds, interval.latest_s = INTERVAL_S, latest_s
            time.sleep(work_s)
            if fail:
                raise ValueError
    except ValueError:
        assert fail
    return time.monotonic() - started


def near(found: float, expected: float) -> bool:
    return expected <= found < expected + 0.9 * INTERVAL_S  # a busy machine is late, never early


def test_work_of_any_length_within_the_interval_takes_the_interval() -> None:
    times = ReplyTimes()
    assert all(near(seconds(times, "step", work), INTERVAL_S) for work in (0.0, 0.1))
    assert near(seconds(times, "step", 0.01, fail=True), INTERVAL_S)


def test_longer_work_takes_a_power_of_two_and_so_do_all_after_it() -> None:
    times = ReplyTimes()
    assert near(seconds(times, "audit", 2.2 * INTERVAL_S), 4 * INTERVAL_S)
    assert near(seconds(times, "audit", 0.0), 4 * INTERVAL_S)  # a smaller batch is no sooner there
    assert near(seconds(times, "step", 0.0), INTERVAL_S)  # kinds have times of their own


def test_no_answer_is_held_until_nobody_waits_for_it() -> None:
    """A slow answer, or one that came too late, does not make those after it too late."""
    latest_s = 3.2 * INTERVAL_S
    for work_s, held_s in ((2.5 * INTERVAL_S, latest_s), (3.4 * INTERVAL_S, 4 * INTERVAL_S)):
        times = ReplyTimes()
        assert near(seconds(times, "audit", work_s, latest_s=latest_s), held_s)
        assert near(seconds(times, "audit", 0.0, latest_s=latest_s), latest_s)
        assert near(seconds(times, "audit", 0.0, latest_s=latest_s), latest_s)


def test_an_interval_of_zero_waits_for_nothing() -> None:
    times = ReplyTimes()
    started = time.monotonic()
    with times.hold("step") as interval:
        interval.seconds = 0.0
    assert time.monotonic() - started < INTERVAL_S
