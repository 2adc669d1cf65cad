"""Who may join: invitations that were written, and requests that were accepted by fingerprint.

A site is in when its request lies in ``sites/``; ``sites.toml`` and the SuperLink's list of keys
follow from that folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pratique_common.durable import write_whole
from pratique_common.errors import FederationError, UsageError, VerificationError
from pratique_common.joining import (
    JoinRequest,
    new_invitation,
    node_key_pem,
    read_invitation,
    read_request,
    require_valid,
    write_invitation,
)
from pratique_common.signing import fingerprint
from pratique_server.control import Control
from pratique_server.deployment.folder import CA, SITES_FILE, Server

_INVITATIONS, _SITES = "invitations", "sites"


@dataclass(frozen=True)
class JoinedSite:
    """An accepted site; ``connected`` is None while the SuperLink does not answer."""

    name: str
    public_key: str
    connected: bool | None


def invite(server: Server, site: str, out: Path | None, *, valid: timedelta) -> Path:
    """Write an invitation, in place of an older one for the same site; return its path.

    Raises:
        UsageError: not a name, or a site that is in already.
    """
    if site in accepted(server):
        raise UsageError(
            f"{site} has joined already; 'pratique server remove' it first to invite it anew"
        )
    invitation = new_invitation(
        site,
        address=server.public_address,
        root_certificates=server.root_certificates.read_text("ascii"),
        key=server.key,
        valid=valid,
    )
    own = _invitation_file(server, site)
    write_invitation(own, invitation, server.key)
    path = Path(f"{site}.invitation.json") if out is None else out
    write_whole(path, own.read_bytes())
    server.security.record("invited", site=site)
    return path


def accept(server: Server, request_file: Path, told: str) -> JoinRequest:
    """Take a site in whose people told this fingerprint; an invitation is used up by it.

    Raises:
        VerificationError: the request was changed, answers no invitation of ours, or has another
            fingerprint than was told.
        UsageError: the invitation expired, or a key is in use already.
    """
    request = read_request(request_file)
    expected = fingerprint(request.public_key)
    if _digits(told) != _digits(expected):
        raise VerificationError(
            f"{request_file}: its fingerprint is not the one that was told; do not accept it: ask "
            "the hospital on the telephone what their 'pratique-client init' printed",
            code="fingerprint_differs",
        )
    sites = accepted(server)
    if request.site in sites:
        raise UsageError(f"{request.site} has joined already; 'pratique server remove' it first")
    for other in sites.values():
        if request.public_key == other.public_key or request.node_key == other.node_key:
            raise UsageError(f"{request_file}: {other.site} joined with one of these keys")
    path = _invitation_file(server, request.site)
    invitation = read_invitation(path) if path.is_file() else None
    if invitation is None or invitation.digest != request.invitation:
        raise VerificationError(
            f"{request_file}: answers no invitation that is open here; invite {request.site} anew",
            code="invitation_unknown",
        )
    require_valid(invitation, path)
    write_whole(_site_file(server, request.site), request_file.read_bytes())
    path.unlink()
    _write_sites(server)
    server.security.record("accepted", site=request.site, key=expected)
    return request


def remove(server: Server, site: str) -> JoinRequest:
    """Take a site out again: it is in no later run, and its request is gone.

    Raises:
        UsageError: no such site.
    """
    request = _require_site(server, site)
    _site_file(server, site).unlink()
    _write_sites(server)
    server.security.record("removed", site=site, key=fingerprint(request.public_key))
    return request


def accepted(server: Server) -> Mapping[str, JoinRequest]:
    """Return the requests that were accepted, by site."""
    paths = sorted(server.subfolder(_SITES).glob("*.json"))
    return {path.stem: read_request(path) for path in paths}


def public_keys(server: Server) -> dict[str, str]:
    """Return site → public key, what ``sites.toml`` holds."""
    return {name: request.public_key for name, request in accepted(server).items()}


def joined_sites(server: Server) -> list[JoinedSite]:
    """Return who joined, and who is connected."""
    try:
        with control_of(server) as control:
            connected = {node.public_key for node in control.nodes() if node.connected}
    except FederationError:
        connected = None
    return [
        JoinedSite(
            name,
            request.public_key,
            None if connected is None else node_key_pem(request.node_key) in connected,
        )
        for name, request in accepted(server).items()
    ]


def reconcile(server: Server, control: Control) -> None:
    """Let the SuperNodes of exactly the accepted sites connect."""
    _write_sites(server)
    keys = {name: node_key_pem(request.node_key) for name, request in accepted(server).items()}
    for name, key in keys.items():
        control.register(name, key)
    for node in control.nodes():
        if node.public_key not in keys.values():
            control.unregister(node.public_key)


def control_of(server: Server) -> Control:
    """Return a client of this coordinator's SuperLink."""
    return Control(
        server.link_address,
        server.folder / CA,
        remedy=f"start it with 'pratique server start {server.folder}'",
    )


def _digits(text: str) -> str:
    return "".join(text.replace(":", " ").split()).lower()


def _require_site(server: Server, site: str) -> JoinRequest:
    known = accepted(server)
    if site not in known:
        raise UsageError(f"{site} has not joined; the sites are: {', '.join(known) or 'none'}")
    return known[site]


def _invitation_file(server: Server, site: str) -> Path:
    return server.subfolder(_INVITATIONS) / f"{site}.json"


def _site_file(server: Server, site: str) -> Path:
    return server.subfolder(_SITES) / f"{site}.json"


def _write_sites(server: Server) -> None:
    lines = (f'{name} = "{key}"\n' for name, key in public_keys(server).items())
    write_whole(server.folder / SITES_FILE, "".join(lines).encode())
