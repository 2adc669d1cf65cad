"""Sums over the sites: ask for summands, and open what may be opened.

With secure sums nobody here ever sees a summand: masked vectors come first, then what opens the sum
of the survivors. If somebody is missing, the survivors first sign the list of survivors. Sites keep
their last answer: where one falls silent, the same question is asked again once it is back, if need
be by a coordinator that resumes the run.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from pratique_common.errors import FederationError
from pratique_common.messages import (
    COUNTERSIGN,
    NOISED,
    REVEAL,
    CountersignInstructions,
    Reply,
    RevealInstructions,
    SumInstructions,
    pack,
    unpack_array,
)
from pratique_common.parts import MaskedPart, SumProof, SumTranscript
from pratique_common.study import StudySpec
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.secure_sum.masks import SEED_BYTES
from pratique_privacy.secure_sum.opening import open_sum
from pratique_privacy.secure_sum.party import Masked, Revealed
from pratique_privacy.secure_sum.shares import Share
from pratique_privacy.secure_sum.transcript import transcript_of
from pratique_server.checkpoint import Asked, Checkpoint
from pratique_server.federation import Federation
from pratique_server.opened import OpenedSum

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summand:
    """A site's answer: masked where sums are secure."""

    reply: Reply
    words: NDArray[Any]
    masked: MaskedPart


class Sums:
    """All sums of one run."""

    def __init__(self, federation: Federation, study: StudySpec, checkpoint: Checkpoint) -> None:
        self._federation, self._study, self._checkpoint = federation, study, checkpoint
        self._secure = study.privacy.noise == "secure_sum"

    @property
    def num_sites(self) -> int:
        """How many sites' vectors are added in the ring; fixed once the sites have joined."""
        return len(self._federation.roster) if self._secure else 1

    def ask(
        self,
        message_type: str,
        instructions: SumInstructions,
        form: FixedPoint,
        *,
        label: str,
        round_number: int,
        inputs: str = "",
        arrays: Mapping[str, NDArray[Any]] | None = None,
        sites: Collection[str] | None = None,
    ) -> OpenedSum | None:
        """Return the sum over all sites that are in, or some of them; None if too few answer.

        Args:
            message_type: such as ``train.step``.
            instructions: what to compute; who takes part is filled in here.
            form: how the sum is written.
            label: names the sum within the run.
            round_number: for the record of who was missing.
            inputs: hash of what else the sum is computed from.
            arrays: travel with the message.
            sites: whose sum it has to be; if not given, that of all that are in, of whom some may
                fail.

        Raises:
            PratiqueError: too few sites are left to ask.
        """
        federation = self._federation
        if sites is None:
            federation.wait_for(federation.least_sites, round_number)
            federation.require_quorum()
        asked = self._checkpoint.asked(label)
        if asked is None:
            asked = Asked(label=label, participants=tuple(sorted(sites or federation.sites)))
            self._checkpoint.keep_asked(asked)
        content = pack(
            instructions.model_copy(update={"participants": asked.participants}), **(arrays or {})
        )
        while True:
            names = asked.participants if asked.survivors is None else asked.survivors
            all_of_them = sites is not None or asked.survivors is not None
            least = len(names) if all_of_them else federation.least_sites
            summands = self._summands(message_type, names, least, content, form, round_number)
            if summands is not None:
                try:
                    return self._sum(summands, asked, form, inputs, round_number)
                except FederationError:
                    asked = self._checkpoint.asked(label) or asked  # now with its survivors
                    names, least = tuple(sorted(summands)), len(summands)
            if not federation.call_back(label, names, least, round_number):
                return None

    def _summands(
        self,
        message_type: str,
        names: Collection[str],
        least: int,
        content: RecordDict,
        form: FixedPoint,
        round_number: int,
    ) -> dict[str, Summand] | None:
        """Return the answers of these sites, or None if they are fewer than ``least``."""
        federation = self._federation
        present = [site for site in names if site in federation.sites]
        if len(present) < least:
            return None
        answers = federation.ask(
            message_type, dict.fromkeys(present, content), round_number=round_number
        )
        summands = {}
        for site, (reply, records) in answers.items():
            words = _words(records, form)
            if words is None or reply.masked is None:
                federation.drop(site, round_number, "malformed_message")
            else:
                summands[site] = Summand(reply, words, reply.masked)
        return summands if len(summands) >= least else None

    def _sum(
        self,
        summands: Mapping[str, Summand],
        asked: Asked,
        form: FixedPoint,
        inputs: str,
        round_number: int,
    ) -> OpenedSum:
        if self._secure:
            return self._open(summands, asked, form, inputs, round_number)
        read = [form.read(summand.words) for _, summand in sorted(summands.items())]
        total = np.asarray(np.sum(read, axis=0), np.float64)
        proofs = {s: SumProof(commitment="", signature=summands[s].masked.signature)
                  for s in sorted(summands)}  # fmt: skip
        transcript = SumTranscript(label=asked.label, participants=(), inputs=inputs, proofs=proofs)
        return _opened(total, transcript, summands)

    def _open(
        self,
        summands: Mapping[str, Summand],
        asked: Asked,
        form: FixedPoint,
        inputs: str,
        round_number: int,
    ) -> OpenedSum:
        label, participants = asked.label, asked.participants
        survivors = tuple(sorted(summands))
        # Sites answer for one list: a coordinator that starts again must not make another.
        self._checkpoint.keep_asked(asked.model_copy(update={"survivors": survivors}))
        masked = {site: _masked(summand) for site, summand in summands.items()}
        signatures: dict[str, str] = {}
        openers = survivors
        if survivors != participants:
            request = CountersignInstructions(
                label=label, survivors=survivors, **self._federation.ids
            )
            signed = self._federation.ask(
                COUNTERSIGN, dict.fromkeys(survivors, pack(request)), round_number=round_number
            )
            signatures = {site: reply.survivors_signature for site, (reply, _) in signed.items()}
            openers = tuple(sorted(signed))
        contents = {
            site: pack(
                RevealInstructions(
                    label=label,
                    survivors=survivors,
                    sealed={
                        peer: m.sealed[site].hex()
                        for peer, m in masked.items()
                        if peer != site and site in m.sealed
                    },
                    signatures=signatures,
                    **self._federation.ids,
                )
            )
            for site in openers
        }
        answers = self._federation.ask(REVEAL, contents, round_number=round_number)
        revealed = {}
        for site, (reply, _) in answers.items():
            part = _revealed(reply)
            if part is not None:
                revealed[site] = part
        opened = open_sum(
            masked,
            revealed,
            participants=participants,
            threshold=self._study.privacy.share_threshold(self.num_sites),
        )
        transcript = transcript_of(label, participants, inputs, masked, opened)
        return _opened(form.read(opened.words), transcript, summands)


def _opened(
    total: Float64Array, transcript: SumTranscript, summands: Mapping[str, Summand]
) -> OpenedSum:
    return OpenedSum(
        total=total,
        transcript=transcript,
        words={site: summand.words for site, summand in summands.items()},
        replies={site: summand.reply for site, summand in summands.items()},
    )


def _words(records: RecordDict, form: FixedPoint) -> NDArray[Any] | None:
    try:
        words = unpack_array(records, NOISED)
    except FederationError:
        return None
    return words if words.dtype == form.word and words.shape == (form.size,) else None


def _masked(summand: Summand) -> Masked:
    part = summand.masked
    return Masked(
        words=summand.words,
        commitment=part.commitment,
        sealed={site: _bytes(text) for site, text in part.sealed.items()},
        signature=part.signature,
    )


def _revealed(reply: Reply) -> Revealed | None:
    """Return what a site revealed, or None if it is malformed: then its shares are not counted."""
    part = reply.revealed
    if part is None:
        return None
    try:
        shares = {site: Share.from_bytes(_bytes(text)) for site, text in part.shares.items()}
        seeds = {site: _bytes(text) for site, text in part.pair_seeds.items()}
    except FederationError:
        return None
    if any(len(seed) != SEED_BYTES for seed in seeds.values()):
        return None
    return Revealed(shares=shares, pair_seeds=seeds)


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise FederationError("not hexadecimal", code="malformed_message") from None
