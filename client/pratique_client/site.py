"""A hospital's own file and folder: where its data are, what its patients may spend, and its keys.

site.toml     written by people           ledger.db   what patients have spent
site.key      Ed25519 identity            approved/   studies that a person approved
split.secret  key of the hold-out split   annex/      exact results, for the hospital's own eyes
site.log      what the daemon did         answers/    noised answers that were given

Beside them stand site.pub (for the coordinator), executor.secret, supernode.log and flower/.
"""

import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, model_validator

from pratique_client.sources import DATA_SOURCES
from pratique_common.column_base import Spec
from pratique_common.errors import InvalidFileError
from pratique_common.schema import TableSchema
from pratique_common.signing import load_key
from pratique_common.study import invalid_fields, load_toml
from pratique_privacy.ledger import PrivacyLedger

SITE_FILE = "site.toml"
KEY_FILE = "site.key"
_SPLIT_SECRET_BYTES = 32


class SourceSettings(Spec):
    """``[source]``: where the patients' data are."""

    kind: str = "table_file"
    path: str = Field(min_length=1)
    lacks: tuple[str, ...] = Field(
        default=(), description="columns of studies that this site does not record; no secret"
    )

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind not in DATA_SOURCES:
            raise ValueError(f"kind: choose one of {', '.join(sorted(DATA_SOURCES))}")
        return self


class BudgetSettings(Spec):
    """``[budget]``: what a patient of this population may spend over everything, for ever."""

    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=0.1)
    population: str = Field(
        default="patients", min_length=1, description="one budget a population, not a study"
    )


class CoordinatorSettings(Spec):
    """``[coordinator]``: whom the daemon calls."""

    address: str = Field(pattern=r"^[^\s/]+:\d{1,5}$", description="host:port")
    root_certificates: str | None = Field(
        default=None, description="CA file; may be left out on the loopback address alone"
    )
    site_key: str = KEY_FILE

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

    site: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    simulated: bool = Field(default=False, description="marks the ledger of a simulated site")
    source: SourceSettings
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
    def source_path(self) -> Path:
        """Where the data are; relative paths start at the site's folder."""
        return self.folder / self.settings.source.path

    def lacks(self, schema: TableSchema) -> tuple[str, ...]:
        """Return the columns of a study that this site does not record.

        Raises:
            InvalidFileError: the study needs one of them.
        """
        lacked = tuple(name for name in schema.names if name in self.settings.source.lacks)
        if needed := [name for name in lacked if not schema.column(name).may_lack]:
            raise InvalidFileError(
                self.folder / SITE_FILE,
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
        """Key of the hold-out split; made on first use and kept."""
        return _secret(self.folder / "split.secret")

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

    def subfolder(self, name: str) -> Path:
        """Return a folder of the site, made if needed, readable by its owner only."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path


def _secret(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        value = path.read_bytes()
        if len(value) != _SPLIT_SECRET_BYTES:
            raise InvalidFileError(
                path, problem="damaged", remedy="restore it from its backup"
            ) from None
        return value
    value = secrets.token_bytes(_SPLIT_SECRET_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    return value


def load_site(path: Path) -> Site:
    """Read and check a site file (or the folder that holds ``site.toml``).

    Raises:
        InvalidFileError: the file or a field of it is not acceptable.
    """
    file = path / SITE_FILE if path.is_dir() else path
    try:
        settings = SiteSettings.model_validate(load_toml(file))
    except ValidationError as error:
        raise invalid_fields(file, error) from None
    return Site(settings, file.parent.resolve())
