"""When answers leave: at times that tell nothing of the batch, and of the site its order at most.

An answer leaves a public interval after its question, or twice, four times, eight times that if the
work takes longer; and once an answer of a kind has taken a time, those after it in the same daemon
take no less. Refusals wait as well. So the time of a round tells neither the size of its batch nor
how it ended, and over the life of a daemon the size of its site to within a power of two.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("pratique.client")


class ReplyTimes:
    """The time that each kind of answer has come to take."""

    def __init__(self) -> None:
        self._multiples: dict[str, int] = {}

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
                multiple = self._multiples.get(kind, 1)
                while multiple * interval.seconds < elapsed_s:
                    multiple *= 2
                if multiple > self._multiples.get(kind, 1):
                    log.info("answers to '%s' now take %g s", kind, multiple * interval.seconds)
                self._multiples[kind] = multiple
                time.sleep(multiple * interval.seconds - elapsed_s)


class Interval:
    """The public interval of one answer."""

    def __init__(self) -> None:
        self.seconds = 0.5
