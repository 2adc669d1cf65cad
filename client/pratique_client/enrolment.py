"""What a site is in a run: its secrets of this run, its roster, and how sums are named with it.

It is on disk before anything is answered; a daemon that is started again finds it there.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pratique_client.approval import Approval
from pratique_client.run_folder import RunFolder, RunState
from pratique_client.site import Site
from pratique_common.errors import FederationError
from pratique_common.parts import SignedMaskKey
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canary_coins import Coins
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.secure_sum.party import Party
from pratique_privacy.secure_sum.roster import (
    Roster,
    SumId,
    check_mask_keys,
    session_name,
    sign_mask_key,
)


class Enrolment:
    """One site in one run."""

    def __init__(self, site: Site, approval: Approval, run: str, snapshot: str) -> None:
        """Begin a run, or go on with one that a daemon before this one had joined.

        Args:
            site: this site.
            approval: of the study.
            run: the coordinator's name for the run.
            snapshot: hash of the site's data.

        Raises:
            FederationError: the data changed since the site joined, or the run's files are gone.
        """
        self.site, self.study, self.run = site, approval.study, run
        self.identities: Mapping[str, str] = approval.sites
        self._session = session_name(self.study.digest, run)
        self.folder = RunFolder(site, run)
        state = self.folder.load()
        # Begun anew, a run that was paid for would take a second roster and other lists.
        if state is None and site.ledger.entries_of(self.study.digest, run):
            raise FederationError(
                "the run was paid for, and its files are gone; it joins the next run",
                code="run_damaged",
            )
        self._state = state or self.folder.begin(self.study.digest, snapshot)
        if self._state.snapshot != snapshot or self._state.study != self.study.digest:
            raise FederationError("the data changed since this site joined", code="data_changed")
        self._roster = self._checked(self._state.roster) if self._state.roster else None

    @property
    def is_secure(self) -> bool:
        """Whether the study takes secure sums."""
        return self.study.privacy.noise == "secure_sum"

    @property
    def is_concluded(self) -> bool:
        """Whether no sum is answered any more."""
        return self._state.mask_key is None

    @property
    def is_on_roster(self) -> bool:
        """Whether this site knows with whom it takes sums."""
        return self._roster is not None

    @property
    def num_sites(self) -> int:
        """How many sites' vectors are added in the ring: 1 without a secure sum."""
        return len(self.roster.sites) if self.is_secure else 1

    @property
    def salt(self) -> bytes:
        """What the commitment to the hold-out is salted with."""
        return bytes.fromhex(self._state.salt)

    @property
    def coins(self) -> Coins:
        """Which of this site's canaries are there; secret until training is over."""
        return Coins.of(self._state.canaries)

    @property
    def canaries(self) -> NDArray[np.bool_]:
        """For each canary that this site has in its sums, whether it is there."""
        places = self._own_places
        return self.coins.first(places.stop - places.start)

    def in_own_places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return canaries' values (..., canaries), flat, with zeros in other sites' places."""
        reserved = np.zeros((*values.shape[:-1], PrivacyPlan(self.study).reserved))
        reserved[..., self._own_places] = values
        return reserved.ravel()

    @property
    def _own_places(self) -> slice:
        rank = self.roster.sites.index(self.site.name) if self.is_secure else 0
        return PrivacyPlan(self.study).canaries_of(rank, self.num_sites)

    @property
    def mask_key(self) -> SignedMaskKey | None:
        """This site's public mask key, signed; None if the study takes no secure sums."""
        if not self.is_secure:
            return None
        if self.is_concluded:  # shown again, but no sum is answered
            return next(key for key in self._state.roster if key.site == self.site.name)
        return sign_mask_key(
            self.site.key,
            self._state.private_mask_key,
            site=self.site.name,
            session=self._session,
        )

    @property
    def mask_keys(self) -> tuple[SignedMaskKey, ...]:
        """Everybody's mask keys as this site accepted them."""
        return self._state.roster

    @property
    def roster(self) -> Roster:
        """With whom this site takes sums, for the whole run.

        Raises:
            FederationError: none was shown.
        """
        if self._roster is None:
            raise FederationError("no roster was shown to this site", code="no_roster")
        return self._roster

    def accept_roster(self, keys: tuple[SignedMaskKey, ...]) -> None:
        """Take part in sums with these sites, for the whole run.

        Raises:
            FederationError: a key that its site did not sign, a site that nobody here approved,
                too few sites, or a second roster.
        """
        if not self.is_secure:
            raise FederationError("this study takes no secure sums", code="roster_invalid")
        if self._state.roster:
            if keys != self._state.roster:
                raise FederationError("a second roster", code="roster_invalid")
            return
        if len(keys) < self.study.release.min_sites:
            raise FederationError("too few sites", code="too_few_sites")
        roster = self._checked(keys)
        self._replace(self._state.model_copy(update={"roster": keys}))
        self._roster = roster

    def _checked(self, keys: tuple[SignedMaskKey, ...]) -> Roster:
        privacy = self.study.privacy
        mask_keys = check_mask_keys(list(keys), self.identities, session=self._session)
        return Roster(
            session=self._session,
            mask_keys=mask_keys,
            tolerated_dropouts=privacy.tolerated_dropouts,
            threshold=privacy.share_threshold(len(mask_keys)),
        )

    def party(self) -> Party:
        """Return this site's part in secure sums, before it answered any.

        Raises:
            FederationError: no roster was shown, or the run was concluded.
        """
        return Party(
            self.site.name,
            self.site.key,
            self._state.private_mask_key,
            self.roster,
            self.identities,
            self.folder.claim,
        )

    def conclude(self) -> None:
        """Remove the private mask key: no sum is asked for any more."""
        self.folder.forget_sum()
        self._replace(self._state.model_copy(update={"mask_key": None}))

    def _replace(self, state: RunState) -> None:
        """Go on with a state that is on disk."""
        self.folder.keep(state)
        self._state = state

    def sum_id(
        self, label: str, participants: tuple[str, ...], form: FixedPoint, inputs: str
    ) -> SumId:
        """Return the name of a sum of this run.

        Raises:
            FederationError: no roster was shown, or it does not allow these participants.
        """
        if self.is_secure:
            return self.roster.sum_id(
                label, participants, inputs=inputs, size=form.size, bits=form.bits
            )
        # Without masks each vector stands for itself, whoever else takes part.
        return SumId(
            roster=self._session,
            label=label,
            participants=(),
            inputs=inputs,
            size=form.size,
            bits=form.bits,
        )
