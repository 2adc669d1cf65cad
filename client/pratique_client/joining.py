"""``pratique-client init``: keys are made here, at the hospital, and only public ones leave."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pratique_client.site import (
    CERTIFICATES_FILE,
    KEY_FILE,
    NODE_KEY_FILE,
    SITE_FILE,
    check_settings,
)
from pratique_client.sources.dicom_files import Key
from pratique_common.durable import make_folder, write_whole
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.joining import (
    Invitation,
    JoinRequest,
    read_invitation,
    require_valid,
    write_request,
)
from pratique_common.security_log import security_log
from pratique_common.signing import create_key, fingerprint, public_hex, write_key

REQUEST_FILE = "request.json"

_USUAL_KEY: Key = "SeriesInstanceUID"


@dataclass(frozen=True)
class Joined:
    """A site that was made, and what its people send and read aloud."""

    invitation: Invitation
    public_key: str
    request: Path


@dataclass(frozen=True)
class SiteChoices:
    """What a hospital decides by itself when it joins.

    Attributes:
        data: a table: of patients or, with images, one that tells of them.
        images, dicom, nifti: where images are, if there are any: one of the three.
        dicom_key: the attribute by which the table tells of DICOM files.
        defaced: a person says that faces were removed from volumes.
        epsilon, delta: the budget.
        lacks: columns that are not recorded.
        proxy: the way out.
        simulated: marks the ledger.
    """

    data: Path
    images: Path | None
    dicom: Path | None
    dicom_key: Key | None
    nifti: Path | None
    defaced: bool
    epsilon: float
    delta: float
    lacks: Sequence[str]
    proxy: str | None
    simulated: bool


def join(invitation_file: Path, folder: Path, choices: SiteChoices) -> Joined:
    """Make the site's folder: settings, keys, and a request that answers the invitation.

    Raises:
        InvalidFileError: the invitation is none or has expired, a setting is not acceptable, or the
            folder holds a site already.
        UsageError: options that do not go together.
        VerificationError: the invitation was changed.
    """
    invitation = read_invitation(invitation_file)
    require_valid(invitation, invitation_file)
    path = folder / SITE_FILE
    if path.exists():
        raise InvalidFileError(path, problem="this site exists already", remedy="use it as it is")
    settings = _site_toml(invitation, choices)
    check_settings(tomllib.loads(settings), path)
    make_folder(folder)
    if invitation.root_certificates is not None:
        write_whole(folder / CERTIFICATES_FILE, invitation.root_certificates.encode())
    made: list[Path] = []
    try:
        key = create_key(folder / KEY_FILE)
        made.append(folder / KEY_FILE)
        write_whole(folder / "site.pub", f"{public_hex(key)}\n".encode())
        node_key = _create_node_key(folder)
        made.append(folder / NODE_KEY_FILE)
        request = JoinRequest(
            site=invitation.site,
            invitation=invitation.digest,
            public_key=public_hex(key),
            node_key=node_key,
        )
        write_request(folder / REQUEST_FILE, request, key)
        # Last: with it the folder counts as made.
        write_whole(path, settings.encode())
    except BaseException:
        for file in made:  # keys of a site that was not made are in the way of the next try
            file.unlink(missing_ok=True)
        raise
    security_log(folder.resolve()).record("key_made", key=fingerprint(public_hex(key)))
    return Joined(invitation, request.public_key, folder / REQUEST_FILE)


def _create_node_key(folder: Path) -> str:
    """Make the key with which the SuperNode connects, as Flower reads it; return its public part.

    Flower signs the time of every request with it: ECDSA P-384, in OpenSSH's own format.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_key(folder / NODE_KEY_FILE, private)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_whole(folder / "node.pub", public + b"\n")
    return public.decode()


def _site_toml(invitation: Invitation, choices: SiteChoices) -> str:
    lines = [
        f"site = {_toml_text(invitation.site)}",
        f"simulated = {str(choices.simulated).lower()}",
        "",
        "[source]",
        *_source_lines(choices),
        f"lacks = [{', '.join(map(_toml_text, choices.lacks))}]",
        "",
        "[budget]  # per patient of this population, over all studies, audits and releases",
        f"epsilon = {choices.epsilon}",
        f"delta = {choices.delta}",
        "",
        "[coordinator]",
        f"address = {_toml_text(invitation.address)}",
    ]
    if invitation.root_certificates is not None:
        lines.append(f'root_certificates = "{CERTIFICATES_FILE}"')
    lines += [
        f'public_key = "{invitation.coordinator}"',
        f'site_key = "{KEY_FILE}"',
        f'node_key = "{NODE_KEY_FILE}"',
    ]
    if choices.proxy is not None:
        lines.append(f"proxy = {_toml_text(choices.proxy)}")
    return "\n".join(lines) + "\n"


def _source_lines(choices: SiteChoices) -> list[str]:
    """Return the fields of ``[source]`` that follow from the options."""
    places = (choices.images, choices.dicom, choices.nifti)
    if sum(place is not None for place in places) > 1:
        raise UsageError("--images, --dicom and --nifti: give one of them")
    if choices.dicom_key is not None and choices.dicom is None:
        raise UsageError("--dicom-key: is of DICOM files; give --dicom as well")
    if choices.defaced and choices.dicom is None and choices.nifti is None:
        raise UsageError("--defaced: is of volumes; give --dicom or --nifti as well")
    kind, fields = "table_file", {"path": str(choices.data.resolve())}
    if choices.images is not None:
        kind, fields["npz"] = "image_folder", str(choices.images.resolve())
    elif choices.dicom is not None:
        kind, fields["folder"] = "dicom", str(choices.dicom.resolve())
        fields["key"] = choices.dicom_key or _USUAL_KEY
    elif choices.nifti is not None:
        kind, fields["folder"] = "nifti", str(choices.nifti.resolve())
    lines = [f"{name} = {_toml_text(value)}" for name, value in fields.items()]
    return [f'kind = "{kind}"', *lines, *(["defaced = true"] if choices.defaced else [])]


def _toml_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'"{escaped}"'
    try:
        tomllib.loads(f"x = {quoted}")
    except tomllib.TOMLDecodeError:
        raise UsageError("names and paths must not contain control characters") from None
    return quoted
