"""A whole federation on this machine: a real SuperLink and one real daemon a site.

Sites are started by the client's own commands, as processes: this package never imports the client.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType

from pratique_common.errors import (
    ExitCode,
    FederationError,
    InvalidFileError,
    PratiqueError,
    UsageError,
)
from pratique_common.joining import SITE_NAME, new_invitation, write_invitation
from pratique_common.signing import create_key
from pratique_common.study import StudySpec
from pratique_common.table_files import header
from pratique_privacy.budget import PrivacyPlan
from pratique_server.control import Control
from pratique_server.following import Outcome, Stopwatch, Watcher, follow
from pratique_server.job import KEY_FILE, Job, write_job
from pratique_server.processes import Processes
from pratique_server.superlink import SuperLink, free_port

_LEAST_SITE_EPSILON = 8.0
_BUDGET_MARGIN = 1.25
_INVITATION_VALID = timedelta(days=1)
_SITES, _COORDINATOR = "sites", "coordinator"


def prepare_folder(out: Path, *, force: bool) -> None:
    """Make the output folder; an older simulation's is removed with ``force`` and nothing else is.

    Raises:
        UsageError: it exists, or is no simulation's folder.
    """
    if out.exists():
        if not force:
            raise UsageError(f"{out} exists already; give another --out, or --force to replace it")
        is_ours = (out / _COORDINATOR).is_dir() or (out.is_dir() and not any(out.iterdir()))
        if not is_ours:
            raise UsageError(f"{out} was not made by Pratique, so --force does not remove it")
        shutil.rmtree(out)
    (out / _SITES).mkdir(parents=True)
    (out / _COORDINATOR).mkdir()


def parse_sites(arguments: list[str]) -> dict[str, Path]:
    """Return site → file from ``NAME=PATH`` arguments.

    Raises:
        UsageError: malformed, or one name twice.
        InvalidFileError: a file does not exist.
    """
    sites: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or not path or not re.fullmatch(SITE_NAME, name):
            raise UsageError(
                f"--site {argument}: write NAME=PATH with a name of a-z, 0-9, '-' and '_'"
            )
        if name in sites:
            raise UsageError(f"--site {name} is given twice; every site needs a name of its own")
        if not Path(path).is_file():
            raise InvalidFileError(path, problem="no such file", remedy="check the path")
        sites[name] = Path(path)
    return sites


def require_enough_sites(study: StudySpec, sites: Mapping[str, Path]) -> None:
    """Raise UsageError if the study demands more sites."""
    needed = max(study.release.min_sites, study.privacy.least_sites)
    if len(sites) < needed:
        raise UsageError(
            f"the study demands {needed} sites and {len(sites)} are given; add --site NAME=PATH"
        )


_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Simulation:
    """One federation in a folder: ``DIR/coordinator``, ``DIR/sites/NAME``, and its result."""

    def __init__(
        self, study: StudySpec, study_file: Path, sites: Mapping[str, Path], out: Path
    ) -> None:
        self._study, self._study_file, self._sites = study, study_file, sites
        self._out = out.resolve()
        self._home = self._out / _COORDINATOR
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._stopwatch = Stopwatch()
        self._interrupted = False

    def run(self, watch: Watcher) -> Outcome:
        """Run the federation and stop every process, however it ends.

        Args:
            watch: is called with every progress event.

        Raises:
            PratiqueError: a site's data are not acceptable, or the federation failed.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after everything was stopped.
        """
        previous = {number: signal.signal(number, self._interrupt) for number in _STOPPING}
        try:
            with Processes() as processes:
                link = SuperLink(
                    self._home,
                    self._out,
                    port=free_port(),
                    health_port=free_port(),
                    encryption=None,
                )
                link.start(processes.spawn)
                keys = self._set_up_sites(link.address)
                self._stopwatch.end_phase("set up sites")
                self._write_job(keys)
                self._start_sites(processes)
                link.wait_until_healthy()
                with Control(link.address, None, remedy=f"see {link.log_file}") as control:
                    run_id = control.submit(self._study, _COORDINATOR)
                    self._stopwatch.end_phase("start")
                    outcome = follow(
                        self._home,
                        watch=watch,
                        stopwatch=self._stopwatch,
                        require_alive=lambda: self._require_alive(link, processes),
                        has_finished=lambda: control.has_finished(run_id),
                        log_file=link.log_file,
                    )
            self._stopwatch.end_phase("stop")
            return outcome
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Raised within a library's callback an exception is lost: it is remembered as well.
        self._interrupted = True
        raise KeyboardInterrupt

    def _folder(self, site: str) -> Path:
        return self._out / _SITES / site

    def _set_up_sites(self, address: str) -> dict[str, str]:
        """Make every site's folder and approve the study there; return public keys."""
        plan = PrivacyPlan(self._study)
        epsilon = max(_LEAST_SITE_EPSILON, _BUDGET_MARGIN * plan.total_spent().epsilon)
        key = create_key(self._home / KEY_FILE)
        for site, data in self._sites.items():
            invitation = self._out / _SITES / f"{site}.invitation.json"
            write_invitation(
                invitation,
                new_invitation(
                    site, address=address, root_certificates=None, key=key, valid=_INVITATION_VALID
                ),
                key,
            )
            delta = f"{self._study.privacy.target_delta:g}"
            self._client(
                "init", str(invitation), "--folder", str(self._folder(site)), "--data", str(data),
                "--epsilon", f"{epsilon:.3g}", "--delta", delta, "--simulated",
                *self._lacks(data), *self._images(data),
            )  # fmt: skip
        keys = {site: self._public_key(site) for site in self._sites}
        # In a federation the hospitals exchange these among themselves.
        trust = self._out / _SITES / "sites.toml"
        trust.write_text("".join(f'{site} = "{key}"\n' for site, key in keys.items()))
        for site in self._sites:
            self._client(
                "approve", str(self._study_file), "--site", str(self._folder(site)),
                "--sites", str(trust), "--yes",
            )  # fmt: skip
        return keys

    def _lacks(self, data: Path) -> list[str]:
        """Return the options that declare what a table does not have and need not have."""
        missing = set(self._study.data.names) - set(header(data))
        lacked = [n for n in self._study.data.names if n in missing]
        allowed = [name for name in lacked if self._study.data.column(name).may_lack]
        return [text for name in allowed for text in ("--lacks", name)]

    def _images(self, data: Path) -> list[str]:
        """Return the option that names a table's images: the ``.npz`` beside it."""
        if self._study.data.image is None:
            return []
        return ["--images", str(data.with_suffix(".npz"))]

    def _public_key(self, site: str) -> str:
        return (self._folder(site) / "site.pub").read_text().strip()

    def _client(self, *arguments: str) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "pratique_client.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise _as_error(result.returncode, result.stderr)

    def _write_job(self, keys: dict[str, str]) -> None:
        job = Job(
            job=secrets.token_hex(8),
            study_file=self._study_file.read_text("utf-8-sig"),
            sites=keys,
            out=str(self._out),
            refuse_if_silent=True,  # nobody resumes a simulation
        )
        write_job(self._home, job)

    def _start_sites(self, processes: Processes) -> None:
        # One thread a site: they share this machine's cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        for site in self._sites:
            folder = self._folder(site)
            self._daemons[site] = processes.spawn(
                [sys.executable, "-m", "pratique_client.cli", "start", str(folder)],
                environment=environment,
                log_file=folder / "daemon.log",
            )

    def _require_alive(self, link: SuperLink, processes: Processes) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._require_daemons(processes)
        link.require_alive()

    def _require_daemons(self, processes: Processes) -> None:
        """Raise the first ended daemon's error, if more have ended than the study tolerates."""
        ended = {s: d.returncode for s, d in self._daemons.items() if d.poll() is not None}
        privacy = self._study.privacy
        tolerated = privacy.tolerated_dropouts if privacy.noise == "secure_sum" else 0
        if len(ended) > tolerated:
            site, code = next(iter(ended.items()))
            processes.wait_for_log(self._daemons[site])
            log = self._folder(site) / "daemon.log"
            raise _as_error(code, log.read_text("utf-8", "replace"), site=site)


def _as_error(code: int, output: str, *, site: str | None = None) -> PratiqueError:
    """Turn the end of one of the client's commands into an error with the same exit code."""
    _, found, sentence = output.rpartition("error: ")
    text = " ".join(sentence.split()) if found else ""
    if site is not None:
        text = f"site {site}: {text or f'its daemon ended (exit {code}); see its daemon.log'}"
    error = FederationError(text or f"a site's command failed with exit code {code}")
    known = {int(member) for member in ExitCode} - {int(ExitCode.DONE)}
    error.exit_code = ExitCode(code) if code in known else ExitCode.FEDERATION_FAILED
    return error
