"""Ed25519 identities of sites and coordinators, and signatures bound to a purpose."""

import re
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pratique_common.canonical import sha256_hex
from pratique_common.durable import write_first
from pratique_common.errors import InvalidFileError, VerificationError
from pratique_common.study import load_toml

# bytes.fromhex takes capitals and spaces too: one signature would have many spellings.
_SIGNATURE = re.compile("[0-9a-f]{128}")
_FINGERPRINT_DIGITS = 32


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a private key and write it as PEM, readable by its owner only.

    Raises:
        InvalidFileError: the file exists: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_key(path, pem)
    return key


def write_key(path: Path, private: bytes) -> None:
    """Write a private key, readable by its owner only.

    Raises:
        InvalidFileError: the file exists: a key is never overwritten.
    """
    if not write_first(path, private, mode=0o600):
        raise InvalidFileError(
            path, problem="a key is here already", remedy="move it away to make a new one"
        )


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key made by ``create_key``.

    Raises:
        InvalidFileError: no such file, or not an Ed25519 key.
    """
    if not path.is_file():
        raise InvalidFileError(path, problem="no such key file", remedy="make it with init")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidFileError(
            path, problem="not an Ed25519 private key in PEM", remedy="make it with init"
        )
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public key as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def fingerprint(public_key: str) -> str:
    """Return a short name of a public key to read aloud: 32 digits of its SHA-256, in fours."""
    digits = sha256_hex(bytes.fromhex(public_key))[:_FINGERPRINT_DIGITS]
    return " ".join(digits[i : i + 4] for i in range(0, _FINGERPRINT_DIGITS, 4))


def _bound(purpose: str, message: bytes) -> bytes:
    # Without the purpose, a signature under one kind of message could be shown as another's.
    return b"pratique-" + purpose.encode() + b"-v1\0" + message


def sign(key: Ed25519PrivateKey, purpose: str, message: bytes) -> str:
    """Return the signature of ``message`` for ``purpose`` as 128 hexadecimal digits."""
    return key.sign(_bound(purpose, message)).hex()


def check_signature(public_key: str, purpose: str, message: bytes, signature: str) -> None:
    """Check a signature.

    Raises:
        VerificationError: it does not verify, or key or signature are malformed.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        if not _SIGNATURE.fullmatch(signature):
            raise ValueError("not 128 hexadecimal digits")
        key.verify(bytes.fromhex(signature), _bound(purpose, message))
    except (InvalidSignature, ValueError):
        raise VerificationError(f"a signature ({purpose}) does not verify") from None


def load_trust(path: Path) -> Mapping[str, str]:
    """Read a trust file: TOML of names and public keys.

    Raises:
        InvalidFileError: not such a file.
    """
    names = load_toml(path)
    for name, value in names.items():
        if not (isinstance(value, str) and len(value) == 64 and _is_hex(value)):
            raise InvalidFileError(
                path, field=name, problem="not a public key", remedy="write 64 hexadecimal digits"
            )
    return {name: value.lower() for name, value in names.items()}


def _is_hex(text: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in text)
