"""A site's part of a secure sum: mask one vector, agree on the survivors, reveal once.

A site sends one masked vector a sum and answers for one list of survivors only. Masking the same
vector again, or revealing for a second list, would show one site's vector by difference; to send or
reveal the same once more shows nothing new.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pratique_common.canonical import canonical_json, sha256_hex
from pratique_common.errors import FederationError, VerificationError
from pratique_common.signing import check_signature, sign
from pratique_privacy.secure_sum.masks import Words, expand, pair_secret, pair_seed
from pratique_privacy.secure_sum.roster import Roster, SumId
from pratique_privacy.secure_sum.shares import Share, commit, cut, new_self_seed, seal, unseal

_VECTOR_PURPOSE = "masked-vector"
_SURVIVORS_PURPOSE = "survivors"

ClaimList = Callable[[str, tuple[str, ...]], bool]
"""(label, survivors) → whether this is the first or the same list; kept on disk before the answer
leaves, so that a restarted site does not answer for another."""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What a site sends first: a vector that looks uniform, and sealed shares of its self mask."""

    words: Words
    commitment: str
    sealed: Mapping[str, bytes]
    signature: str


@dataclass(frozen=True, kw_only=True)
class Open:
    """What a site keeps of a sum until it is opened: its name, and its own share; secret."""

    sum_id: SumId
    own_share: Share


@dataclass(frozen=True, kw_only=True)
class Revealed:
    """What a site sends second: shares for survivors, seeds of its pairs with the missing."""

    shares: Mapping[str, Share]
    pair_seeds: Mapping[str, bytes]


def _vector_statement(sum_id: SumId, words: Words, commitment: str) -> bytes:
    little_endian = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    return canonical_json([sum_id.digest, sha256_hex(little_endian.tobytes()), commitment])


def sign_vector(identity: Ed25519PrivateKey, sum_id: SumId, words: Words, commitment: str) -> str:
    """Return a site's signature under the vector that it sends for a sum."""
    return sign(identity, _VECTOR_PURPOSE, _vector_statement(sum_id, words, commitment))


def check_vector(
    identity: str, sum_id: SumId, words: Words, commitment: str, signature: str
) -> None:
    """Raise VerificationError unless the site of this identity sent this vector for this sum."""
    statement = _vector_statement(sum_id, words, commitment)
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
            site: pair_secret(mask_key, key, names=(name, site), roster_digest=roster.digest)
            for site, key in roster.mask_keys.items()
            if site != name
        }
        self._open: Open | None = None
        self._used: set[str] = set()

    def go_on(self, open_: Open) -> None:
        """Take up a sum that a process before this one masked a vector for."""
        self._open = open_
        self._used.add(open_.sum_id.label)

    def mask(self, sum_id: SumId, words: Words) -> tuple[Masked, Open]:
        """Return a vector under the masks of this sum, and what opens it later.

        The sum before it can be opened no more.

        Args:
            sum_id: from ``Roster.sum_id``.
            words: the site's summand, its noise share included.

        Raises:
            FederationError: this site is no participant, or masked a vector for this label before.
        """
        if self._name not in sum_id.participants:
            raise FederationError("not participants of this run", code="participants_invalid")
        if sum_id.label in self._used:
            raise FederationError("a sum was asked for twice", code="repeated_request")
        self._used.add(sum_id.label)
        seed = new_self_seed()
        masked = words + expand(seed, sum_id.size, words.dtype)
        for peer in self._peers(sum_id):
            mask = expand(self._pair_seed(peer, sum_id), sum_id.size, words.dtype)
            masked = masked + mask if adds(self._name, peer) else masked - mask
        shares = cut(seed, sum_id.participants, self._roster.threshold)
        self._open = Open(sum_id=sum_id, own_share=shares[self._name])
        commitment = commit(seed)
        masked_vector = Masked(
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
            signature=sign_vector(self._identity, sum_id, masked, commitment),
        )
        return masked_vector, self._open

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
        """Return what opens the sum of the survivors, for one list only.

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
        return Revealed(
            shares=shares, pair_seeds={peer: self._pair_seed(peer, sum_id) for peer in missing}
        )

    def _checked(self, label: str, survivors: tuple[str, ...]) -> tuple[SumId, Share]:
        """Return an open sum after claiming it for this list of survivors."""
        if self._open is None or self._open.sum_id.label != label:
            raise FederationError("this site has no such open sum", code="sum_unknown")
        sum_id, own_share = self._open.sum_id, self._open.own_share
        ordered = tuple(sorted(set(survivors)))
        if ordered != survivors or not set(survivors) <= set(sum_id.participants):
            raise FederationError("not survivors of this sum", code="survivors_invalid")
        if self._name not in survivors or len(survivors) < self._roster.least_survivors:
            raise FederationError("too few survivors", code="too_few_survivors")
        if not self._claim(label, survivors):
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
