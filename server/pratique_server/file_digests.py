"""Which files a result is about: names and hashes, so that a reader knows them again."""

from pathlib import Path
from typing import Any

from pratique_common.canonical import file_sha256
from pratique_common.images.image_tables import images_file
from pratique_common.schema import TableSchema


def file_digests(path: Path, schema: TableSchema) -> dict[str, Any]:
    """Return name and SHA-256 of a table file, and those of the file of its images, if any."""
    found: dict[str, Any] = _digest(path)
    images = None if schema.image is None else images_file(path)
    if images is not None:
        found["images"] = _digest(images)
    return found


def _digest(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": file_sha256(path)}
