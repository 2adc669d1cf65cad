"""Make a coordinator's folder: keys, certificates, settings and the proxy's configuration."""

from dataclasses import dataclass
from pathlib import Path

import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from pratique_common.durable import make_folder, sync_folder, write_whole
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.signing import create_key, fingerprint, public_hex
from pratique_common.study import invalid_fields
from pratique_server.deployment.certificates import (
    LOOPBACK,
    create_ca,
    create_certificate,
    require_handshake,
)
from pratique_server.deployment.folder import (
    CA,
    CA_KEY,
    COORDINATOR_KEY,
    LINK_CERTIFICATE,
    LINK_KEY,
    NGINX_FILE,
    SERVER_FILE,
    Server,
    ServerSettings,
    load_server,
)

_CERTIFICATE, _KEY = "server.crt", "server.key"


@dataclass(frozen=True)
class OwnCertificates:
    """PEM files of the consortium: the proxy's certificate and key, and the CA of hospitals."""

    certificate: Path
    key: Path
    ca: Path


def own_certificates(
    certificate: Path | None, key: Path | None, ca: Path | None
) -> OwnCertificates | None:
    """Return the consortium's own certificates, if they were given.

    Raises:
        UsageError: one of the three is missing.
    """
    if certificate is None and key is None and ca is None:
        return None
    if certificate is None or key is None or ca is None:
        raise UsageError("--certificate, --key and --ca go together: give all three, or none")
    return OwnCertificates(certificate.absolute(), key.absolute(), ca.absolute())


def create_server(
    folder: Path,
    *,
    host: str,
    port: int,
    superlink_port: int,
    health_port: int,
    own: OwnCertificates | None,
) -> Server:
    """Make the folder and everything in it.

    Raises:
        InvalidFileError: there is a coordinator in the folder, or a certificate cannot be used.
    """
    file = folder / SERVER_FILE
    if file.exists():
        raise InvalidFileError(
            file, problem="a coordinator is here already", remedy="use it as it is"
        )
    try:
        settings = ServerSettings(
            host=host,
            port=port,
            superlink_port=superlink_port,
            health_port=health_port,
            certificate=str(own.certificate) if own else _CERTIFICATE,
            key=str(own.key) if own else _KEY,
            root_certificates=str(own.ca) if own else CA,
        )
    except ValidationError as error:
        raise invalid_fields("pratique server init", error) from None
    if own:
        require_handshake(certificate=own.certificate, key=own.key, ca=own.ca, host=host)
    make_folder(folder)
    key = create_key(folder / COORDINATOR_KEY)
    create_ca(folder / CA_KEY, folder / CA, host=host)
    server = Server(settings, folder.resolve())
    renew_certificates(server)
    write_whole(folder / NGINX_FILE, nginx_configuration(server).encode())
    # Last: with it the folder counts as made.
    write_whole(file, tomli_w.dumps(settings.model_dump()).encode())
    made = load_server(folder)
    made.security.record("key_made", key=fingerprint(public_hex(key)))
    return made


def renew_certificates(server: Server) -> None:
    """Make the servers' keys and certificates anew, signed by the folder's CA.

    What hospitals trust stays as it is. A certificate of the consortium's own is not touched.
    """
    folder, host = server.folder, server.settings.host
    pairs: list[tuple[Path, Path, tuple[str, ...]]] = [
        (folder / LINK_KEY, folder / LINK_CERTIFICATE, LOOPBACK)
    ]
    if server.has_own_ca:
        pairs.append((server.certificate_key, server.certificate, (host,)))
    for key, certificate, hosts in pairs:
        new_key = key.with_name(f"{key.name}.new")
        new_certificate = certificate.with_name(f"{certificate.name}.new")
        for path in (new_key, new_certificate):
            path.unlink(missing_ok=True)
        create_certificate(
            new_key, new_certificate, ca_key=folder / CA_KEY, ca=folder / CA, hosts=hosts
        )
        require_handshake(certificate=new_certificate, key=new_key, ca=folder / CA, host=hosts[0])
        new_key.replace(key)
        new_certificate.replace(certificate)
        sync_folder(certificate.parent)


def nginx_configuration(server: Server) -> str:
    """Return the proxy's configuration: it forwards hospitals' own API and nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    return environment.get_template("nginx.conf.j2").render(
        host=server.settings.host,
        port=server.settings.port,
        superlink_port=server.settings.superlink_port,
        certificate=server.certificate,
        certificate_key=server.certificate_key,
        link_ca=server.folder / CA,
    )
