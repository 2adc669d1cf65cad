"""A consortium's own certificates: one CA for one coordinator, and what it signs.

All keys are ECDSA P-384. The CA may sign for the coordinator's name and for this machine's loopback
address and nothing else (RFC 5280, 4.2.1.10), so a stolen CA key opens no other connection of a
hospital that trusts it.
"""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pratique_common.durable import write_whole
from pratique_common.errors import InvalidFileError
from pratique_common.signing import write_key

CA_YEARS = 10
SERVER_DAYS = 397
"""A year and a month: what browsers take at most (CA/Browser Forum, ballot SC-31)."""

RENEW_DAYS = 30
"""Fewer days than this are told as a warning."""

LOOPBACK = ("localhost", "127.0.0.1")
_BACKDATED = timedelta(minutes=10)
"""Hospitals' clocks may be a little late."""


def create_ca(key_file: Path, certificate_file: Path, *, host: str) -> None:
    """Make a CA for the coordinator ``host``: its key for its owner alone, and its certificate."""
    key = _create_key(key_file)
    name = _name("Pratique CA")
    permitted = [_permitted(allowed) for allowed in dict.fromkeys((host, *LOOPBACK))]
    usage = _key_usage(sign_certificates=True)
    builder = (
        _builder(name, name, key.public_key(), days=CA_YEARS * 365)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
    )
    _write(certificate_file, builder.sign(key, hashes.SHA384()))


def create_certificate(
    key_file: Path, certificate_file: Path, *, ca_key: Path, ca: Path, hosts: Sequence[str]
) -> None:
    """Make a server's key and its certificate for ``hosts``."""
    key = _create_key(key_file)
    issuer = load_certificate(ca)
    issuer_key = serialization.load_pem_private_key(ca_key.read_bytes(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    # No host in it: OpenSSL would hold an address here against the DNS names that the CA may sign.
    name = _name("Pratique server")
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(name, issuer.subject, key.public_key(), days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False
        )
        .add_extension(issuer_id, critical=False)
    )
    _write(certificate_file, builder.sign(issuer_key, hashes.SHA384()))


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        InvalidFileError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise InvalidFileError(path, problem="no such file", remedy="check the path") from None
    except ValueError:
        raise InvalidFileError(
            path, problem="not a certificate in PEM", remedy="give the PEM file"
        ) from None


def days_left(path: Path) -> int:
    """Return whole days until a certificate expires; below zero, since it has."""
    return (load_certificate(path).not_valid_after_utc - datetime.now(UTC)).days


def require_handshake(*, certificate: Path, key: Path, ca: Path, host: str) -> None:
    """Let a client that trusts ``ca`` alone greet a server with this certificate, in memory.

    So chain, name, dates, and that the key is the certificate's are checked as hospitals' machines
    will check them.

    Raises:
        InvalidFileError: a file cannot be read, or the client refuses.
    """
    try:
        client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client_context.load_verify_locations(cadata=ca.read_text("ascii"))
    except (OSError, ValueError, ssl.SSLError):
        raise InvalidFileError(
            ca, problem="not certificates in PEM", remedy="give the CA's PEM file"
        ) from None
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server_context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError):
        raise InvalidFileError(
            certificate,
            problem=f"cannot be used with the key {key.name}",
            remedy="give PEM files of one certificate (with its chain) and of its own key, "
            "without a passphrase",
        ) from None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise InvalidFileError(
            certificate,
            problem=f"a hospital would refuse it for {host} ({error.verify_message})",
            remedy="give a certificate for that name, with its chain, and the CA that signed it",
        ) from None


def _create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_key(path, pem)
    return key


def _write(path: Path, certificate: x509.Certificate) -> None:
    write_whole(path, certificate.public_bytes(serialization.Encoding.PEM))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _permitted(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_network(host))
    except ValueError:
        return x509.DNSName(host)
