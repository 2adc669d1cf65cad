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
        *,
        timeout_s: float,
        refuse_if_silent: bool,
    ) -> None:
        """Begin.

        Args:
            grid: Flower's way to the sites.
            attendance: of the run.
            invitation: the content of a question to join.
            is_the_same: whether a reply shows the keys with which its site joined the run.
            timeout_s: how long to wait for a site.
            refuse_if_silent: see Job.
        """
        self._grid, self._attendance, self._invitation = grid, attendance, invitation
        self._is_the_same, self._timeout_s = is_the_same, timeout_s
        self._refuse_if_silent = refuse_if_silent
        self._invited: dict[str, tuple[int, float]] = {}
        self._calls: Counter[str] = Counter()

    def bring_back(self, members: Collection[str], round_number: int) -> None:
        """Take in again whoever was silent and answers now; never waits.

        A daemon that was started again is a new node to Flower: its signature tells who it is.
        """
        silent = self._attendance.silent(members)
        if not silent:
            return
        now = time.monotonic()
        self._invited = {m: i for m, i in self._invited.items() if now - i[1] < self._timeout_s}
        known = self._attendance.nodes | {node for node, _ in self._invited.values()}
        invitations = [
            Message(self._invitation, dst_node_id=node, message_type=JOIN, ttl=self._timeout_s)
            for node in self._grid.get_node_ids()
            if node not in known
        ]
        for message_id, invitation in zip(
            self._grid.push_messages(invitations), invitations, strict=True
        ):
            self._invited[message_id] = (invitation.metadata.dst_node_id, now)
        for message in self._grid.pull_messages(list(self._invited)):
            node, _ = self._invited.pop(message.metadata.reply_to_message_id)
            self._readmit(node, message, silent, round_number)

    def wait_for(self, count: int, members: Collection[str], round_number: int) -> None:
        """Wait until ``count`` sites are in, but no longer than a round may last."""

        def enough() -> bool:
            return len(self._attendance.sites) >= count or not self._attendance.silent(members)

        self._wait(enough, members, round_number)

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
            Whether it can be asked again. If not, no waiting helps: nobody is silent, or too many
            are out for good.

        Raises:
            FederationError: too many stay silent, and the run can be resumed.
        """

        def present() -> int:
            return len(set(names) & set(self._attendance.sites))

        def silent() -> set[str]:
            return self._attendance.silent(names)

        if not silent() or present() + len(silent()) < least:
            return False
        self._calls[question] += 1
        if self._calls[question] <= _MAX_CALLS:
            self._wait(lambda: present() >= least or not silent(), names, round_number)
            if present() >= least:
                return True
        if silent() and not self._refuse_if_silent:
            raise FederationError(
                f"the run needs hospitals that fell silent ({self._attendance.reasons(silent())}); "
                "mend what their logs tell, then resume it",
                code="site_lost",
            )
        return False

    def _wait(
        self, enough: Callable[[], bool], members: Collection[str], round_number: int
    ) -> None:
        end = time.monotonic() + self._timeout_s
        self.bring_back(members, round_number)
        while not enough() and time.monotonic() < end:
            time.sleep(LOOK_FOR_NODES_S)
            self.bring_back(members, round_number)

    def _readmit(self, node: int, message: Message, silent: set[str], round_number: int) -> None:
        if message.has_error():
            return
        try:
            reply = unpack(message.content, Reply)
        except FederationError:
            return
        is_missing = reply.site in silent and reply.site not in self._attendance.sites
        if reply.code == OK and is_missing and self._is_the_same(reply):
            self._attendance.take_in(reply.site, node, round_number)
