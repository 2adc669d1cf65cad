import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pratique_common.durable import (
    MENDABLE,
    disk_code,
    require_place,
    write_first,
    write_whole,
)


def test_of_many_that_write_first_one_is_the_first_and_its_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    contents = [str(number).encode() * 1_000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        first = list(pool.map(lambda content: write_first(path, content, mode=0o600), contents))
    assert first.count(True) == 1
    assert path.read_bytes() == contents[first.index(True)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_half_way_leaves_no_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.json"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_first(path, b"half")
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"half")
    assert not path.exists()
    assert write_first(path, b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "folder_not_writable"),
        (errno.EIO, "folder_not_writable"),
        (errno.ECONNREFUSED, None),
    ],
)
def test_errors_of_disks_have_codes(number: int, code: str | None) -> None:
    assert disk_code(OSError(number, os.strerror(number))) == code
    assert code is None or code in MENDABLE


@pytest.mark.parametrize(
    ("path", "folder", "words"),
    [
        ("file/rows.csv", False, "file: Not a directory"),
        ("file/deep/rows", True, "file: Not a directory"),
        ("folder", False, "folder: Is a directory"),
        ("file", True, "file: Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, path: str, folder: bool, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    require_place(tmp_path / "folder" / "new" / "rows.csv")
    require_place(tmp_path / "file")
    require_place(tmp_path / "folder", folder=True)
    require_place(tmp_path / "new" / "folder", folder=True)
    with pytest.raises(OSError, match="a directory") as caught:
        require_place(tmp_path / path, folder=folder)
    assert words == f"{Path(caught.value.filename).name}: {caught.value.strerror}"


def test_a_folder_without_rights_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests' user may be root
    with pytest.raises(PermissionError):
        require_place(tmp_path / "rows.csv")
