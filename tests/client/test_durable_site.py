"""What a hospital's people did outlives a power cut right after it."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pratique_client import joining
from pratique_client.site import NODE_KEY_FILE, SITE_FILE
from pratique_common.errors import InvalidFileError
from pratique_common.joining import JoinRequest, write_request
from pratique_common.phantoms.cohort import study_path
from tests.client.test_commands import trust_file
from tests.federation.deployed import client, done, pratique
from tests.sites import invite


class Disk:
    """What would be left after a power cut: contents and names that somebody put on disk."""

    def __init__(self) -> None:
        self._contents: dict[int, tuple[int, int]] = {}
        self._names: dict[int, set[tuple[str, int]]] = {}

    def sync(self, descriptor: int) -> None:
        """Note what an fsync puts on disk: of a folder its names, of a file its content."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(descriptor) as entries:
                self._names[status.st_ino] = {(entry.name, entry.inode()) for entry in entries}
        else:
            self._contents[status.st_ino] = status.st_size, status.st_mtime_ns

    def lacks(self, path: Path) -> bool:
        """Return whether a power cut may take a folder's name, or a file's name or content."""
        status = path.stat()
        if path.is_file() and status.st_size == 0:
            return False  # a lock: its absence is its content
        content = status.st_size, status.st_mtime_ns
        if path.is_file() and self._contents.get(status.st_ino) != content:
            return True
        return (path.name, status.st_ino) not in self._names.get(path.parent.stat().st_ino, set())

    def missing(self, *folders: Path) -> list[str]:
        """Return what a power cut may take of folders and all that is in them."""
        found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
        return [str(path) for path in found if self.lacks(path)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Look on while this process syncs."""
    found, sync = Disk(), os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        found.sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_a_site_and_its_approval_are_on_disk(
    tmp_path: Path, small_cohort: dict[str, Path], disk: Disk
) -> None:
    hospital = tmp_path / "hospital"
    site = hospital / "harbour"
    invitation = invite(tmp_path / "invitation.json", "harbour")
    done(client("init", invitation, "--folder", site, "--data", small_cohort["harbour"]))
    assert disk.missing(hospital) == []
    done(client("approve", study_path(), "--site", site, "--sites", trust_file(site), "--yes"))
    assert list((site / "approved").iterdir())
    assert disk.missing(site) == []


def test_a_coordinator_is_on_disk(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "coordinator"
    done(pratique("server", "init", folder, "--host", "localhost"))
    assert disk.missing(folder) == []
    done(pratique("server", "renew", folder))
    assert disk.missing(folder) == []


def test_settings_come_last_so_that_a_site_cut_short_can_be_made(
    tmp_path: Path, small_cohort: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, invitation = tmp_path / "harbour", invite(tmp_path / "invitation.json", "harbour")
    settings_were_there = []

    def look(folder: Path, request: JoinRequest, key: Ed25519PrivateKey) -> None:
        settings_were_there.append((site / SITE_FILE).exists())
        write_request(folder, request, key)

    monkeypatch.setattr(joining, "write_request", look)
    done(client("init", invitation, "--folder", site, "--data", small_cohort["harbour"]))
    assert settings_were_there == [False]


def test_a_key_that_was_there_is_left_alone(tmp_path: Path, small_cohort: dict[str, Path]) -> None:
    site, invitation = tmp_path / "harbour", invite(tmp_path / "invitation.json", "harbour")
    site.mkdir()
    (site / NODE_KEY_FILE).write_text("precious")
    found = client("init", invitation, "--folder", site, "--data", small_cohort["harbour"])
    assert isinstance(found.exception, InvalidFileError)
    assert "a key is here already" in str(found.exception)
    assert (site / NODE_KEY_FILE).read_text() == "precious"
    assert not (site / "site.key").exists()


def test_a_ca_key_that_was_there_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    folder.mkdir()
    (folder / "ca.key").write_text("precious")
    found = pratique("server", "init", folder, "--host", "localhost")
    assert isinstance(found.exception, InvalidFileError)
    assert "a key is here already" in str(found.exception)
    assert (folder / "ca.key").read_text() == "precious"
