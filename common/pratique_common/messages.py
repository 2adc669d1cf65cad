"""Everything that travels between the coordinator and a site: typed payloads over Flower records.

A reply holds a code, identifiers, keys, hashes, signatures, the budget (which follows from studies,
not from records), what opens masks, and *noised integers*, masked where the study wants secure
sums; nothing else: this module is the only place that turns a site's answer into bytes.
"""

from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pratique_common.canonical import canonical_json, sha256_hex
from pratique_common.errors import FederationError
from pratique_common.parts import (
    CanaryOpening,
    EarlierAudit,
    MaskedPart,
    RevealedPart,
    SignedMaskKey,
    SpentEvent,
    SumTranscript,
)

OK = "ok"
WEIGHTS = "weights"
CANDIDATE = "candidate"
MODEL = "model"
NOISED = "noised"

JOIN = "query.join"
ROSTER = "query.roster"
HISTOGRAMS = "train.histograms"
STEP = "train.step"
AUDIT = "query.audit"
COUNTERSIGN = "query.countersign"
REVEAL = "query.reveal"
CONCLUDE = "query.conclude"

# Labels name sums within a run; ledgers show them as phases.
HISTOGRAMS_LABEL = "histograms"
AUDIT_PREFIX = "audit "

_PAYLOAD = "payload"
_ARRAYS = "arrays"


def vectors_of(number: int) -> str:
    """Return the name of the array with the vectors of a transcript, counted from 0."""
    return f"vectors-{number}"


def state_digest(state: NDArray[np.float32]) -> str:
    """Return the hash of a generator's state, which a round's sum is computed from."""
    return sha256_hex(np.ascontiguousarray(state, "<f4").tobytes())


def step_label(round_number: int) -> str:
    """Return the label of one training round's sum."""
    return f"round {round_number}"


def audit_label(candidate_sha256: str) -> str:
    """Return the label of one candidate's audit counts."""
    return f"{AUDIT_PREFIX}{candidate_sha256}"


class Payload(BaseModel):
    """Base of all messages: unknown fields are refused on both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Instructions(Payload):
    """What the coordinator asks for; every message names the study and the run."""

    study_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    run: str = Field(pattern=r"^[0-9a-z]{1,32}$", description="becomes part of file names")


class JoinInstructions(Instructions):
    """Ask a site to take part, or to come back."""


class RosterInstructions(Instructions):
    """Show a site everybody's mask keys."""

    keys: tuple[SignedMaskKey, ...]


class SumInstructions(Instructions):
    """Ask for a site's summand; ``participants`` are those whose vectors are masked together."""

    participants: tuple[str, ...] = ()


class HistogramInstructions(SumInstructions):
    """Ask for the sum of all one-way histograms."""


class StepInstructions(SumInstructions):
    """Ask for one clipped sum at the generator's state, which travels with the message."""

    round: int


class AuditInstructions(SumInstructions):
    """Ask to attack the candidate table that travels with the message.

    With it travel the model and the sums of training, one array of vectors for each transcript:
    what a site derives the candidate from before it believes in it.
    """

    candidate_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    transcripts: tuple[SumTranscript, ...] = ()


class CountersignInstructions(Instructions):
    """Show a site who survives a sum and ask it to sign that it saw this list."""

    label: str
    survivors: tuple[str, ...]


class RevealInstructions(CountersignInstructions):
    """Ask a site to open a sum of survivors.

    Attributes:
        sealed: survivor → its share for this site.
        signatures: site → its signature under the list; needed if anybody is missing.
    """

    sealed: dict[str, str]
    signatures: dict[str, str] = {}


class ConclusionInstructions(Instructions):
    """Show the coordinator's conclusion and ask for the site's signature under the manifest."""

    manifest_json: str
    report_json: str


class Reply(Payload):
    """What may leave a site besides vectors. ``code`` is ``ok`` or an error's code.

    What was spent, and audited before, follows from the studies that ran, what it lacks from the
    site's own settings, canaries from coins, and none from a record.
    """

    code: str = OK
    site: str = ""
    public_key: str = ""
    identity_signature: str = ""
    holdout_commitment: str = ""
    canary_commitment: str = ""
    lacks: tuple[str, ...] = ()
    mask_key: SignedMaskKey | None = None
    ledger_head: str = ""
    epsilon_spent: float | None = None
    epsilon_budget: float | None = None
    events: tuple[SpentEvent, ...] = ()
    earlier: tuple[EarlierAudit, ...] | None = None
    canaries: CanaryOpening | None = None
    masked: MaskedPart | None = None
    survivors_signature: str = ""
    revealed: RevealedPart | None = None
    manifest_signature: str = ""


IDENTITY_PURPOSE = "join"


def join_statement(
    *, study_digest: str, run: str, site: str, commitment: str, canary_commitment: str
) -> bytes:
    """Return what a site signs when it joins, under ``IDENTITY_PURPOSE``."""
    return canonical_json(
        {
            "study": study_digest,
            "run": run,
            "site": site,
            "holdout_commitment": commitment,
            "canary_commitment": canary_commitment,
        }
    )


P = TypeVar("P", bound=Payload)


def pack(payload: Payload, **arrays: NDArray[Any]) -> RecordDict:
    """Return a payload and its arrays as a Flower record."""
    records = RecordDict({_PAYLOAD: ConfigRecord({"json": payload.model_dump_json()})})
    if arrays:
        records[_ARRAYS] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return records


def unpack(records: RecordDict, kind: type[P]) -> P:
    """Return the payload of a Flower record.

    Raises:
        FederationError: it is not a message of this kind.
    """
    try:
        text = records.config_records[_PAYLOAD]["json"]
        return kind.model_validate_json(str(text))
    except (KeyError, ValidationError):
        raise FederationError(
            f"a message is not a {kind.__name__} of this version", code="malformed_message"
        ) from None


def unpack_array(records: RecordDict, name: str) -> NDArray[Any]:
    """Return one array of a Flower record.

    Raises:
        FederationError: it is not there.
    """
    try:
        return records.array_records[_ARRAYS][name].numpy()
    except (KeyError, ValueError, TypeError):
        raise FederationError(
            f"a message lacks its array '{name}'", code="malformed_message"
        ) from None


def bytes_to_array(data: bytes) -> NDArray[np.uint8]:
    """Return bytes as an array: Flower cuts arrays into chunks, and not bytes values."""
    return np.frombuffer(data, np.uint8)
