"""The coordinator's folder: its settings, its keys, who was invited and who joined.

server.toml       settings                      superlink.crt/.key  loopback certificate
coordinator.key   signs invitations, bundles    nginx.conf          the proxy in front
ca.key, ca.crt    the consortium's own CA       invitations/        written, not yet answered
server.crt/.key   what the proxy shows          sites/, sites.toml  who joined

Beside them stand security.log, superlink.db, superlink.log, superexec.secret, server.lock, flower/
and runs/.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from pratique_common.column_base import Spec
from pratique_common.durable import make_folder
from pratique_common.errors import InvalidFileError
from pratique_common.security_log import SecurityLog, security_log
from pratique_common.signing import load_key
from pratique_common.study import invalid_fields, load_toml

SERVER_FILE = "server.toml"
SITES_FILE = "sites.toml"
NGINX_FILE = "nginx.conf"
CA, CA_KEY = "ca.crt", "ca.key"
LINK_CERTIFICATE, LINK_KEY = "superlink.crt", "superlink.key"
COORDINATOR_KEY = "coordinator.key"

Port = Field(ge=1, le=65_535)


class ServerSettings(Spec):
    """The content of ``server.toml``; relative paths start at its folder."""

    host: str = Field(min_length=1, pattern=r"^[^\s/:\[\]]+$", description="as hospitals name it")
    port: int = Port
    superlink_port: int = Port
    health_port: int = Port
    certificate: str = Field(min_length=1, description="what the proxy shows, with its chain")
    key: str = Field(min_length=1)
    root_certificates: str = Field(min_length=1, description="what hospitals trust")
    coordinator_key: str = COORDINATOR_KEY


@dataclass(frozen=True)
class Server:
    """A coordinator's settings and the folder they stand in."""

    settings: ServerSettings
    folder: Path

    @property
    def certificate(self) -> Path:
        """What the proxy shows."""
        return self.folder / self.settings.certificate

    @property
    def certificate_key(self) -> Path:
        """The private key of ``certificate``."""
        return self.folder / self.settings.key

    @property
    def root_certificates(self) -> Path:
        """What hospitals trust."""
        return self.folder / self.settings.root_certificates

    @property
    def has_own_ca(self) -> bool:
        """Whether the proxy's certificate comes from this folder's CA."""
        return self.root_certificates == self.folder / CA

    @property
    def public_address(self) -> str:
        """host:port for hospitals."""
        return f"{self.settings.host}:{self.settings.port}"

    @property
    def link_address(self) -> str:
        """host:port of the SuperLink: this machine only."""
        return f"127.0.0.1:{self.settings.superlink_port}"

    @property
    def coordinator_key_file(self) -> Path:
        """Where the coordinator's Ed25519 key lies."""
        return self.folder / self.settings.coordinator_key

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        """The coordinator's identity."""
        return load_key(self.coordinator_key_file)

    @property
    def security(self) -> SecurityLog:
        """The coordinator's security log."""
        return security_log(self.folder)

    def subfolder(self, name: str) -> Path:
        """Return a folder of the coordinator, made if needed, for its owner only."""
        path = self.folder / name
        make_folder(path)
        return path


def load_server(path: Path) -> Server:
    """Read and check the coordinator's folder.

    Raises:
        InvalidFileError: the file or a field of it is not acceptable.
    """
    file = path / SERVER_FILE
    if not file.is_file():
        raise InvalidFileError(
            file, problem="no such file", remedy="make the folder with 'pratique server init'"
        )
    try:
        settings = ServerSettings.model_validate(load_toml(file))
    except ValidationError as error:
        raise invalid_fields(file, error) from None
    return Server(settings, path.resolve())
