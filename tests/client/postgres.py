"""A PostgreSQL of our own: a cluster in a temporary folder, run by an account without rights."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

OWNER, READER, PASSWORD = "owner", "pratique", "pw-XQ7-marked"
_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@dataclass(frozen=True)
class Postgres:
    """Where it listens; ``READER`` may read the schema public."""

    port: int
    certificate: Path
    """Of the server, for 127.0.0.1, signed by itself."""

    def url(self, user: str = READER, password: str = PASSWORD, database: str = "postgres") -> str:
        """Return a SQLAlchemy URL."""
        return f"postgresql+pg8000://{user}:{password}@127.0.0.1:{self.port}/{database}"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.crt", folder / "server.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[1].chmod(0o600)
    return paths


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a cluster, and remove it; skips the test where there is none to start."""
    initdb = str(_DEBIAN[-1]) if _DEBIAN else shutil.which("initdb")
    if initdb is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    programs = Path(initdb).parent
    # A server refuses to run as root, and its socket's path must be short.
    account = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if account:
        shutil.chown(folder, *account.values())

    def call(program: str, *arguments: object) -> None:
        subprocess.run(
            [str(programs / program), *map(str, arguments)],
            check=True, capture_output=True, cwd=folder, timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **account,
        )  # fmt: skip

    secret = folder / "password"
    secret.write_text(PASSWORD)
    certificate, key = self_signed(folder)
    for path in (secret, key) if account else ():
        shutil.chown(path, *account.values())
    port, data = _free_port(), folder / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    options += f" -c ssl=on -c ssl_cert_file={certificate} -c ssl_key_file={key}"
    try:
        call("initdb", "-D", data, "-U", OWNER, "-A", "scram-sha-256", "--pwfile", secret,
             "-E", "UTF8", "--no-sync")  # fmt: skip
        call("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield Postgres(port, certificate)
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
