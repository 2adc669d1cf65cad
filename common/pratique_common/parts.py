"""Parts of messages that also stand in reports: they know nothing of how messages travel."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pratique_common.bundle import Decision


class Part(BaseModel):
    """Base of all parts: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SignedMaskKey(Part):
    """A site's X25519 public key for one run, signed with its Ed25519 identity."""

    site: str
    mask_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


class MaskedPart(Part):
    """What travels beside a masked vector: sealed shares of its self mask, and a signature."""

    commitment: str
    sealed: dict[str, str]
    signature: str


class RevealedPart(Part):
    """What opens a sum: shares of survivors' self masks, seeds of pairs with the missing."""

    shares: dict[str, str]
    pair_seeds: dict[str, str]


class SumProof(Part):
    """That a vector is its site's, and what takes its masks off the sum.

    Attributes:
        commitment: of the seed of the self mask; empty without masks, as the seeds are.
        signature: the site's, under sum, vector and commitment.
        self_seed: rebuilt by the coordinator; it opens the sum and no summand.
        pair_seeds: missing site → seed of the mask that the two shared.
    """

    commitment: str
    signature: str
    self_seed: str = ""
    pair_seeds: dict[str, str] = {}


class SumTranscript(Part):
    """An opened sum but for its vectors, which travel beside it: whoever has both can repeat it.

    Attributes:
        label: which sum of the run.
        participants: who masked with whom.
        inputs: hash of what it was computed from besides records.
        proofs: survivor → its proof.
    """

    label: str
    participants: tuple[str, ...]
    inputs: str
    proofs: dict[str, SumProof]


class SpentEvent(Part):
    """What a ledger says happened to one role in a run; it follows from the study alone."""

    role: Literal["member", "holdout"]
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    num_steps: int = Field(ge=1)


class EarlierAudit(Part):
    """An audit of the same study that a site's ledger was charged for before this run's.

    Attributes:
        run, candidate_sha256: of what.
        day: when it was charged, in UTC.
        decision: which this site signed; None if none.
    """

    run: str = Field(pattern=r"^[0-9a-z]{1,32}$")
    candidate_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    day: date
    decision: Decision | None = None


class CanaryOpening(Part):
    """A site's coins of its canaries and the salt of its commitment to them, hexadecimal."""

    coins: str = Field(max_length=10_000)
    salt: str = Field(pattern=r"^[0-9a-f]{64}$")
