"""Secrets of pairs of sites, the seeds of one sum, and the words they expand to.

X25519 → HKDF-SHA256 → one secret a pair and run → HKDF → one seed a pair and sum → AES-256 in
counter mode. A seed is used for one sum only, so that the counter may start at zero.
"""

from typing import Any

import numpy as np
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from pratique_common.errors import FederationError

Words = NDArray[Any]
"""Integers modulo 2³² or 2⁶⁴; arrays of unsigned integers wrap around by themselves."""

SEED_BYTES = 32
_ZERO_COUNTER = bytes(16)


def derive(secret: bytes, purpose: str, context: str) -> bytes:
    """Return 32 bytes for one purpose and context (HKDF-SHA256, RFC 5869)."""
    info = f"pratique-{purpose}-v1\0{context}".encode()
    return HKDF(hashes.SHA256(), SEED_BYTES, salt=None, info=info).derive(secret)


def pair_secret(
    own: X25519PrivateKey, other: str, *, names: tuple[str, str], roster_digest: str
) -> bytes:
    """Return the secret that two sites of a roster share and nobody else knows.

    The names are part of it: several public keys give the same shared point, so a site could sign
    another's key as its own, vanish, and have the other's masks revealed as those with itself.

    Raises:
        FederationError: the other key is no key (of small order).
    """
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
    except (ValueError, InvalidKey):
        raise FederationError("a mask key that is no key", code="roster_invalid") from None
    return derive(shared, "pair", "\0".join((roster_digest, *sorted(names))))


def pair_seed(secret: bytes, sum_digest: str) -> bytes:
    """Return a pair's seed for one sum: it tells nothing of the pair's other seeds."""
    return derive(secret, "mask", sum_digest)


def expand(seed: bytes, size: int, word: np.dtype[Any]) -> Words:
    """Return ``size`` uniform words from a seed."""
    key = derive(seed, "words", "")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(_ZERO_COUNTER)).encryptor()
    return np.frombuffer(encryptor.update(bytes(size * word.itemsize)), word)
