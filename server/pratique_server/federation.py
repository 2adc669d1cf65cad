"""The sites of a run: who joined, who is missing and why, who came back, and who is left."""

import time
from collections.abc import Collection, Mapping, Sequence

from flwr.app import RecordDict
from flwr.serverapp import Grid

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
    ROSTER,
    JoinInstructions,
    Reply,
    RosterInstructions,
    join_statement,
    pack,
)
from pratique_common.parts import SignedMaskKey
from pratique_common.signing import check_signature
from pratique_common.study import StudySpec
from pratique_privacy.evidence import Drop
from pratique_privacy.secure_sum.roster import check_mask_keys, session_name
from pratique_server.attendance import SILENT, Attendance
from pratique_server.checkpoint import Joined
from pratique_server.exchange import TIMEOUT, Answers, exchange
from pratique_server.job import Events, Job
from pratique_server.recall import LOOK_FOR_NODES_S, Recall

REMEDY = "mend what their logs tell, then resume the run (pratique run --resume), or begin anew"

Answer = tuple[Reply, RecordDict]


class Federation:
    """The sites that take part in a run, and everything that is asked of them."""

    def __init__(self, grid: Grid, study: StudySpec, job: Job, run: str, events: Events) -> None:
        self._grid, self._study, self._job, self._events = grid, study, job, events
        self.run = run
        self._attendance = Attendance(events)
        self._recall = Recall(
            grid,
            self._attendance,
            pack(JoinInstructions(**self.ids)),
            self._is_the_same,
            study.training.round_timeout_s,
        )
        self.roster: tuple[SignedMaskKey, ...] = ()
        self.commitments: dict[str, str] = {}
        self.canary_commitments: dict[str, str] = {}
        self.lacks: dict[str, tuple[str, ...]] = {}
        self.ledger_heads: dict[str, str] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are in, sorted."""
        return self._attendance.sites

    @property
    def dropped(self) -> Mapping[str, Sequence[Drop]]:
        """Site → every time that it dropped out, and when it came back."""
        return self._attendance.dropped

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
        """Wait for the expected sites to connect, and ask them to take part.

        Raises:
            PratiqueError: fewer sites than the study demands joined; the reason is in it.
        """
        nodes = self._connected_nodes()
        instructions = JoinInstructions(**self.ids)
        answers = self._exchange(JOIN, {node: pack(instructions) for node in nodes})
        keys = {}
        for node, (reply, _) in sorted(answers.replies.items()):
            if self._is_expected(reply) and reply.site not in self.sites:
                self._attendance.take_in(reply.site, node, 0)
                self.commitments[reply.site] = reply.holdout_commitment
                self.canary_commitments[reply.site] = reply.canary_commitment
                if reply.lacks:
                    self.lacks[reply.site] = reply.lacks
                keys[reply.site] = reply.mask_key
            else:
                self._events.emit("stranger")
        self._attendance.members = frozenset(self.sites)
        code_of = {failure.site: failure.code for failure in answers.failed.values()}
        for site in self._job.sites:
            if site not in self.sites:
                self.drop(site, 0, code_of.get(site, TIMEOUT))
        self.require_quorum()
        if self._study.privacy.noise == "secure_sum":
            self.roster = tuple(key for _, key in sorted(keys.items()) if key is not None)

    def rejoin(self, joined: Joined, round_number: int) -> None:
        """Take up a run again with those of its sites that are there, also if they were mended."""
        self.roster, self.lacks = joined.roster, dict(joined.lacks)
        self.commitments = dict(joined.commitments)
        self.canary_commitments = dict(joined.canary_commitments)
        self._attendance.restore(joined.commitments, joined.dropped)
        nodes = self._connected_nodes()
        instructions = JoinInstructions(**self.ids)
        answers = self._exchange(JOIN, {node: pack(instructions) for node in nodes})
        for node, (reply, _) in sorted(answers.replies.items()):
            if self._is_the_same(reply) and reply.site not in self.sites:
                self._attendance.take_in(reply.site, node, round_number)
        code_of = {failure.site: failure.code for failure in answers.failed.values()}
        for site in sorted(set(self.commitments) - set(self.sites)):
            if not self._attendance.is_missing(site):
                self.drop(site, round_number, code_of.get(site, TIMEOUT))
        self.show_roster(self.sites, round_number)

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
        site_of = {self._attendance.node(site): site for site in contents}
        for node, failure in answers.failed.items():
            self.drop(site_of[node], round_number, failure.code)
        results = {site_of[node]: answer for node, answer in answers.replies.items()}
        self.ledger_heads.update({site: reply.ledger_head for site, (reply, _) in results.items()})
        return results

    def ask_to_sign(
        self, message_type: str, content: RecordDict, signers: Collection[str], *, required: bool
    ) -> Mapping[str, Reply | str]:
        """Ask sites to sign; return their replies, or the code with which one did not sign.

        Args:
            message_type: the question.
            content: what is to be signed.
            signers: whose signatures count; the others that are in are told.
            required: wait for those that are silent, as long as nobody refuses.

        Raises:
            FederationError: one of them stays silent, and the run can be resumed.
        """
        results: dict[str, Reply | str] = {}
        number = self._study.training.rounds
        asked = self.sites
        while True:
            answers = self._ask(message_type, dict.fromkeys(asked, content))
            for site in set(asked) & set(signers):
                node = self._attendance.node(site)
                if node in answers.replies:
                    results[site] = answers.replies[node][0]
                elif (code := answers.failed[node].code) in SILENT:
                    self.drop(site, number, code)
                else:
                    results[site] = code
            asked = tuple(sorted(set(signers) - set(results)))
            refused = any(isinstance(result, str) for result in results.values())
            if not required or refused or not asked:
                break
            if not self.call_back(message_type, asked, len(asked), number):
                self.go_on_without(asked)
                break
        return results | {site: self.dropped[site][-1].code for site in asked}

    def tell(self, kind: str, **fields: object) -> None:
        """Write an event of this run."""
        self._events.emit(kind, **fields)

    def drop(self, site: str, round_number: int, code: str) -> None:
        """Leave a site out whose answer cannot be used."""
        self._attendance.drop(site, round_number, code)

    def wait_for(self, count: int, round_number: int) -> None:
        """Wait until ``count`` sites are in, but no longer than a round may last."""
        before = self.sites
        self._recall.wait_for(count, round_number)
        self.show_roster(set(self.sites) - set(before), round_number)

    def call_back(
        self, question: str, names: Collection[str], least: int, round_number: int
    ) -> bool:
        """Wait for silent sites and return whether a question can be asked again; see Recall."""
        before = self.sites
        enough = self._recall.call_back(question, names, least, round_number)
        self.show_roster(set(self.sites) - set(before), round_number)
        return enough

    def go_on_without(self, names: Collection[str]) -> None:
        """Let the run be decided although some of these sites are silent, if the job says so.

        Raises:
            FederationError: it does not: the run can be resumed once they answer.
        """
        silent = self._attendance.silent() & set(names)
        if silent and not self._job.refuse_if_silent:
            raise FederationError(
                f"the run needs hospitals that fell silent ({self._attendance.reasons(silent)}); "
                f"{REMEDY}",
                code="site_lost",
            )

    def require_quorum(self) -> None:
        """Raise PratiqueError if too few sites are in."""
        if len(self.sites) < self.least_sites:
            raise _quorum_error(len(self.sites), self.least_sites, self._attendance)

    def _is_the_same(self, reply: Reply) -> bool:
        """Return whether a site shows the keys and commitments with which it joined this run."""
        same_key = not self.roster or reply.mask_key in self.roster
        same_canaries = self.canary_commitments.get(reply.site) == reply.canary_commitment
        same_holdout = self.commitments.get(reply.site) == reply.holdout_commitment
        return same_holdout and same_canaries and same_key and self._is_expected(reply)

    def show_roster(self, sites: Collection[str], round_number: int) -> None:
        """Show everybody's mask keys to sites that are in: they accept no second roster."""
        if self.roster and sites:
            roster = RosterInstructions(keys=self.roster, **self.ids)
            contents = dict.fromkeys(sites, pack(roster))
            self.ask(ROSTER, contents, round_number=round_number)

    def _ask(self, message_type: str, contents: Mapping[str, RecordDict]) -> Answers:
        by_node = {self._attendance.node(site): content for site, content in contents.items()}
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
            time.sleep(LOOK_FOR_NODES_S)

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


def _quorum_error(left: int, needed: int, attendance: Attendance) -> PratiqueError:
    reasons = attendance.reasons(attendance.dropped)
    message = f"{left} sites are left and the study demands {needed} ({reasons}); {REMEDY}"
    codes = {drops[-1].code for drops in attendance.dropped.values()}
    if codes == {BudgetExceededError.code}:
        return BudgetExceededError(message)
    if codes == {"too_few_patients"}:
        return NotEnoughDataError(message)
    return FederationError(message, code="quorum_lost")
