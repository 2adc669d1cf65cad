"""What a site must remember of a run when its daemon is started again: ``runs/RUN/``.

state.json       hash of the data, the private mask key, everybody's mask keys, canaries' coins
list-*.json      the one list of survivors that this site answered for, a sum
lock             held while a sum is paid, computed and written
sum.bin          the last answer to a sum, masked, and this site's share of its mask: asked again,
                 the site sends the same bytes
audit-*.json     the masked answer to a candidate, to find it unchanged in the conclusion
audit-*.parquet  the candidate itself, to redo the control of the audit
audit-*.model    hash of the model that it was sampled from

The folder goes when the site joins the next run.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError

from pratique_client.site import Site
from pratique_common.canonical import sha256_hex
from pratique_common.durable import make_folder, write_first, write_whole
from pratique_common.errors import FederationError
from pratique_common.parts import CanaryOpening, SignedMaskKey
from pratique_privacy.budget import NUM_CANARIES
from pratique_privacy.canary_coins import Coins

_STATE = "state.json"
_LOCK = "lock"
_SUM = "sum.bin"
_SALT_BYTES = 32

H = TypeVar("H", bound=BaseModel)


class RunState(BaseModel):
    """A run as this site joined it; ``mask_key`` is private, and gone once the run concludes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    snapshot: str
    mask_key: str | None
    canaries: CanaryOpening
    salt: str
    roster: tuple[SignedMaskKey, ...] = ()

    @property
    def private_mask_key(self) -> X25519PrivateKey:
        """The X25519 key.

        Raises:
            FederationError: the run was concluded.
        """
        if self.mask_key is None:
            raise FederationError("this run was concluded", code="run_concluded")
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(self.mask_key))


class RunFolder:
    """Files of one run, readable by their owner only."""

    def __init__(self, site: Site, run: str) -> None:
        """Name the folder; ``run`` was checked to hold lower-case letters and digits only."""
        self._runs = site.subfolder("runs")
        self._folder = self._runs / run

    def load(self) -> RunState | None:
        """Return the state, or None if this site never joined the run.

        Raises:
            FederationError: it cannot be read.
        """
        try:
            return RunState.model_validate_json((self._folder / _STATE).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise FederationError("the run's state is damaged", code="run_damaged") from None

    def begin(self, study: str, snapshot: str) -> RunState:
        """Draw a mask key, canaries' coins and the hold-out's salt, and forget every other run."""
        for other in self._runs.iterdir():
            shutil.rmtree(other)
        make_folder(self._folder)
        private = X25519PrivateKey.generate().private_bytes_raw().hex()
        canaries = Coins.draw(NUM_CANARIES).opening
        state = RunState(
            study=study,
            snapshot=snapshot,
            mask_key=private,
            canaries=canaries,
            salt=secrets.token_hex(_SALT_BYTES),
        )
        self.keep(state)
        return state

    def keep(self, state: RunState) -> None:
        """Write the state to disk."""
        self._write(_STATE, state.model_dump_json().encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process or thread of this site answer a sum at the same time."""
        descriptor = os.open(self._folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which gives the lock back, as the end of a process does

    def claim(self, label: str, survivors: tuple[str, ...]) -> bool:
        """Return whether a sum's list of survivors is the first or the same as before.

        The first is on disk before this returns, and two processes cannot both be first.
        """
        path, content = self._list_file(label), json.dumps(survivors)
        return write_first(path, content.encode(), mode=0o600) or path.read_text() == content

    def has_claimed(self, label: str) -> bool:
        """Return whether this site answered for a list of survivors of a sum: it may be open."""
        return self._list_file(label).exists()

    def store_sum(self, header: BaseModel, words: bytes) -> None:
        """Keep the answer to a sum before it is sent; the one before it is asked for no more."""
        self._write(_SUM, header.model_dump_json().encode() + b"\n" + words)

    def stored_sum(self, kind: type[H]) -> tuple[H, bytes] | None:
        """Return the last answer to a sum, if any.

        Raises:
            FederationError: it cannot be read.
        """
        try:
            header, _, words = (self._folder / _SUM).read_bytes().partition(b"\n")
            return kind.model_validate_json(header), words
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise FederationError("the run's state is damaged", code="run_damaged") from None

    def forget_sum(self) -> None:
        """Remove the last answer to a sum, and with it the share of its mask."""
        (self._folder / _SUM).unlink(missing_ok=True)

    def survivors_seen(self) -> set[str]:
        """Return every site that stood in a list which this site answered for."""
        lists = (json.loads(path.read_text()) for path in self._folder.glob("list-*.json"))
        return set().union(*lists)

    def store_answer(
        self, candidate_sha256: str, candidate: bytes, model_sha256: str, answer: dict[str, Any]
    ) -> None:
        """Keep a candidate, its model's hash and what was answered to it, before it is sent."""
        self._write(self._audit_file(candidate_sha256, "parquet"), candidate)
        self._write(self._audit_file(candidate_sha256, "model"), model_sha256.encode())
        self._write(self._audit_file(candidate_sha256, "json"), json.dumps(answer).encode())

    def stored_answer(self, candidate_sha256: str) -> dict[str, Any] | None:
        """Return what was answered to a candidate, if anything."""
        path = self._folder / self._audit_file(candidate_sha256, "json")
        if not path.is_file():
            return None
        answer: dict[str, Any] = json.loads(path.read_text())
        return answer

    def stored_model(self, candidate_sha256: str) -> str:
        """Return the hash of the model that an answered candidate was sampled from.

        Raises:
            FederationError: it is not there.
        """
        try:
            return (self._folder / self._audit_file(candidate_sha256, "model")).read_text()
        except OSError:
            raise FederationError("the run's model is damaged", code="run_damaged") from None

    def stored_candidate(self, candidate_sha256: str) -> bytes:
        """Return a candidate that was answered.

        Raises:
            FederationError: it is not there, or not what was answered.
        """
        path = self._folder / self._audit_file(candidate_sha256, "parquet")
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if sha256_hex(content) != candidate_sha256:
            raise FederationError("the run's candidate is damaged", code="run_damaged")
        return content

    def _list_file(self, label: str) -> Path:
        return self._folder / f"list-{sha256_hex(label.encode())[:32]}.json"

    @staticmethod
    def _audit_file(candidate_sha256: str, suffix: str) -> str:
        return f"audit-{sha256_hex(candidate_sha256.encode())[:32]}.{suffix}"

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self._folder / name, content, mode=0o600)
