"""The sites of a run: who joined, who is missing and why, who came back, and who is left."""

import time
from collections.abc import Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from pratique_common.durable import MENDABLE
from pratique_common.errors import (
    BudgetExceededError,
    FederationError,
    NotEnoughDataError,
    PratiqueError,
    VerificationError,
)
from pratique_common.messages import (
    IDENTITY_PURPOSE,
    JOIN,
    OK,
    ROSTER,
    JoinInstructions,
    Reply,
    RosterInstructions,
    join_statement,
    pack,
    unpack,
)
from pratique_common.parts import SignedMaskKey
from pratique_common.signing import check_signature
from pratique_common.study import StudySpec
from pratique_privacy.conclusion import Drop
from pratique_privacy.secure_sum.roster import check_mask_keys, session_name
from pratique_server.checkpoint import Joined
from pratique_server.exchange import TIMEOUT, UNREACHABLE, Answers, exchange
from pratique_server.job import Events, Job

_LOOK_FOR_NODES_S = 0.2
_MAY_COME_BACK = {TIMEOUT, UNREACHABLE, *MENDABLE}

Answer = tuple[Reply, RecordDict]


class Federation:
    """The sites that take part in a run, and everything that is asked of them."""

    def __init__(self, grid: Grid, study: StudySpec, job: Job, run: str, events: Events) -> None:
        self._grid, self._study, self._job, self._events = grid, study, job, events
        self.run = run
        self._node_of: dict[str, int] = {}
        self._invited: dict[str, tuple[int, float]] = {}
        self.roster: tuple[SignedMaskKey, ...] = ()
        self.commitments: dict[str, str] = {}
        self.canary_commitments: dict[str, str] = {}
        self.lacks: dict[str, tuple[str, ...]] = {}
        self.ledger_heads: dict[str, str] = {}
        self.dropped: dict[str, list[Drop]] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are in, sorted."""
        return tuple(sorted(self._node_of))

    @property
    def roster_sites(self) -> tuple[str, ...]:
        """Names in the roster, sorted; none without secure sums."""
        return tuple(sorted(key.site for key in self.roster))

    @property
    def least_sites(self) -> int:
        """With fewer sites than this nothing more can be asked."""
        privacy = self._study.privacy
        if privacy.noise == "local" or not self.roster:
            return max(self._study.release.min_sites, privacy.least_sites)
        return len(self.roster) - privacy.tolerated_dropouts

    def join(self) -> None:
        """Wait for the expected sites to connect, ask them to take part, show them the roster.

        Raises:
            PratiqueError: fewer sites than the study demands joined; the reason is in it.
        """
        nodes = self._connected_nodes()
        instructions = JoinInstructions(**self.ids)
        answers = self._exchange(JOIN, {node: pack(instructions) for node in nodes})
        keys = {}
        for node, (reply, _) in sorted(answers.replies.items()):
            if self._is_expected(reply) and reply.site not in self._node_of:
                self._node_of[reply.site] = node
                self.commitments[reply.site] = reply.holdout_commitment
                self.canary_commitments[reply.site] = reply.canary_commitment
                if reply.lacks:
                    self.lacks[reply.site] = reply.lacks
                keys[reply.site] = reply.mask_key
                self._events.emit("joined", site=reply.site)
            else:
                self._events.emit("stranger")
        code_of = {failure.site: failure.code for failure in answers.failed.values()}
        for site in self._job.sites:
            if site not in self._node_of:
                self._drop(site, 0, code_of.get(site, TIMEOUT))
        self.require_quorum()
        if self._study.privacy.noise == "secure_sum":
            self.roster = tuple(key for _, key in sorted(keys.items()) if key is not None)
            self._show_roster(0)

    def rejoin(self, joined: Joined, round_number: int) -> None:
        """Take up a run again with the sites that took part in it.

        Raises:
            PratiqueError: too few of them are there.
        """
        self.roster, self.lacks = joined.roster, dict(joined.lacks)
        self.commitments = dict(joined.commitments)
        self.canary_commitments = dict(joined.canary_commitments)
        self.dropped = {site: list(drops) for site, drops in joined.dropped.items()}
        out = self._for_good()
        nodes = self._connected_nodes()
        instructions = JoinInstructions(**self.ids)
        answers = self._exchange(JOIN, {node: pack(instructions) for node in nodes})
        for node, (reply, _) in sorted(answers.replies.items()):
            if self._is_the_same(reply) and reply.site not in {*self._node_of, *out}:
                self._take_in(reply.site, node, round_number)
        code_of = {failure.site: failure.code for failure in answers.failed.values()}
        for site in sorted(set(self.commitments) - set(self._node_of)):
            if not self._is_missing(site):
                self._drop(site, round_number, code_of.get(site, TIMEOUT))
        self.require_quorum()
        self._show_roster(round_number)

    def _for_good(self) -> set[str]:
        """Return sites that failed and may not come back."""
        missing = filter(self._is_missing, self.dropped)
        return {site for site in missing if self.dropped[site][-1].code not in _MAY_COME_BACK}

    def _is_missing(self, site: str) -> bool:
        """Return whether a site was dropped and did not come back."""
        return site in self.dropped and self.dropped[site][-1].returned is None

    def joined(self) -> Joined:
        """Return who takes part, as ``rejoin`` takes it."""
        return Joined(
            roster=self.roster,
            commitments=self.commitments,
            canary_commitments=self.canary_commitments,
            lacks=self.lacks,
            dropped={site: tuple(drops) for site, drops in self.dropped.items()},
        )

    @property
    def ids(self) -> dict[str, str]:
        """What every message names: the study and the run."""
        return {"study_digest": self._study.digest, "run": self.run}

    def ask(
        self, message_type: str, contents: Mapping[str, RecordDict], *, round_number: int
    ) -> dict[str, Answer]:
        """Ask some sites, each its own; those that fail are missing from now on."""
        answers = self._ask(message_type, contents)
        site_of = {self._node_of[site]: site for site in contents}
        for node, failure in answers.failed.items():
            self._drop(site_of[node], round_number, failure.code)
        results = {site_of[node]: answer for node, answer in answers.replies.items()}
        self.ledger_heads.update({site: reply.ledger_head for site, (reply, _) in results.items()})
        return results

    def ask_to_sign(self, message_type: str, content: RecordDict) -> Mapping[str, Reply | str]:
        """Ask every site; return its reply, or the code with which it did not sign."""
        answers = self._ask(message_type, dict.fromkeys(self.sites, content))
        return {
            site: answers.replies[node][0] if node in answers.replies else answers.failed[node].code
            for site, node in self._node_of.items()
        }

    def tell(self, kind: str, **fields: object) -> None:
        """Write an event of this run."""
        self._events.emit(kind, **fields)

    def drop(self, site: str, round_number: int, code: str) -> None:
        """Leave a site out whose answer cannot be used."""
        self._drop(site, round_number, code)

    def bring_back(self, round_number: int) -> None:
        """Take in again whoever was silent and answers now; never waits.

        A daemon that was started again is a new node to Flower: its signature tells who it is.
        """
        silent = self._silent()
        if not silent:
            return
        timeout_s = self._study.training.round_timeout_s
        now = time.monotonic()
        self._invited = {m: i for m, i in self._invited.items() if now - i[1] < timeout_s}
        known = set(self._node_of.values()) | {node for node, _ in self._invited.values()}
        invitations = [
            Message(
                pack(JoinInstructions(**self.ids)),
                dst_node_id=node,
                message_type=JOIN,
                ttl=timeout_s,
            )
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

    def wait_for(self, count: int, round_number: int) -> None:
        """Wait until ``count`` sites are in, but no longer than a round may last."""
        end = time.monotonic() + self._study.training.round_timeout_s
        self.bring_back(round_number)
        while len(self._node_of) < count and self._silent() and time.monotonic() < end:
            time.sleep(_LOOK_FOR_NODES_S)
            self.bring_back(round_number)

    def _silent(self) -> set[str]:
        """Return the sites of the run that are missing and may come back."""
        missing = set(self.commitments) - set(self._node_of)
        return {site for site in missing if self.dropped[site][-1].code in _MAY_COME_BACK}

    def require_quorum(self) -> None:
        """Raise PratiqueError if too few sites are in."""
        if len(self._node_of) < self.least_sites:
            last = {site: drops[-1] for site, drops in self.dropped.items()}
            raise _quorum_error(len(self._node_of), self.least_sites, last)

    def _readmit(self, node: int, message: Message, silent: set[str], round_number: int) -> None:
        if message.has_error():
            return
        try:
            reply = unpack(message.content, Reply)
        except FederationError:
            return
        is_missing = reply.site in silent and reply.site not in self._node_of
        if reply.code == OK and is_missing and self._is_the_same(reply):
            self._take_in(reply.site, node, round_number)

    def _take_in(self, site: str, node: int, round_number: int) -> None:
        self._node_of[site] = node
        if self._is_missing(site):
            drops = self.dropped[site]
            drops[-1] = drops[-1].model_copy(update={"returned": round_number})
            self._events.emit("returned", site=site, round=round_number)
        else:
            self._events.emit("joined", site=site)

    def _is_the_same(self, reply: Reply) -> bool:
        """Return whether a site shows the keys and commitments with which it joined this run."""
        same_key = not self.roster or reply.mask_key in self.roster
        same_canaries = self.canary_commitments.get(reply.site) == reply.canary_commitment
        same_holdout = self.commitments.get(reply.site) == reply.holdout_commitment
        return same_holdout and same_canaries and same_key and self._is_expected(reply)

    def _show_roster(self, round_number: int) -> None:
        if self.roster:
            roster = RosterInstructions(keys=self.roster, **self.ids)
            contents = dict.fromkeys(self.sites, pack(roster))
            self.ask(ROSTER, contents, round_number=round_number)

    def _ask(self, message_type: str, contents: Mapping[str, RecordDict]) -> Answers:
        by_node = {self._node_of[site]: content for site, content in contents.items()}
        return self._exchange(message_type, by_node)

    def _exchange(self, message_type: str, contents: Mapping[int, RecordDict]) -> Answers:
        timeout_s = self._study.training.round_timeout_s
        return exchange(self._grid, contents, message_type, timeout_s=timeout_s)

    def _connected_nodes(self) -> list[int]:
        end = time.monotonic() + self._job.join_timeout_s
        while True:
            nodes = sorted(self._grid.get_node_ids())
            if len(nodes) >= len(self._job.sites) or time.monotonic() > end:
                return nodes
            time.sleep(_LOOK_FOR_NODES_S)

    def _is_expected(self, reply: Reply) -> bool:
        """Return whether a reply to a join comes from a site that the coordinator knows."""
        expected = self._job.sites.get(reply.site)
        statement = join_statement(
            study_digest=self._study.digest,
            run=self.run,
            site=reply.site,
            commitment=reply.holdout_commitment,
            canary_commitment=reply.canary_commitment,
        )
        may_lack = {column.name for column in self._study.data.columns if column.may_lack}
        if expected is None or expected != reply.public_key or not set(reply.lacks) <= may_lack:
            return False
        try:
            check_signature(expected, IDENTITY_PURPOSE, statement, reply.identity_signature)
            if self._study.privacy.noise == "secure_sum":
                if reply.mask_key is None or reply.mask_key.site != reply.site:
                    return False
                session = session_name(self._study.digest, self.run)
                check_mask_keys([reply.mask_key], self._job.sites, session=session)
        except (VerificationError, FederationError):
            return False
        return True

    def _drop(self, site: str, round_number: int, code: str) -> None:
        self._node_of.pop(site, None)
        self.dropped.setdefault(site, []).append(Drop(round=round_number, code=code))
        self._events.emit("dropped", site=site, round=round_number, code=code)


def _quorum_error(left: int, needed: int, dropped: Mapping[str, Drop]) -> PratiqueError:
    reasons = "; ".join(f"{site}: {drop.code}" for site, drop in sorted(dropped.items()))
    message = (
        f"{left} sites are left and the study demands {needed} ({reasons}); mend what their logs "
        "tell and run it again"
    )
    codes = {drop.code for drop in dropped.values()}
    if codes == {BudgetExceededError.code}:
        return BudgetExceededError(message)
    if codes == {"too_few_patients"}:
        return NotEnoughDataError(message)
    return FederationError(message, code="quorum_lost")
