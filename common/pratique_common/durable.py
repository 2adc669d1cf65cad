"""Files that are whole or not there, also after a power cut; and what a failing disk is called."""

import errno
import os
import threading
from pathlib import Path

DISK_FULL = "disk_full"
NOT_WRITABLE = "folder_not_writable"

MENDABLE = frozenset({DISK_FULL, NOT_WRITABLE})
"""Codes of a site that can take part again as soon as its disk is well."""

_CODE_OF_ERRNO = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EROFS: NOT_WRITABLE,
    errno.EIO: NOT_WRITABLE,
    errno.EACCES: NOT_WRITABLE,
    errno.EPERM: NOT_WRITABLE,
}


def disk_code(error: OSError) -> str | None:
    """Return the public code of an error that a disk made, None for any other."""
    return _CODE_OF_ERRNO.get(error.errno or 0)


def require_place(path: Path, *, folder: bool = False) -> None:
    """Raise what writing there would raise, as far as that is known before the work.

    Args:
        path: to be written; folders above it may have to be made.
        folder: whether it is a folder.

    Raises:
        OSError: something else stands there or above it, or this user may not write there.
    """
    if path.exists() and path.is_dir() != folder:
        code = errno.ENOTDIR if folder else errno.EISDIR
        raise OSError(code, os.strerror(code), str(path))
    above = path
    while not above.exists():
        above = above.parent
    if above != path and not above.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    place = above if above.is_dir() else above.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file in one step: whoever reads sees the old one or the new one, never a part.

    When this returns, content and name are on disk.
    """
    partial = path.with_name(f"{path.name}.partial")
    _write(partial, content, mode)
    partial.replace(path)
    sync_folder(path.parent)


def write_first(path: Path, content: bytes, *, mode: int = 0o644) -> bool:
    """Write a file whole if there is none, and return whether there was none.

    Of several processes and threads that try at once, one is told that it was the first.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    _write(partial, content, mode)
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    sync_folder(path.parent)
    return True


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # on a full disk it is in everybody's way
        raise


def make_folder(path: Path) -> None:
    """Make a folder for its owner only if it is not there, and those above it.

    When this returns, their names are on disk.
    """
    if path.is_dir():
        return
    missing = [path]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
