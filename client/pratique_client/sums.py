"""The one way in which sums leave this site: histograms, gradient steps and audit counts alike.

Paid for first, then computed, noised, signed and, where the study takes secure sums, masked. What
is ready is on disk before it is sent: asked again, this site sends the same bytes, and its noise is
drawn once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pratique_client.enrolment import Enrolment
from pratique_common.errors import FederationError
from pratique_common.parts import MaskedPart, RevealedPart, SignedMaskKey, SumTranscript
from pratique_privacy.evidence import AuditAnswer
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.ledger import Charge
from pratique_privacy.secure_sum.party import Open, Party, check_vector, sign_vector
from pratique_privacy.secure_sum.roster import SumId
from pratique_privacy.secure_sum.shares import Share
from pratique_privacy.secure_sum.transcript import open_again


class StoredSum(BaseModel):
    """The last answer to a sum, but for its words.

    Attributes:
        sum_id: what was asked.
        masked: what travelled beside the words.
        own_share: of the seed of the self mask, hexadecimal; secret, empty without a secure sum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sum_id: SumId
    masked: MaskedPart
    own_share: str = ""


@dataclass(frozen=True)
class Submission:
    """A site's answer: its noised sum, under masks where the study takes secure sums."""

    words: NDArray[Any]
    masked: MaskedPart


class SiteSums:
    """Sums of one run at one site."""

    def __init__(self, enrolment: Enrolment) -> None:
        """Go on with what is on disk."""
        self.enrolment = enrolment
        self._site, self._study, self._run = enrolment.site, enrolment.study, enrolment.run
        self.folder = enrolment.folder
        self._last = self.folder.stored_sum(StoredSum)
        self._party = self._as_on_disk()

    def _as_on_disk(self) -> Party | None:
        """Return this site's part in the sums as a daemon finds it that was started again."""
        if not self.enrolment.is_on_roster or self.enrolment.is_concluded:
            return None
        party = self.enrolment.party()
        if self._last is not None:
            stored, _ = self._last
            share = Share.from_bytes(bytes.fromhex(stored.own_share))
            party.go_on(Open(sum_id=stored.sum_id, own_share=share))
        return party

    def accept_roster(self, keys: tuple[SignedMaskKey, ...]) -> None:
        """Take part in sums with these sites; as the enrolment's."""
        self.enrolment.accept_roster(keys)
        if self._party is None:
            self._party = self._as_on_disk()

    def conclude(self) -> None:
        """Answer no sum any more."""
        self.enrolment.conclude()
        self._party = self._last = None

    def submit(
        self,
        label: str,
        participants: tuple[str, ...],
        form: FixedPoint,
        charges: list[Charge],
        compute: Callable[[], NDArray[np.float64]],
        *,
        inputs: str = "",
    ) -> Submission:
        """Pay, compute, add noise, mask, sign and keep; or send again what was kept.

        A sum that was paid for last and has no answer on disk was cut short: nothing of it left, so
        it is computed again and not paid again.

        Args:
            label: names the sum within the run.
            participants: who masks together; not looked at without a secure sum.
            form: how the sum is written, and its noise.
            charges: what it costs.
            compute: returns the exact sum; it is called once, after the charges are on disk.
            inputs: hash of what else the sum is computed from.

        Raises:
            FederationError: participants that the roster does not allow, or a sum that was paid
                for before and is not the last one.
            BudgetExceededError: it cannot be paid; nothing was computed.
        """
        sum_id = self.enrolment.sum_id(label, participants, form, inputs)
        if self.enrolment.is_secure and self._site.name not in participants:
            raise FederationError("a sum without this site", code="participants_invalid")
        with self.folder.locked():
            self._last = self.folder.stored_sum(StoredSum)
            if (again := self._sent(sum_id, form)) is not None:
                return again
            if self.enrolment.is_concluded:
                raise FederationError("this run was concluded", code="run_concluded")
            if self._was_cut_short(label, charges):
                self._party = self._as_on_disk()
            else:
                self._site.reserve(charges)
            return self._answer(sum_id, form, compute)

    def _was_cut_short(self, label: str, charges: list[Charge]) -> bool:
        """Return whether these were paid last, and what they pay for is nowhere on disk."""
        paid = self._site.ledger.entries_of(self._study.digest, self._run)
        last = [(entry.role, entry.phase) for entry in paid[-len(charges) :]]
        return (
            last == [(charge.role, charge.phase) for charge in charges]
            and not self.is_answered(label)
            and not self.folder.has_claimed(label)
        )

    def _answer(
        self, sum_id: SumId, form: FixedPoint, compute: Callable[[], NDArray[np.float64]]
    ) -> Submission:
        party = self._in_party() if self.enrolment.is_secure else None
        words = form.protect(compute())
        if party is None:
            signature = sign_vector(self._site.key, sum_id, words, "")
            part = MaskedPart(commitment="", sealed={}, signature=signature)
            return self._keep(StoredSum(sum_id=sum_id, masked=part), words)
        masked, open_ = party.mask(sum_id, words)
        part = MaskedPart(
            commitment=masked.commitment,
            sealed={peer: share.hex() for peer, share in masked.sealed.items()},
            signature=masked.signature,
        )
        own_share = open_.own_share.to_bytes().hex()
        stored = StoredSum(sum_id=sum_id, masked=part, own_share=own_share)
        return self._keep(stored, masked.words)

    def is_answered(self, label: str) -> bool:
        """Return whether the last answer was to the sum of this name."""
        return self._last is not None and self._last[0].sum_id.label == label

    def _keep(self, stored: StoredSum, words: NDArray[Any]) -> Submission:
        last = stored, words.tobytes()
        self.folder.store_sum(*last)
        self._last = last
        return Submission(words, stored.masked)

    def _sent(self, sum_id: SumId, form: FixedPoint) -> Submission | None:
        """Return what was answered to exactly this sum, if it was the last one."""
        if self._last is None or self._last[0].sum_id != sum_id:
            return None
        stored, words = self._last
        return Submission(np.frombuffer(words, form.word), stored.masked)

    def countersign(self, label: str, survivors: tuple[str, ...]) -> str:
        """Return this site's signature under a list of survivors."""
        return self._in_party().countersign(label, survivors)

    def reveal(
        self,
        label: str,
        survivors: tuple[str, ...],
        sealed: Mapping[str, str],
        signatures: Mapping[str, str],
    ) -> RevealedPart:
        """Return what opens the sum of these survivors."""
        try:
            shares = {site: bytes.fromhex(text) for site, text in sealed.items()}
        except ValueError:
            raise FederationError("not a sealed share", code="malformed_message") from None
        revealed = self._in_party().reveal(label, survivors, shares, signatures)
        return RevealedPart(
            shares={site: share.to_bytes().hex() for site, share in revealed.shares.items()},
            pair_seeds={site: seed.hex() for site, seed in revealed.pair_seeds.items()},
        )

    def check_vectors(
        self, label: str, form: FixedPoint, answers: Mapping[str, AuditAnswer]
    ) -> None:
        """Check that every answer is what its site signed for the sum of exactly these sites.

        Raises:
            VerificationError, FederationError, ValueError: it is not.
        """
        sum_id = self.enrolment.sum_id(label, tuple(sorted(answers)), form, "")
        for site, answer in answers.items():
            if site not in self.enrolment.identities:
                raise FederationError("a site nobody here agreed to", code="roster_invalid")
            check_vector(
                self.enrolment.identities[site],
                sum_id,
                answer.vector(form),
                answer.commitment,
                answer.signature,
            )

    def open_again(
        self, transcript: SumTranscript, vectors: NDArray[Any], form: FixedPoint
    ) -> NDArray[np.float64]:
        """Return an opened sum after checking what every site signed, and that it is the one.

        Raises:
            FederationError: a false transcript, or a second list of survivors.
        """
        survivors = tuple(sorted(transcript.proofs))
        total = open_again(
            transcript, vectors, form, self.enrolment.roster, identities=self.enrolment.identities
        )
        mine = self._site.name in survivors
        if mine and not self.folder.claim(transcript.label, survivors):
            raise FederationError("a second list of survivors", code="second_list")
        return total

    def _in_party(self) -> Party:
        if self._party is None:
            raise FederationError("no roster was shown to this site", code="no_roster")
        return self._party
