"""Everything that travels between the coordinator and a site: typed payloads over Flower records.

A reply holds a code, identifiers, hashes, signatures, the budget (which follows from studies, not
from records) and *noised integers*, and nothing else: this module is the only place that turns a
site's answer into bytes.
"""

from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pratique_common.canonical import canonical_json
from pratique_common.errors import FederationError

OK = "ok"
WEIGHTS = "weights"
CANDIDATE = "candidate"
NOISED = "noised"

JOIN = "query.join"
HISTOGRAMS = "train.histograms"
STEP = "train.step"
AUDIT = "query.audit"
CONCLUDE = "query.conclude"

_PAYLOAD = "payload"
_ARRAYS = "arrays"


class Payload(BaseModel):
    """Base of all messages: unknown fields are refused on both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Instructions(Payload):
    """What the coordinator asks for; every message names the study and the run."""

    study_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    run: str = Field(pattern=r"^[0-9a-z]{1,32}$", description="becomes part of file names")


class JoinInstructions(Instructions):
    """Ask a site to take part."""


class HistogramInstructions(Instructions):
    """Ask for the noised sum of all one-way histograms."""


class StepInstructions(Instructions):
    """Ask for one noised, clipped gradient sum at the weights that travel with the message."""

    round: int


class AuditInstructions(Instructions):
    """Ask to attack the candidate table that travels with the message."""

    candidate_sha256: str
    attempt: int


class ConclusionInstructions(Instructions):
    """Show the coordinator's conclusion and ask for the site's signature under the manifest."""

    manifest_json: str
    report_json: str


class Reply(Payload):
    """What may leave a site besides noised integers. ``code`` is ``ok`` or an error's code.

    What was spent follows from the studies that ran and from no record.
    """

    code: str = OK
    site: str = ""
    public_key: str = ""
    identity_signature: str = ""
    holdout_commitment: str = ""
    ledger_head: str = ""
    epsilon_spent: float | None = None
    epsilon_budget: float | None = None
    manifest_signature: str = ""


IDENTITY_PURPOSE = "join"


def join_statement(*, study_digest: str, run: str, site: str, commitment: str) -> bytes:
    """Return what a site signs when it joins, under ``IDENTITY_PURPOSE``."""
    return canonical_json(
        {"study": study_digest, "run": run, "site": site, "holdout_commitment": commitment}
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
