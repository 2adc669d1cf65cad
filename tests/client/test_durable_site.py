"""What a hospital's people did outlives a power cut right after it."""

import os
from pathlib import Path

import pytest

from pratique_common.phantoms.cohort import study_path
from tests.client.test_commands import trust_file
from tests.federation.deployed import client, done, pratique
from tests.sites import invite


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes of which a process said: write it now."""
    synced: set[int] = set()
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    return synced


def _not_on_disk(folder: Path, on_disk: set[int]) -> list[str]:
    """Return files and folders that a power cut may leave empty; an empty file is as it was."""
    found = [folder, *folder.rglob("*")]
    return [
        str(path)
        for path in found
        if path.stat().st_ino not in on_disk and not (path.is_file() and path.stat().st_size == 0)
    ]


def test_a_site_and_its_approval_are_on_disk(
    tmp_path: Path, small_cohort: dict[str, Path], on_disk: set[int]
) -> None:
    site = tmp_path / "harbour"
    invitation = invite(tmp_path / "invitation.json", "harbour")
    done(client("init", invitation, "--folder", site, "--data", small_cohort["harbour"]))
    done(client("approve", study_path(), "--site", site, "--sites", trust_file(site), "--yes"))
    assert list((site / "approved").iterdir())
    assert _not_on_disk(site, on_disk) == []


def test_a_coordinator_is_on_disk(tmp_path: Path, on_disk: set[int]) -> None:
    folder = tmp_path / "coordinator"
    done(pratique("server", "init", folder, "--host", "localhost"))
    assert _not_on_disk(folder, on_disk) == []
