"""A federation in one process: sites on disk, a Grid without sockets, the coordinator."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from pratique_client.app import app as client_app
from pratique_client.cli import app as client_cli
from pratique_client.site import Site, load_site
from pratique_common.signing import create_key, load_key, public_hex
from pratique_common.study import StudySpec
from pratique_server.checkpoint import Checkpoint
from pratique_server.coordinator import Coordinator
from pratique_server.job import EVENTS_FILE, KEY_FILE, SUMS_FOLDER, Events, Job
from tests.federation.local_grid import LocalGrid
from tests.sites import invite


@dataclass
class LocalFederation:
    """Everything of one run that tests look at or disturb."""

    study: StudySpec
    sites: dict[str, Site]
    grid: LocalGrid
    job: Job
    folder: Path

    def coordinator(self, kind: type[Coordinator] = Coordinator) -> Coordinator:
        events = Events(self.folder / EVENTS_FILE)
        checkpoint = Checkpoint(self.folder / SUMS_FOLDER)
        key = load_key(self.folder / KEY_FILE)
        return kind(self.grid, self.study, self.job, key, events, checkpoint)

    def another_run(self, name: str) -> "LocalFederation":
        """Return a run of the same study at the same sites, in a folder of its own."""
        folder = self.folder / name
        folder.mkdir()
        shutil.copy(self.folder / KEY_FILE, folder)
        job = self.job.model_copy(update={"job": name, "out": str(folder)})
        return replace(self, job=job, folder=folder)


def make_site(
    folder: Path,
    name: str,
    data: Path,
    *,
    epsilon: float = 8.0,
    lacks: tuple[str, ...] = (),
    coordinator: Ed25519PrivateKey | None = None,
) -> Site:
    """Make a site by the client's own command."""
    images = data.with_suffix(".npz")
    invitation = invite(folder.with_suffix(".invitation.json"), name, key=coordinator)
    arguments = ["init", str(invitation), "--folder", str(folder), "--data", str(data),
                 "--simulated",
                 "--epsilon", str(epsilon),
                 *(["--images", str(images)] if images.exists() else []),
                 *(text for column in lacks for text in ("--lacks", column))]  # fmt: skip
    result = CliRunner().invoke(client_cli, arguments)
    assert result.exit_code == 0, result.output
    return load_site(folder)


def make_federation(
    folder: Path,
    study: StudySpec,
    study_file: Path,
    data: dict[str, Path],
    *,
    epsilon: float = 8.0,
    lacks: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> LocalFederation:
    """Make sites that approved the study, and a run of it."""
    sites = {}
    key_file = folder / KEY_FILE
    key_file.unlink(missing_ok=True)
    key = create_key(key_file)
    for name, path in data.items():
        sites[name] = make_site(
            folder / name,
            name,
            path,
            epsilon=epsilon,
            lacks=lacks.get(name, ()),
            coordinator=key,
        )
    trust = folder / "sites.toml"
    trust.write_text("".join(f'{n} = "{public_hex(s.key)}"\n' for n, s in sites.items()))
    for name in data:
        arguments = ["approve", str(study_file), "--site", str(folder / name), "--yes",
                     "--sites", str(trust)]  # fmt: skip
        result = CliRunner().invoke(client_cli, arguments)
        assert result.exit_code == 0, result.output
    job = Job(
        job="run1",
        study_file=study_file.read_text(),
        sites={name: public_hex(site.key) for name, site in sites.items()},
        out=str(folder),
        join_timeout_s=1.0,
        refuse_if_silent=True,
    )
    grid = LocalGrid(client_app, [str(site.folder / "site.toml") for site in sites.values()])
    return LocalFederation(study, sites, grid, job, folder)
