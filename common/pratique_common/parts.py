"""Parts of messages that also stand in reports: they know nothing of how messages travel."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class SpentEvent(Part):
    """What a ledger says happened to one role in a run; it follows from the study alone."""

    role: Literal["member", "holdout"]
    noise_multiplier: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    num_steps: int = Field(ge=1)


class CanaryOpening(Part):
    """A site's coins of its canaries and the salt of its commitment to them, hexadecimal."""

    coins: str = Field(max_length=10_000)
    salt: str = Field(pattern=r"^[0-9a-f]{64}$")
