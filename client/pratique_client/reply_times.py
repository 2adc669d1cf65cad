"""When answers leave: at times that tell nothing of the batch, and of the site its order at most.

An answer leaves a public interval after its question, or twice, four times, eight times that if the
work takes longer; and once an answer of a kind has taken a time, those after it in the same daemon
take no less. But none is held beyond the last time at which the coordinator still waits for it:
else one slow answer would make all later ones come too late. Refusals wait as well. So the time of
a round tells neither the size of its batch nor how it ended, and over the life of a daemon the size
of its site to within a power of two.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

log = logging.getLogger("pratique.client")


class ReplyTimes:
    """The time that each kind of answer has come to take."""

    def __init__(self) -> None:
        self._held_s: dict[str, float] = {}

    @contextmanager
    def hold(self, kind: str) -> Iterator["Interval"]:
        """Keep whoever is inside until the kind's time has passed since the beginning.

        The interval is set by the one inside, once it knows the study.
        """
        started, interval = time.monotonic(), Interval()
        try:
            yield interval
        finally:
            if interval.seconds > 0:
                elapsed_s = time.monotonic() - started
                known_s = self._held_s.get(kind, 0.0)
                held_s = interval.seconds
                while held_s < max(elapsed_s, known_s):
                    held_s *= 2
                latest_s = max(interval.latest_s, interval.seconds)
                if elapsed_s <= latest_s:
                    held_s = min(held_s, latest_s)
                kept_s = max(known_s, min(held_s, latest_s))
                if kept_s > max(known_s, interval.seconds):
                    log.info("answers to '%s' now take %g s", kind, kept_s)
                self._held_s[kind] = kept_s
                time.sleep(max(0.0, held_s - elapsed_s))


class Interval:
    """The public interval of one answer, and after how long nobody waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.5
        self.latest_s = inf
