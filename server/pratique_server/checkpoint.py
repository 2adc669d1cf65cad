"""What the coordinator must remember of a run to go on with it: ``sums/`` in the job's folder.

joined.json   who joined, with which keys and commitments, and who was missing since
asked.json    the sum that was asked for last: participants, and the survivors once they are known
NNN.npz       an opened sum, with what proves it
candidate     hash of the table that sites were asked to audit

Everything here came from the sites noised, and went into weights and table.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pratique_common.durable import make_folder, write_whole
from pratique_common.errors import FederationError
from pratique_common.messages import Reply
from pratique_common.parts import SignedMaskKey, SumTranscript
from pratique_privacy.evidence import Drop
from pratique_server.opened import OpenedSum

R = TypeVar("R", bound=BaseModel)

_REPLIES = TypeAdapter(dict[str, Reply])
_JOINED, _ASKED, _CANDIDATE = "joined.json", "asked.json", "candidate"


class Joined(BaseModel):
    """Who takes part in a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roster: tuple[SignedMaskKey, ...]
    commitments: dict[str, str]
    canary_commitments: dict[str, str]
    lacks: dict[str, tuple[str, ...]]
    dropped: dict[str, tuple[Drop, ...]]


class Asked(BaseModel):
    """A sum that was asked for: sites answer the same question again, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    participants: tuple[str, ...]
    survivors: tuple[str, ...] | None = None


class Checkpoint:
    """Files of one run. What is written is on disk before the run goes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        self._asked = self._read(_ASKED, Asked)

    def joined(self) -> Joined | None:
        """Return who takes part, or None if the run did not begin."""
        return self._read(_JOINED, Joined)

    def keep_joined(self, joined: Joined) -> None:
        """Write who takes part."""
        self._write(_JOINED, joined.model_dump_json().encode())

    def asked(self, label: str) -> Asked | None:
        """Return how a sum was asked for, if it was the last one."""
        return self._asked if self._asked and self._asked.label == label else None

    def keep_asked(self, asked: Asked) -> None:
        """Write how a sum is asked for, before it is."""
        self._asked = asked
        self._write(_ASKED, asked.model_dump_json().encode())

    def sum(self, number: int) -> OpenedSum | None:
        """Return an opened sum by its number in the run, or None if it was not opened.

        Raises:
            FederationError: the file is damaged.
        """
        path = self._folder / _name(number)
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                transcript = SumTranscript.model_validate_json(file["transcript"].tobytes())
                words = dict(zip(sorted(transcript.proofs), file["vectors"], strict=False))
                replies = _REPLIES.validate_json(file["replies"].tobytes())
                return OpenedSum(
                    total=file["total"], transcript=transcript, words=words, replies=replies
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise _damaged(path) from None

    def num_sums(self) -> int:
        """Return how many sums were opened."""
        return sum(1 for path in self._folder.iterdir() if path.suffix == ".npz")

    def keep_sum(self, number: int, opened: OpenedSum, *, with_vectors: bool) -> None:
        """Write an opened sum."""
        arrays: dict[str, NDArray[Any]] = {
            "total": opened.total,
            "transcript": np.frombuffer(opened.transcript.model_dump_json().encode(), np.uint8),
            "replies": np.frombuffer(_REPLIES.dump_json(dict(opened.replies)), np.uint8),
            "vectors": opened.vectors() if with_vectors else np.zeros((0, 0), np.uint8),
        }
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        self._write(_name(number), content.getvalue())

    def require_candidate(self, candidate_sha256: str) -> None:
        """Keep the candidate's hash, or compare it with the one that sites were asked about.

        Raises:
            FederationError: it is another.
        """
        path = self._folder / _CANDIDATE
        if not path.exists():
            self._write(_CANDIDATE, candidate_sha256.encode())
        elif path.read_text() != candidate_sha256:
            raise FederationError(
                "the same sums gave another table before; go on with the versions of Pratique and "
                "its libraries that the run began with",
                code="candidate_mismatch",
            )

    def _read(self, name: str, kind: type[R]) -> R | None:
        path = self._folder / name
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise _damaged(path) from None

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self._folder / name, content, mode=0o600)


def _name(number: int) -> str:
    return f"{number:05}.npz"


def _damaged(path: Path) -> FederationError:
    return FederationError(f"{path} is damaged; begin a new run", code="run_damaged")
