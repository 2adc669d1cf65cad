"""Addresses of databases: read from where passwords may stand, shown without them."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pratique_client.sources.base import bad_field

if TYPE_CHECKING:
    from sqlalchemy import URL

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SECRETS = ("pass", "pwd", "token", "secret", "odbc_connect")


def holds_password(url: str) -> bool:
    """Whether a URL holds a password, or what may be one."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        return False  # said when it is used
    asked = [name.lower() for name in parsed.query]
    return parsed.password is not None or any(s in name for name in asked for s in _SECRETS)


def read_url(
    site_file: Path, *, url: str | None, url_file: str | None, url_variable: str | None
) -> "URL":
    """Return the address of a database; one of three places has it.

    Raises:
        InvalidFileError: nothing is there, others may read the file, or it is no URL. The message
            never holds the URL.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    field, text = "url", url
    if url_file is not None:
        field, text = "url_file", _from_file(site_file, url_file)
    if url_variable is not None:
        field, text = "url_variable", os.environ.get(url_variable)
        if not text:
            raise bad_field(
                site_file, field, f"{url_variable} is not set", "set it for the daemon's account"
            )
    try:
        return make_url((text or "").strip())
    except ArgumentError:
        raise bad_field(
            site_file, field, "not the URL of a database", "write driver://user@host:port/database"
        ) from None


def _from_file(site_file: Path, url_file: str) -> str:
    path = site_file.parent / url_file
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & _FOR_OTHERS:
                raise bad_field(
                    site_file,
                    "url_file",
                    "others than its owner may use this file",
                    f"run: chmod 600 {path}",
                )
            return file.read()
    except (OSError, UnicodeDecodeError):
        raise bad_field(
            site_file, "url_file", "cannot be read", "name a file that this account owns"
        ) from None


def place_of(url: "URL") -> str:
    """Return kind, host and database: neither user nor password."""
    host = f"{url.host}{f':{url.port}' if url.port else ''}/" if url.host else ""
    return f"{url.get_backend_name()} {host}{url.database or ''}"
