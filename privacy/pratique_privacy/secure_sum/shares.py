"""Seeds of self masks, cut into Shamir shares: one for each peer, sealed for that peer alone."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pratique_common.errors import FederationError
from pratique_privacy.secure_sum.masks import derive

SELF_SEED_BYTES = 16
"""One element of GF(2¹²⁸), in which the shares are computed."""

_NONCE_BYTES = 12


@dataclass(frozen=True)
class Share:
    """One point of the polynomial whose value at zero is the seed."""

    index: int
    value: bytes

    def to_bytes(self) -> bytes:
        """Return index (2 bytes) and value (16 bytes)."""
        return self.index.to_bytes(2) + self.value

    @staticmethod
    def from_bytes(data: bytes) -> "Share":
        """Undo ``to_bytes``.

        Raises:
            FederationError: another length.
        """
        if len(data) != 2 + SELF_SEED_BYTES:
            raise FederationError("not a share", code="malformed_message")
        return Share(int.from_bytes(data[:2]), data[2:])


def new_self_seed() -> bytes:
    """Return a fresh seed from the operating system's entropy."""
    return secrets.token_bytes(SELF_SEED_BYTES)


def commit(seed: bytes) -> str:
    """Return the SHA-256 by which a rebuilt seed is known to be the right one."""
    return hashlib.sha256(b"pratique-self-seed-v1\0" + seed).hexdigest()


def cut(seed: bytes, sites: tuple[str, ...], threshold: int) -> dict[str, Share]:
    """Return one share a site; ``threshold`` of them rebuild the seed, fewer tell nothing."""
    points = Shamir.split(threshold, len(sites), seed, ssss=False)
    return {site: Share(i, value) for site, (i, value) in zip(sites, points, strict=True)}


def rebuild(shares: Mapping[str, Share], threshold: int, commitment: str) -> bytes:
    """Return the seed.

    Raises:
        FederationError: too few shares, or shares that are not of this seed.
    """
    chosen = {share.index: share.value for share in shares.values()}
    if len(chosen) < threshold:
        raise FederationError("too few shares", code="sum_lost")
    points = list(chosen.items())[:threshold]
    try:
        seed = bytes(Shamir.combine(points, ssss=False))
    except ValueError:
        raise FederationError("shares that do not fit", code="sum_lost") from None
    if commit(seed) != commitment:
        raise FederationError("shares of another seed", code="sum_lost")
    return seed


def seal(share: Share, secret: bytes, *, sender: str, receiver: str, sum_digest: str) -> bytes:
    """Return a share that only the receiver can read, and only as one for this sum."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    key = derive(secret, "seal", "")
    return nonce + AESGCM(key).encrypt(
        nonce, share.to_bytes(), _label(sender, receiver, sum_digest)
    )


def unseal(sealed: bytes, secret: bytes, *, sender: str, receiver: str, sum_digest: str) -> Share:
    """Undo ``seal``.

    Raises:
        FederationError: it was not sealed by this sender for this receiver and this sum.
    """
    key, nonce, text = derive(secret, "seal", ""), sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        data = AESGCM(key).decrypt(nonce, text, _label(sender, receiver, sum_digest))
    except (InvalidTag, ValueError):
        raise FederationError("a share that was tampered with", code="share_invalid") from None
    return Share.from_bytes(data)


def _label(sender: str, receiver: str, sum_digest: str) -> bytes:
    return "\0".join((sender, receiver, sum_digest)).encode()
