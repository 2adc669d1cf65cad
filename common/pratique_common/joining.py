"""The two files with which a hospital joins: an invitation goes out, a request comes back.

Neither holds a secret. Who reads an invitation learns whom the coordinator invites and where it
listens; who changes one makes a request that the coordinator does not know. What ties a person to
a key is the fingerprint that two people compare over the telephone.
"""

import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AwareDatetime, Field, ValidationError, field_validator

from pratique_common.canonical import canonical_json, digest
from pratique_common.column_base import Spec
from pratique_common.durable import write_whole
from pratique_common.errors import InvalidFileError, UsageError, VerificationError
from pratique_common.signing import check_signature, public_hex, sign
from pratique_common.study import invalid_fields

SITE_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ADDRESS = r"^[^\s/@?#]+:[1-9]\d{0,4}$"
_PUBLIC_KEY = r"^[0-9a-f]{64}$"
_DIGEST = r"^[0-9a-f]{64}$"
_NONCE_BYTES = 16


class Invitation(Spec):
    """What a hospital needs to find the coordinator and to know it again.

    Attributes:
        site: the name that the coordinator gives to the hospital.
        address: host:port of the coordinator, for connections that go out only.
        root_certificates: PEM; None on the loopback address only, which is not encrypted.
        coordinator: Ed25519 public key that signs this invitation and every bundle.
        nonce: makes two invitations of one site two.
        expires: after it no request is accepted.
    """

    version: Literal[1] = 1
    site: str = Field(pattern=SITE_NAME)
    address: str = Field(pattern=ADDRESS)
    root_certificates: str | None
    coordinator: str = Field(pattern=_PUBLIC_KEY)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    expires: AwareDatetime

    @property
    def digest(self) -> str:
        """SHA-256 by which a request names its invitation."""
        return digest(self.model_dump(mode="json"))


class JoinRequest(Spec):
    """A hospital's public keys, made there, in answer to one invitation.

    Attributes:
        site: its name, from the invitation.
        invitation: digest of the invitation.
        public_key: the site's Ed25519 identity, which signs this request.
        node_key: public key with which its SuperNode connects: ECDSA P-384, one line of OpenSSH.
    """

    version: Literal[1] = 1
    site: str = Field(pattern=SITE_NAME)
    invitation: str = Field(pattern=_DIGEST)
    public_key: str = Field(pattern=_PUBLIC_KEY)
    node_key: str

    @field_validator("node_key")
    @classmethod
    def _check_node_key(cls, text: str) -> str:
        node_key_pem(text)
        return text


def node_key_pem(openssh: str) -> bytes:
    """Return a SuperNode's public key in the form that Flower keeps.

    Raises:
        ValueError: not an ECDSA P-384 key.
    """
    try:
        key = load_ssh_public_key(openssh.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ValueError("not an ECDSA P-384 public key in OpenSSH form")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


_INVITATION, _REQUEST = "invitation", "request"
_Model = TypeVar("_Model", Invitation, JoinRequest)


def new_invitation(
    site: str,
    *,
    address: str,
    root_certificates: str | None,
    key: Ed25519PrivateKey,
    valid: timedelta,
) -> Invitation:
    """Return an invitation by the coordinator with this key, from now on ``valid`` long.

    Raises:
        UsageError: not the name of a site.
    """
    if not re.fullmatch(SITE_NAME, site):
        raise UsageError(f"{site}: name a site with a-z, 0-9, '-' and '_', up to 63 of them")
    return Invitation(
        site=site,
        address=address,
        root_certificates=root_certificates,
        coordinator=public_hex(key),
        nonce=secrets.token_hex(_NONCE_BYTES),
        expires=datetime.now(UTC).replace(microsecond=0) + valid,
    )


def write_invitation(path: Path, invitation: Invitation, key: Ed25519PrivateKey) -> None:
    """Sign an invitation with the coordinator's key and write it."""
    _write(path, _INVITATION, invitation, key)


def read_invitation(path: Path) -> Invitation:
    """Read an invitation and check its signature; ``require_valid`` checks its time.

    Raises:
        InvalidFileError: not an invitation.
        VerificationError: changed since it was signed.
    """
    invitation, signature = _read(path, _INVITATION, Invitation)
    _check(path, _INVITATION, invitation, invitation.coordinator, signature)
    return invitation


def require_valid(invitation: Invitation, path: Path) -> None:
    """Raise InvalidFileError if an invitation has expired."""
    if invitation.expires < datetime.now(UTC):
        raise InvalidFileError(
            path,
            problem=f"the invitation expired on {invitation.expires:%Y-%m-%d %H:%M} UTC",
            remedy="make a new one with 'pratique server invite' (or set this machine's clock)",
            code="invitation_expired",
        )


def write_request(path: Path, request: JoinRequest, key: Ed25519PrivateKey) -> None:
    """Sign a request with the site's key and write it."""
    _write(path, _REQUEST, request, key)


def read_request(path: Path) -> JoinRequest:
    """Read a request and check its signature.

    Raises:
        InvalidFileError: not a request.
        VerificationError: changed since it was signed.
    """
    request, signature = _read(path, _REQUEST, JoinRequest)
    _check(path, _REQUEST, request, request.public_key, signature)
    return request


def _signed(content: Invitation | JoinRequest) -> bytes:
    return canonical_json(content.model_dump(mode="json"))


def _purpose(kind: str) -> str:
    return f"join-{kind}"


def _write(
    path: Path, kind: str, content: Invitation | JoinRequest, key: Ed25519PrivateKey
) -> None:
    signature = sign(key, _purpose(kind), _signed(content))
    file = {kind: content.model_dump(mode="json"), "signature": signature}
    write_whole(path, (json.dumps(file, indent=2) + "\n").encode())


def _read(path: Path, kind: str, model: type[_Model]) -> tuple[_Model, str]:
    if not path.is_file():
        raise InvalidFileError(path, problem="no such file", remedy="check the path")
    try:
        file = json.loads(path.read_text("utf-8"))
        content, signature = file[kind], file["signature"]
    except (ValueError, KeyError, TypeError):
        content, signature = None, None
    if not isinstance(signature, str):
        raise InvalidFileError(path, problem=f"no {kind} is in it", remedy="check the path")
    try:
        return model.model_validate(content), signature
    except ValidationError as error:
        raise invalid_fields(path, error) from None


def _check(
    path: Path, kind: str, content: Invitation | JoinRequest, key: str, signature: str
) -> None:
    try:
        check_signature(key, _purpose(kind), _signed(content), signature)
    except VerificationError:
        raise VerificationError(
            f"{path}: this {kind} was changed after it was signed; ask for it again.",
            code=f"{kind}_changed",
        ) from None
