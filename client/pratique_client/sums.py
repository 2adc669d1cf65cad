"""The one way in which sums leave this site: histograms, gradient steps and audit counts alike.

Paid for first, then computed, noised, masked, and sent at a time that says nothing.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client.approval import Approval
from pratique_client.run_folder import RunFolder
from pratique_client.site import Site
from pratique_common.errors import FederationError
from pratique_common.parts import MaskedPart, RevealedPart, SignedMaskKey
from pratique_privacy.conclusion import AuditAnswer
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.ledger import Charge
from pratique_privacy.secure_sum.party import Party, check_vector
from pratique_privacy.secure_sum.roster import (
    Roster,
    check_mask_keys,
    session_name,
    sign_mask_key,
)


@dataclass(frozen=True)
class Submission:
    """A site's answer: its noised sum, under masks where the study takes secure sums."""

    words: NDArray[Any]
    masked: MaskedPart | None


class SiteSums:
    """Sums of one run at one site."""

    def __init__(self, site: Site, approval: Approval, run: str, snapshot: str) -> None:
        """Begin a run, or go on with one that a daemon before this one had joined.

        Raises:
            FederationError: the data changed since the site joined.
        """
        self._site, self._approval, self._run = site, approval, run
        self._study = approval.study
        self.folder = RunFolder(site, run)
        state = self.folder.load()
        self.resumed = state is not None
        self._state = state or self.folder.begin(self._study.digest, snapshot)
        if self._state.snapshot != snapshot or self._state.study != self._study.digest:
            raise FederationError("the data changed since this site joined", code="data_changed")
        self._party: Party | None = None
        if self._state.roster:
            self._party = self._take_part(self._state.roster)

    @property
    def _secure(self) -> bool:
        return self._study.privacy.noise == "secure_sum"

    @property
    def num_sites(self) -> int:
        """How many sites' vectors are added in the ring: 1 without a secure sum."""
        if not self._secure:
            return 1
        if self._party is None:
            raise FederationError("no roster was shown to this site", code="no_roster")
        return len(self._state.roster)

    @property
    def mask_key(self) -> SignedMaskKey | None:
        """This site's public mask key, signed; None if the study takes no secure sums."""
        if not self._secure:
            return None
        return sign_mask_key(
            self._site.key,
            self._state.private_mask_key,
            site=self._site.name,
            session=session_name(self._study.digest, self._run),
        )

    @property
    def roster(self) -> tuple[SignedMaskKey, ...]:
        """Everybody's mask keys as this site accepted them."""
        return self._state.roster

    def accept_roster(self, keys: tuple[SignedMaskKey, ...]) -> None:
        """Take part in sums with these sites, for the whole run.

        Raises:
            FederationError: a key that its site did not sign, a site that nobody here approved,
                too few sites, or a second roster.
        """
        if not self._secure:
            raise FederationError("this study takes no secure sums", code="roster_invalid")
        if self._state.roster:
            if keys != self._state.roster:
                raise FederationError("a second roster", code="roster_invalid")
            return
        if len(keys) < self._study.release.min_sites:
            raise FederationError("too few sites", code="too_few_sites")
        self._party = self._take_part(keys)
        self._state = self._state.model_copy(update={"roster": keys})
        self.folder.keep(self._state)

    def _take_part(self, keys: tuple[SignedMaskKey, ...]) -> Party:
        session, privacy = session_name(self._study.digest, self._run), self._study.privacy
        mask_keys = check_mask_keys(list(keys), self._approval.sites, session=session)
        roster = Roster(
            session=session,
            mask_keys=mask_keys,
            tolerated_dropouts=privacy.tolerated_dropouts,
            threshold=privacy.share_threshold(len(mask_keys)),
        )
        return Party(
            self._site.name,
            self._site.key,
            self._state.private_mask_key,
            roster,
            self._approval.sites,
            self.folder.claim,
        )

    def submit(
        self,
        label: str,
        participants: tuple[str, ...],
        form: FixedPoint,
        charges: list[Charge],
        compute: Callable[[], NDArray[np.float64]],
    ) -> Submission:
        """Pay, compute, add noise, mask, and answer at a multiple of the reply interval.

        Args:
            label: names the sum within the run.
            participants: who masks together; not looked at without a secure sum.
            form: how the sum is written, and its noise.
            charges: what it costs.
            compute: returns the exact sum; it is called once, after the charges are on disk.

        Raises:
            FederationError: participants that the roster does not allow, or a sum that was asked
                for before.
            BudgetExceededError: it cannot be paid; nothing was computed.
        """
        started = time.monotonic()
        sum_id = None
        if self._secure:
            sum_id = self._in_roster().sum_id(label, participants, form.size, form.bits)
        self._site.ledger.reserve(charges)
        words = form.protect(compute())
        part = None
        if sum_id is not None:
            masked = self._in_roster().mask(sum_id, words)
            words = masked.words
            part = MaskedPart(
                commitment=masked.commitment,
                sealed={peer: share.hex() for peer, share in masked.sealed.items()},
                signature=masked.signature,
            )
        self._wait_for_interval(started)
        return Submission(words, part)

    def countersign(self, label: str, survivors: tuple[str, ...]) -> str:
        """Return this site's signature under a list of survivors."""
        return self._in_roster().countersign(label, survivors)

    def reveal(
        self,
        label: str,
        survivors: tuple[str, ...],
        sealed: Mapping[str, str],
        signatures: Mapping[str, str],
    ) -> RevealedPart:
        """Return what opens the sum of these survivors, once."""
        try:
            shares = {site: bytes.fromhex(text) for site, text in sealed.items()}
        except ValueError:
            raise FederationError("not a sealed share", code="malformed_message") from None
        revealed = self._in_roster().reveal(label, survivors, shares, signatures)
        return RevealedPart(
            shares={site: share.to_bytes().hex() for site, share in revealed.shares.items()},
            pair_seeds={site: seed.hex() for site, seed in revealed.pair_seeds.items()},
        )

    def check_vectors(
        self, label: str, form: FixedPoint, answers: Mapping[str, AuditAnswer]
    ) -> None:
        """Check that every answer is what its site signed for the sum of exactly these sites.

        Without a secure sum nobody signs vectors and there is nothing to check.

        Raises:
            VerificationError, FederationError, ValueError: it is not.
        """
        if not self._secure:
            return
        sum_id = self._in_roster().sum_id(label, tuple(sorted(answers)), form.size, form.bits)
        for site, answer in answers.items():
            check_vector(
                self._approval.sites[site],
                sum_id.digest,
                answer.vector(form),
                answer.commitment,
                answer.signature,
            )

    def _in_roster(self) -> Party:
        if self._party is None:
            raise FederationError("no roster was shown to this site", code="no_roster")
        return self._party

    def _wait_for_interval(self, started: float) -> None:
        interval_s = self._study.training.reply_interval_s
        if interval_s:
            elapsed_s = time.monotonic() - started
            time.sleep(interval_s - elapsed_s % interval_s)
