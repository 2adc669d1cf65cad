"""A site's part of a secure sum: mask one vector, agree on the survivors, reveal once.

A site sends one masked vector a sum and answers for one list of survivors only. Masking the same
vector again, or revealing for a second list, would show one site's vector by difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pratique_common.canonical import canonical_json, digest, sha256_hex
from pratique_common.errors import FederationError, VerificationError
from pratique_common.signing import check_signature, sign
from pratique_privacy.secure_sum.masks import Words, expand, pair_secret, pair_seed
from pratique_privacy.secure_sum.roster import Roster
from pratique_privacy.secure_sum.shares import Share, commit, cut, new_self_seed, seal, unseal

_VECTOR_PURPOSE = "masked-vector"
_SURVIVORS_PURPOSE = "survivors"

ClaimList = Callable[[str, str], bool]
"""(label, digest of a list of survivors) → whether this is the first or the same list; kept on disk
before the answer leaves, so that a restarted site does not answer for another."""


@dataclass(frozen=True, kw_only=True)
class SumId:
    """Names one sum; masks, shares and signatures of two sums have nothing in common.

    Attributes:
        roster: digest of the roster.
        label: which sum of the run.
        participants: who masks with whom.
        size, bits: of the vector.
    """

    roster: str
    label: str
    participants: tuple[str, ...]
    size: int
    bits: int

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return digest([self.roster, self.label, list(self.participants), self.size, self.bits])


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What a site sends first: a vector that looks uniform, and sealed shares of its self mask."""

    words: Words
    commitment: str
    sealed: Mapping[str, bytes]
    signature: str


@dataclass(frozen=True, kw_only=True)
class Revealed:
    """What a site sends second: shares for survivors, seeds of its pairs with the missing."""

    shares: Mapping[str, Share]
    pair_seeds: Mapping[str, bytes]


def vector_statement(sum_digest: str, words: Words, commitment: str) -> bytes:
    """Return what a site signs when it sends a masked vector."""
    little_endian = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    return canonical_json([sum_digest, sha256_hex(little_endian.tobytes()), commitment])


def check_vector(
    identity: str, sum_digest: str, words: Words, commitment: str, signature: str
) -> None:
    """Raise VerificationError unless the site of this identity sent this vector for this sum."""
    statement = vector_statement(sum_digest, words, commitment)
    check_signature(identity, _VECTOR_PURPOSE, statement, signature)


def adds(own: str, other: str) -> bool:
    """Return whether ``own`` adds the mask it has with ``other``; the other one subtracts it."""
    return own < other


class Party:
    """One site in one session."""

    def __init__(
        self,
        name: str,
        identity: Ed25519PrivateKey,
        mask_key: X25519PrivateKey,
        roster: Roster,
        identities: Mapping[str, str],
        claim: ClaimList,
    ) -> None:
        """Take part in ``roster``, whose keys the caller has checked.

        Args:
            name: the site's own.
            identity: its Ed25519 key.
            mask_key: its X25519 key of this session.
            roster: everybody, this site included.
            identities: site → Ed25519 public key, from what a person at this site approved.
            claim: remembers the one list of survivors that each sum is opened for.

        Raises:
            FederationError: this site does not stand in the roster with its own key.
        """
        if roster.mask_keys.get(name) != mask_key.public_key().public_bytes_raw().hex():
            raise FederationError("this site is not in the roster", code="roster_invalid")
        self._name, self._identity, self._roster = name, identity, roster
        self._identities, self._claim = identities, claim
        self._secrets = {
            site: pair_secret(mask_key, key, roster.digest)
            for site, key in roster.mask_keys.items()
            if site != name
        }
        self._open: dict[str, tuple[SumId, Share]] = {}
        self._used: set[str] = set()

    def sum_id(self, label: str, participants: tuple[str, ...], size: int, bits: int) -> SumId:
        """Return the sum's name after checking who takes part.

        Raises:
            FederationError: strangers, too few, or without this site.
        """
        known = set(participants) <= set(self._roster.sites)
        ordered = tuple(sorted(set(participants)))
        if not known or ordered != participants or self._name not in participants:
            raise FederationError("not participants of this run", code="participants_invalid")
        if len(participants) < self._roster.least_survivors:
            raise FederationError("too few participants", code="too_few_sites")
        return SumId(
            roster=self._roster.digest,
            label=label,
            participants=participants,
            size=size,
            bits=bits,
        )

    def mask(self, sum_id: SumId, words: Words) -> Masked:
        """Return a vector under the masks of this sum.

        Args:
            sum_id: from ``sum_id``.
            words: the site's summand, its noise share included.

        Raises:
            FederationError: a vector was masked for this label before.
        """
        if sum_id.label in self._used:
            raise FederationError("a sum was asked for twice", code="repeated_request")
        self._used.add(sum_id.label)
        seed = new_self_seed()
        masked = words + expand(seed, sum_id.size, words.dtype)
        for peer in self._peers(sum_id):
            mask = expand(self._pair_seed(peer, sum_id), sum_id.size, words.dtype)
            masked = masked + mask if adds(self._name, peer) else masked - mask
        shares = cut(seed, sum_id.participants, self._roster.threshold)
        self._open[sum_id.label] = (sum_id, shares[self._name])
        commitment = commit(seed)
        statement = vector_statement(sum_id.digest, masked, commitment)
        return Masked(
            words=masked,
            commitment=commitment,
            sealed={
                peer: seal(
                    shares[peer],
                    self._secrets[peer],
                    sender=self._name,
                    receiver=peer,
                    sum_digest=sum_id.digest,
                )
                for peer in self._peers(sum_id)
            },
            signature=sign(self._identity, _VECTOR_PURPOSE, statement),
        )

    def countersign(self, label: str, survivors: tuple[str, ...]) -> str:
        """Return a signature that says: of this sum exactly these sites survive.

        Raises:
            FederationError: a list that may not be opened, or a second one.
        """
        sum_id, _ = self._checked(label, survivors)
        return sign(self._identity, _SURVIVORS_PURPOSE, _survivors_statement(sum_id, survivors))

    def reveal(
        self,
        label: str,
        survivors: tuple[str, ...],
        sealed: Mapping[str, bytes],
        signatures: Mapping[str, str],
    ) -> Revealed:
        """Return what opens the sum of the survivors, once and for one list only.

        Args:
            label: of the sum.
            survivors: the sites whose vectors are added.
            sealed: site → its share for this site, for every survivor but this site.
            signatures: site → ``countersign`` of this list; needed if a participant is missing.

        Raises:
            FederationError: any of it may not be answered; nothing is revealed.
        """
        sum_id, own_share = self._checked(label, survivors)
        missing = set(sum_id.participants) - set(survivors)
        if missing:
            self._require_agreement(sum_id, survivors, signatures)
        shares = {self._name: own_share}
        for peer in set(survivors) - {self._name}:
            if peer not in sealed:
                raise FederationError("a survivor's share is not there", code="share_invalid")
            shares[peer] = unseal(
                sealed[peer],
                self._secrets[peer],
                sender=peer,
                receiver=self._name,
                sum_digest=sum_id.digest,
            )
        del self._open[label]
        return Revealed(
            shares=shares, pair_seeds={peer: self._pair_seed(peer, sum_id) for peer in missing}
        )

    def _checked(self, label: str, survivors: tuple[str, ...]) -> tuple[SumId, Share]:
        """Return an open sum after claiming it for this list of survivors."""
        if label not in self._open:
            raise FederationError("this site has no such open sum", code="sum_unknown")
        sum_id, own_share = self._open[label]
        ordered = tuple(sorted(set(survivors)))
        if ordered != survivors or not set(survivors) <= set(sum_id.participants):
            raise FederationError("not survivors of this sum", code="survivors_invalid")
        if self._name not in survivors or len(survivors) < self._roster.least_survivors:
            raise FederationError("too few survivors", code="too_few_survivors")
        if not self._claim(label, digest(list(survivors))):
            raise FederationError("a second list of survivors", code="second_list")
        return sum_id, own_share

    def _require_agreement(
        self, sum_id: SumId, survivors: tuple[str, ...], signatures: Mapping[str, str]
    ) -> None:
        statement = _survivors_statement(sum_id, survivors)
        agreeing = 0
        for site in set(survivors) & set(signatures):
            try:
                check_signature(
                    self._identities[site], _SURVIVORS_PURPOSE, statement, signatures[site]
                )
            except VerificationError:
                raise FederationError("a false signature", code="survivors_disputed") from None
            agreeing += 1
        if agreeing < self._roster.threshold:
            raise FederationError("too few sites saw this list", code="survivors_disputed")

    def _peers(self, sum_id: SumId) -> tuple[str, ...]:
        return tuple(site for site in sum_id.participants if site != self._name)

    def _pair_seed(self, peer: str, sum_id: SumId) -> bytes:
        return pair_seed(self._secrets[peer], sum_id.digest)


def _survivors_statement(sum_id: SumId, survivors: tuple[str, ...]) -> bytes:
    return canonical_json({"sum": sum_id.digest, "survivors": list(survivors)})
