"""A hospital's own file and folder: where its data are, what its patients may spend, and its keys.

site.toml     written by people           ledger.db   what patients have spent
site.key      Ed25519 identity            approved/   studies that a person approved
split.secret  key of the hold-out split   annex/      exact results, for the hospital's own eyes
node.key      opens the connection        ca.crt      what the coordinator's address must show
site.log      what the daemon did         request.json  public keys, for the coordinator
security.log  who joined, paid, signed, was refused

Beside them stand site.pub, node.pub, runs/, signs/, executor.secret, supernode.log
and flower/; of images also contact-sheet.png, for the person who approves.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, model_validator

from pratique_client.sources import AnySource
from pratique_common.column_base import Spec
from pratique_common.durable import make_folder, write_first
from pratique_common.errors import InvalidFileError
from pratique_common.joining import ADDRESS, SITE_NAME
from pratique_common.schema import TableSchema
from pratique_common.security_log import SecurityLog, security_log
from pratique_common.signing import fingerprint, load_key, public_hex, sign
from pratique_common.study import invalid_fields, load_toml
from pratique_common.tables import Table
from pratique_privacy.ledger import Charge, PrivacyLedger

SITE_FILE = "site.toml"
KEY_FILE = "site.key"
NODE_KEY_FILE = "node.key"
CERTIFICATES_FILE = "ca.crt"
_SPLIT_SECRET_BYTES = 32
_ID_PURPOSE = b"pratique ids of patients in images"
_RESTORE = "restore it from its backup"


class BudgetSettings(Spec):
    """``[budget]``: what a patient of this population may spend over everything, for ever."""

    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=0.1)
    population: str = Field(
        default="patients", min_length=1, description="one budget a population, not a study"
    )


class CoordinatorSettings(Spec):
    """``[coordinator]``: whom the daemon calls."""

    address: str = Field(pattern=ADDRESS, description="host:port")
    root_certificates: str | None = Field(
        default=None, description="CA file; may be left out on the loopback address alone"
    )
    public_key: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="whose conclusions are signed here, and whose not"
    )
    site_key: str = KEY_FILE
    node_key: str = NODE_KEY_FILE
    proxy: str | None = Field(
        default=None,
        pattern=r"^http://[^\s/]+:\d{1,5}$",
        description="the hospital's way out; without it HTTPS_PROXY, if there is one",
    )

    @property
    def is_loopback(self) -> bool:
        """Whether the coordinator is on this machine."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        if self.root_certificates is None and not self.is_loopback:
            raise ValueError("root_certificates: needed to reach another machine")
        return self


class SiteSettings(Spec):
    """The content of ``site.toml``."""

    site: str = Field(pattern=SITE_NAME)
    simulated: bool = Field(default=False, description="marks the ledger of a simulated site")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="what computes gradients; auto: CUDA where torch sees it"
    )
    source: AnySource
    budget: BudgetSettings
    coordinator: CoordinatorSettings


@dataclass(frozen=True)
class Site:
    """A site's settings and the folder they stand in."""

    settings: SiteSettings
    folder: Path

    @property
    def name(self) -> str:
        """The site's name in studies and reports."""
        return self.settings.site

    @property
    def log_file(self) -> Path:
        """What the daemon did: never a value of a record."""
        return self.folder / "site.log"

    @property
    def site_file(self) -> Path:
        """What people wrote."""
        return self.folder / SITE_FILE

    def load_table(self, schema: TableSchema) -> Table:
        """Read the study's columns from the site's source.

        Raises:
            InvalidFileError: the source cannot be read, or its rows are not acceptable.
        """
        # Of a table nothing is hashed, and reading one needs no secret.
        id_key = b"" if schema.image is None else self.id_key
        return self.settings.source.load(
            self.site_file, schema, lacks=self.lacks(schema), id_key=id_key
        )

    def lacks(self, schema: TableSchema) -> tuple[str, ...]:
        """Return the columns of a study that this site does not record.

        Raises:
            InvalidFileError: the study needs one of them.
        """
        lacked = tuple(name for name in schema.names if name in self.settings.source.lacks)
        if needed := [name for name in lacked if not schema.column(name).may_lack]:
            raise InvalidFileError(
                self.site_file,
                field="source.lacks",
                problem=f"the study needs column '{needed[0]}' of every site",
                remedy="ask for a study with may_lack = true in that column, or do not take part",
                code="column_lacking",
            )
        return lacked

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        """The site's identity, made at the hospital."""
        return load_key(self.folder / self.settings.coordinator.site_key)

    @cached_property
    def split_secret(self) -> bytes:
        """Key of the hold-out split; made on first use and kept.

        Raises:
            InvalidFileError: it is damaged; or gone, and another would give other roles to patients
                who have spent in the ones they had: the ledger counts on that they stay.
        """
        path = self.folder / "split.secret"
        if not path.exists():
            if self.ledger.entries():
                raise InvalidFileError(path, problem="no such file", remedy=_RESTORE)
            write_first(path, secrets.token_bytes(_SPLIT_SECRET_BYTES), mode=0o600)
        value = path.read_bytes()
        if len(value) != _SPLIT_SECRET_BYTES:
            raise InvalidFileError(path, problem="damaged", remedy=_RESTORE)
        return value

    @property
    def id_key(self) -> bytes:
        """Key under which headers' ids of patients are hashed; it changes with the split's."""
        return hmac.digest(self.split_secret, _ID_PURPOSE, hashlib.sha256)

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """The ledger of this population."""
        budget = self.settings.budget
        mark = " (simulated)" if self.settings.simulated else ""
        return PrivacyLedger(
            self.folder / "ledger.db",
            population=f"{self.name}/{budget.population}{mark}",
            epsilon=budget.epsilon,
            delta=budget.delta,
        )

    @property
    def security(self) -> SecurityLog:
        """The site's security log."""
        return security_log(self.folder)

    def sign(self, purpose: str, message: bytes) -> str:
        """Return this site's signature for a purpose; the use of the key is recorded."""
        key = fingerprint(public_hex(self.key))
        self.security.record("key_used", key=key, purpose=purpose)
        return sign(self.key, purpose, message)

    def reserve(self, charges: list[Charge]) -> None:
        """Pay before a computation, as the ledger's ``reserve``; what was paid is recorded."""
        head = self.ledger.reserve(charges)
        for charge in charges:
            self.security.record(
                "spent",
                study=charge.study,
                run=charge.run,
                role=charge.role,
                phase=charge.phase,
                noise_multiplier=charge.event.noise_multiplier,
                sample_rate=charge.event.sample_rate,
                num_steps=charge.event.num_steps,
                head=head,
            )

    def subfolder(self, name: str) -> Path:
        """Return a folder of the site, made if needed, readable by its owner only."""
        path = self.folder / name
        make_folder(path)
        return path


def load_site(path: Path) -> Site:
    """Read and check a site file (or the folder that holds ``site.toml``).

    Raises:
        InvalidFileError: the file or a field of it is not acceptable.
    """
    file = path / SITE_FILE if path.is_dir() else path
    return Site(check_settings(load_toml(file), file), file.parent.resolve())


def check_settings(data: Any, file: Path) -> SiteSettings:
    """Return settings as they stand in a site file.

    Raises:
        InvalidFileError: a field is not acceptable.
    """
    try:
        return SiteSettings.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(file, error) from None
