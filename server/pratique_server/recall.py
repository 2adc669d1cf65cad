"""Silent sites are invited again, and waited for where nothing goes on without them."""

import time
from collections import Counter
from collections.abc import Callable, Collection

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from pratique_common.errors import FederationError
from pratique_common.messages import JOIN, OK, Reply, unpack
from pratique_server.attendance import Attendance

LOOK_FOR_NODES_S = 0.2
_MAX_CALLS = 3
"""How often sites are called back for one question: one may end each time that it is asked."""


class Recall:
    """Brings back sites of a run that fell silent."""

    def __init__(
        self,
        grid: Grid,
        attendance: Attendance,
        invitation: RecordDict,
        is_the_same: Callable[[Reply], bool],
        timeout_s: float,
    ) -> None:
        """Begin.

        Args:
            grid: Flower's way to the sites.
            attendance: of the run.
            invitation: the content of a question to join.
            is_the_same: whether a reply shows the keys with which its site joined the run.
            timeout_s: how long to wait for a site.
        """
        self._grid, self._attendance, self._invitation = grid, attendance, invitation
        self._is_the_same, self._timeout_s = is_the_same, timeout_s
        self._invited: dict[int, float] = {}
        self._waiting: dict[str, int] = {}
        self._calls: Counter[str] = Counter()

    def bring_back(self, round_number: int) -> None:
        """Take in again whoever was silent and answers now; never waits.

        A daemon that was started again is a new node to Flower: its signature tells who it is. A
        node that was turned away is not asked again before the time of an answer has passed.
        """
        if not self._attendance.silent():
            return
        now = time.monotonic()
        self._invited = {n: t for n, t in self._invited.items() if now - t < self._timeout_s}
        self._waiting = {m: n for m, n in self._waiting.items() if n in self._invited}
        known = self._attendance.nodes | self._invited.keys()
        nodes = [node for node in self._grid.get_node_ids() if node not in known]
        messages = [
            Message(self._invitation, dst_node_id=node, message_type=JOIN, ttl=self._timeout_s)
            for node in nodes
        ]
        for message_id, node in zip(self._grid.push_messages(messages), nodes, strict=True):
            self._invited[node], self._waiting[message_id] = now, node
        for message in self._grid.pull_messages(list(self._waiting)):
            node = self._waiting.pop(message.metadata.reply_to_message_id)
            self._readmit(node, message, round_number)

    def wait_for(self, count: int, round_number: int) -> None:
        """Wait until ``count`` sites are in, but no longer than a round may last."""

        def enough() -> bool:
            return len(self._attendance.sites) >= count or not self._attendance.silent()

        self._wait(enough, round_number)

    def call_back(
        self, question: str, names: Collection[str], least: int, round_number: int
    ) -> bool:
        """Wait for sites that fell silent over a question, no longer than a round may last.

        Args:
            question: names what they were asked.
            names: whose answers it needs.
            least: how many of them.
            round_number: for the record of who came back.

        Returns:
            Whether they are there to be asked again.
        """

        def present() -> int:
            return len(set(names) & set(self._attendance.sites))

        def silent() -> set[str]:
            return self._attendance.silent() & set(names)

        self._calls[question] += 1
        if not silent() or present() + len(silent()) < least or self._calls[question] > _MAX_CALLS:
            return False
        self._wait(lambda: present() >= least or not silent(), round_number)
        return present() >= least

    def _wait(self, enough: Callable[[], bool], round_number: int) -> None:
        end = time.monotonic() + self._timeout_s
        self.bring_back(round_number)
        while not enough() and time.monotonic() < end:
            time.sleep(LOOK_FOR_NODES_S)
            self.bring_back(round_number)

    def _readmit(self, node: int, message: Message, round_number: int) -> None:
        if message.has_error():
            return
        try:
            reply = unpack(message.content, Reply)
        except FederationError:
            return
        is_missing = reply.site in self._attendance.silent()
        if reply.code == OK and is_missing and self._is_the_same(reply):
            self._attendance.take_in(reply.site, node, round_number)
