"""The sites of a run: who joined, who dropped out and why, and whether enough are left."""

import time
from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

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
    NOISED,
    JoinInstructions,
    Reply,
    join_statement,
    pack,
    unpack_array,
)
from pratique_common.signing import check_signature
from pratique_common.study import StudySpec
from pratique_privacy.conclusion import Drop
from pratique_server.exchange import TIMEOUT, Answers, exchange
from pratique_server.job import Events, Job

_LOOK_FOR_NODES_S = 0.2

IntArray = NDArray[np.int64]


class Federation:
    """The sites that take part in a run, and everything that is asked of them."""

    def __init__(self, grid: Grid, study: StudySpec, job: Job, run: str, events: Events) -> None:
        self._grid, self._study, self._job, self._events = grid, study, job, events
        self.run = run
        self._node_of: dict[str, int] = {}
        self.commitments: dict[str, str] = {}
        self.ledger_heads: dict[str, str] = {}
        self.dropped: dict[str, Drop] = {}

    @property
    def sites(self) -> list[str]:
        """Names of the sites that are in, sorted."""
        return sorted(self._node_of)

    def join(self) -> None:
        """Wait for the expected sites to connect and ask them to take part.

        Raises:
            PratiqueError: fewer sites than the study demands joined; the reason is in it.
        """
        nodes = self._connected_nodes()
        instructions = JoinInstructions(study_digest=self._study.digest, run=self.run)
        answers = exchange(
            self._grid,
            {node: pack(instructions) for node in nodes},
            JOIN,
            timeout_s=self._study.training.round_timeout_s,
        )
        for node, (reply, _) in sorted(answers.replies.items()):
            self._admit(node, reply)
        code_of = {failure.site: failure.code for failure in answers.failed.values()}
        for site in self._job.sites:
            if site not in self._node_of:
                self._drop(site, 0, code_of.get(site, TIMEOUT))
        self._require_quorum()

    def ask(
        self, message_type: str, content: RecordDict, *, round_number: int
    ) -> dict[str, tuple[Reply, RecordDict]]:
        """Ask every site the same; sites that fail drop out.

        Raises:
            PratiqueError: too few sites are left.
        """
        answers = self._exchange(message_type, content)
        site_of = {node: site for site, node in self._node_of.items()}
        for node, failure in answers.failed.items():
            self._drop(site_of[node], round_number, failure.code)
        self._require_quorum()
        results = {site_of[node]: answer for node, answer in answers.replies.items()}
        self.ledger_heads.update({site: reply.ledger_head for site, (reply, _) in results.items()})
        return results

    def ask_for_vectors(
        self, message_type: str, content: RecordDict, *, round_number: int, size: int
    ) -> dict[str, tuple[Reply, IntArray]]:
        """Ask every site for a vector of ``size`` noised integers; sites that fail drop out."""
        answers = self.ask(message_type, content, round_number=round_number)
        vectors = {}
        for site, (reply, records) in answers.items():
            vector = _integers(records)
            if vector is None or vector.shape != (size,):
                self._drop(site, round_number, "malformed_message")
            else:
                vectors[site] = (reply, vector)
        self._require_quorum()
        return vectors

    def ask_to_sign(self, message_type: str, content: RecordDict) -> Mapping[str, Reply | str]:
        """Ask every site; return its reply, or the code with which it did not sign."""
        answers = self._exchange(message_type, content)
        return {
            site: answers.replies[node][0] if node in answers.replies else answers.failed[node].code
            for site, node in self._node_of.items()
        }

    def _exchange(self, message_type: str, content: RecordDict) -> Answers:
        return exchange(
            self._grid,
            dict.fromkeys(self._node_of.values(), content),
            message_type,
            timeout_s=self._study.training.round_timeout_s,
        )

    def _connected_nodes(self) -> list[int]:
        end = time.monotonic() + self._job.join_timeout_s
        while True:
            nodes = sorted(self._grid.get_node_ids())
            if len(nodes) >= len(self._job.sites) or time.monotonic() > end:
                return nodes
            time.sleep(_LOOK_FOR_NODES_S)

    def _admit(self, node: int, reply: Reply) -> None:
        """Take a site in if it is who the coordinator expects, and each only once."""
        expected = self._job.sites.get(reply.site)
        statement = join_statement(
            study_digest=self._study.digest,
            run=self.run,
            site=reply.site,
            commitment=reply.holdout_commitment,
        )
        try:
            if expected is None or expected != reply.public_key or reply.site in self._node_of:
                raise VerificationError("not an expected site")
            check_signature(expected, IDENTITY_PURPOSE, statement, reply.identity_signature)
        except VerificationError:
            self._events.emit("stranger")
            return
        self._node_of[reply.site] = node
        self.commitments[reply.site] = reply.holdout_commitment
        self._events.emit("joined", site=reply.site)

    def _drop(self, site: str, round_number: int, code: str) -> None:
        self._node_of.pop(site, None)
        self.dropped[site] = Drop(round=round_number, code=code)
        self._events.emit("dropped", site=site, round=round_number, code=code)

    def _require_quorum(self) -> None:
        needed = self._study.release.min_sites
        if len(self._node_of) < needed:
            raise _quorum_error(len(self._node_of), needed, self.dropped)


def _integers(records: RecordDict) -> IntArray | None:
    try:
        vector = unpack_array(records, NOISED)
    except FederationError:
        return None
    return vector if vector.dtype == np.int64 else None


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
