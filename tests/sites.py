"""Invitations for sites of tests, as a coordinator on this machine writes them."""

from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pratique_common.joining import new_invitation, write_invitation


def invite(
    path: Path,
    site: str,
    *,
    key: Ed25519PrivateKey | None = None,
    address: str = "127.0.0.1:8000",
    root_certificates: str | None = None,
    valid: timedelta = timedelta(days=1),
) -> Path:
    """Write an invitation for ``site`` and return its path."""
    key = Ed25519PrivateKey.generate() if key is None else key
    invitation = new_invitation(
        site, address=address, root_certificates=root_certificates, key=key, valid=valid
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_invitation(path, invitation, key)
    return path
