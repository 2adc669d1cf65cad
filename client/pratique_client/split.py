"""Who trains and who is held out: fixed by a keyed hash before anything is computed.

A keyed hash gives every patient an independent role, so that adding a patient changes nobody else's
(a permutation would, and would break the accounting). The hold-out never touches training.
"""

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

from pratique_client.site import Site

_DIGEST_BITS = 256


def is_holdout(secret: bytes, study_digest: str, patient: str, fraction: float) -> bool:
    """Return whether a patient is held out: HMAC(secret, study ‖ patient) below the fraction."""
    message = bytes.fromhex(study_digest) + patient.encode()
    value = int.from_bytes(hmac.digest(secret, message, hashlib.sha256))
    return value < int(fraction * 2**53) << (_DIGEST_BITS - 53)


def holdout_mask(
    site: Site, study_digest: str, patients: NDArray[np.object_], fraction: float
) -> NDArray[np.bool_]:
    """Return the role of each of P different patients."""
    secret = site.split_secret
    return np.array([is_holdout(secret, study_digest, str(p), fraction) for p in patients], bool)


def commitment(salt: bytes, held_out: NDArray[np.object_]) -> str:
    """Return a commitment to the hold-out that reveals nothing about it.

    SHA-256(salt ‖ sorted ids); the site draws a salt whenever it begins a run and keeps it, so that
    it can open the commitment to an auditor. Nobody else can guess it, nor tell from two of them
    whether the hold-out changed.
    """
    sha = hashlib.sha256(salt)
    for patient in sorted(str(p) for p in held_out):
        # A length before each id, so that two lists never spell the same bytes.
        sha.update(len(patient.encode()).to_bytes(4) + patient.encode())
    return sha.hexdigest()
