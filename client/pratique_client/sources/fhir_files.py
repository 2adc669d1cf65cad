"""Files of a bulk export of FHIR: a resource a line, plain or compressed."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pratique_client.sources.base import bad_field
from pratique_common.errors import InvalidFileError


@dataclass(frozen=True)
class FhirFiles:
    """Files of an export, named by their resource.

    Attributes:
        site_file: named in errors.
        folder: of the files.
    """

    site_file: Path
    folder: Path

    def read(self, kind: str, worth: Sequence[bytes] | None = None) -> Iterator[dict[str, Any]]:
        """Yield resources of one kind.

        Args:
            kind: name of the resource.
            worth: only lines with one of these are looked at; None for all.

        Raises:
            InvalidFileError: there is no such file, or a line is no such resource.
        """
        form = re.compile(rf"(?:\d+[._-])?{kind}(?:[._-]\w+)*\.ndjson(?:\.gz)?")
        if not self.folder.is_dir():
            raise bad_field(self.site_file, "folder", "there is no such folder", "correct the path")
        paths = sorted(p for p in self.folder.iterdir() if form.fullmatch(p.name))
        if not paths:
            raise bad_field(
                self.site_file,
                "folder",
                f"there is no {kind}.ndjson or {kind}.ndjson.gz in {self.folder}",
                "export that resource, or remove its columns",
            )
        for path in paths:
            yield from _lines(path, kind, worth)


def _lines(path: Path, kind: str, worth: Sequence[bytes] | None) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                line = line.strip()
                if not line:
                    continue
                if worth and not any(text in line for text in worth):
                    if not (line.startswith(b"{") and line.endswith(b"}")):
                        raise ValueError("cut off")
                    continue
                resource = json.loads(line, parse_float=str)
                if resource["resourceType"] != kind or not isinstance(resource["id"], str):
                    raise ValueError("another resource")
                yield resource
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidFileError(
            path,
            field=f"line {number}",
            problem=f"no resource of type {kind} with an id",
            remedy="export that file again",
            code="source_unreadable",
        ) from None
    except (OSError, EOFError):
        raise InvalidFileError(
            path, problem="cannot be read", remedy="export that file again",
            code="source_unreadable",
        ) from None  # fmt: skip
