"""An opened sum as evidence: each vector signed by its site, and the seeds of all masks.

A site opens it again and so knows the sum, whatever the coordinator says it is. It learns no
summand: masked vectors and the survivors' seeds tell the sum and nothing more, as the coordinator
sees them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.errors import FederationError, VerificationError
from pratique_common.parts import SumProof, SumTranscript
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.secure_sum.masks import SEED_BYTES
from pratique_privacy.secure_sum.opening import OpenedSum, without_masks
from pratique_privacy.secure_sum.party import Masked, check_vector
from pratique_privacy.secure_sum.roster import Roster
from pratique_privacy.secure_sum.shares import SELF_SEED_BYTES, commit

Float64Array = NDArray[np.float64]


def transcript_of(
    label: str,
    participants: tuple[str, ...],
    inputs: str,
    masked: Mapping[str, Masked],
    opened: OpenedSum,
) -> SumTranscript:
    """Return what proves an opened sum, but for its vectors."""
    proofs = {
        site: SumProof(
            commitment=vector.commitment,
            signature=vector.signature,
            self_seed=opened.self_seeds[site].hex(),
            pair_seeds={peer: seed.hex() for peer, seed in opened.pair_seeds[site].items()},
        )
        for site, vector in sorted(masked.items())
    }
    return SumTranscript(label=label, participants=participants, inputs=inputs, proofs=proofs)


def open_again(
    transcript: SumTranscript,
    vectors: NDArray[Any],
    form: FixedPoint,
    roster: Roster,
    identities: Mapping[str, str],
) -> Float64Array:
    """Return the sum, (size,), after checking that every vector is the one its site signed.

    Args:
        transcript: of the sum.
        vectors: (survivors, size), in the order of the sites' names.
        form: how the sum is written.
        roster: of the run, as this site accepted it.
        identities: site → Ed25519 public key, from what a person at this site approved.

    Raises:
        FederationError: it is not a sum that these sites may have opened.
    """
    sum_id = roster.sum_id(
        transcript.label,
        transcript.participants,
        inputs=transcript.inputs,
        size=form.size,
        bits=form.bits,
    )
    survivors = sorted(transcript.proofs)
    if (
        len(survivors) < roster.least_survivors
        or not set(survivors) <= set(transcript.participants)
        or vectors.shape != (len(survivors), form.size)
        or vectors.dtype != form.word
    ):
        raise _false()
    words = dict(zip(survivors, vectors, strict=True))
    self_seeds: dict[str, bytes] = {}
    pair_seeds: dict[str, dict[str, bytes]] = {}
    for site, proof in transcript.proofs.items():
        try:
            check_vector(identities[site], sum_id, words[site], proof.commitment, proof.signature)
        except (VerificationError, KeyError):
            raise _false() from None
        self_seeds[site] = _seed(proof.self_seed, SELF_SEED_BYTES)
        pair_seeds[site] = {peer: _seed(s, SEED_BYTES) for peer, s in proof.pair_seeds.items()}
        if commit(self_seeds[site]) != proof.commitment:
            raise _false()
    missing = sorted(set(transcript.participants) - set(survivors))
    return form.read(without_masks(words, self_seeds, pair_seeds, missing=missing))


def _seed(text: str, size: int) -> bytes:
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        raise _false() from None
    if len(seed) != size:
        raise _false()
    return seed


def _false() -> FederationError:
    return FederationError("a sum that its sites did not sign", code="transcript_invalid")
