"""``pratique run``: one run of a study with the hospitals that joined."""

import secrets
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Self

from pratique_common.durable import make_folder
from pratique_common.errors import FederationError, UsageError
from pratique_common.signing import load_trust
from pratique_common.study import StudySpec, parse_study_text
from pratique_server.control import Control
from pratique_server.deployment.folder import Server
from pratique_server.deployment.joining import control_of, public_keys
from pratique_server.deployment.serving import JOBS, superlink_of
from pratique_server.following import Outcome, Stopwatch, Watcher, follow
from pratique_server.job import JOB_FILE, Job, set_aside, write_job

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_RESULTS = ("bundle", "refusal")
_RANDOM_BYTES = 8


def sites_of_run(server: Server, study: StudySpec, sites_file: Path | None) -> Mapping[str, str]:
    """Return the sites of a run: those of a file of names and keys, or all that joined.

    Raises:
        UsageError: one of them has not joined with that key, or they are too few.
    """
    joined = public_keys(server)
    sites = joined if sites_file is None else load_trust(sites_file)
    for name, key in sites.items():
        if joined.get(name) != key:
            raise UsageError(f"--sites: {name} has not joined with that key")
    needed = max(study.release.min_sites, study.privacy.least_sites)
    if len(sites) < needed:
        raise UsageError(
            f"the study demands {needed} sites and {len(sites)} take part; invite more"
        )
    return sites


def require_room(out: Path) -> None:
    """Raise UsageError if there is a result in the folder already."""
    for name in _RESULTS:
        if (out / name).exists():
            raise UsageError(f"{out / name} exists already; give another --out")


class DeployedRun:
    """One run of a study: a job in ``runs/NAME``, done by the SuperLink that serves."""

    def __init__(self, server: Server, name: str, job: Job) -> None:
        """Take a run by its name, which is its folder's."""
        self._server, self.name, self._job = server, name, job
        self._study = parse_study_text(job.study_file, source=f"{JOBS}/{name}/{JOB_FILE}")
        self._folder = server.subfolder(JOBS) / name
        self._interrupted = False

    @classmethod
    def new(
        cls,
        server: Server,
        study_file: Path,
        sites: Mapping[str, str],
        out: Path | None,
        *,
        refuse_if_silent: bool = False,
    ) -> Self:
        """Prepare a run.

        Args:
            server: the coordinator.
            study_file: what is run.
            sites: site → public key.
            out: folder of the result; None for the job's own folder.
            refuse_if_silent: see Job.
        """
        moment = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
        name = f"{moment}x{secrets.token_hex(_RANDOM_BYTES)}"
        job = Job(
            job=name,
            study_file=study_file.read_text("utf-8-sig"),
            sites=dict(sites),
            out=str((server.subfolder(JOBS) / name) if out is None else out.resolve()),
            key_file=str(server.coordinator_key_file),
            refuse_if_silent=refuse_if_silent,
        )
        return cls(server, name, job)

    @classmethod
    def of_before(cls, server: Server, name: str, *, refuse_if_silent: bool = False) -> Self:
        """Take up a run that ended without a result: where it was, nothing is asked for twice.

        Raises:
            UsageError: there is no such run, or it has its result.
        """
        folder = server.subfolder(JOBS) / name
        try:
            job = Job.model_validate_json((folder / JOB_FILE).read_text())
        except (OSError, ValueError):
            known = sorted(path.name for path in server.subfolder(JOBS).iterdir())
            raise UsageError(
                f"--resume: there is no run {name}; the last one is {known[-1]}"
                if known
                else f"--resume: there is no run {name}, and none before"
            ) from None
        for result in _RESULTS:
            if (Path(job.out) / result).exists():
                raise UsageError(f"--resume: run {name} ended; see {Path(job.out) / result}")
        job = job.model_copy(update={"refuse_if_silent": refuse_if_silent})
        return cls(server, name, job)

    def run(self, watch: Watcher) -> Outcome:
        """Do the run and return how it ended; Ctrl-C and SIGTERM stop it.

        Raises:
            FederationError: the SuperLink does not serve, is busy, or lost the run.
            KeyboardInterrupt: after the run was stopped.
        """
        with control_of(self._server) as control:
            _require_idle(control)
            make_folder(self._folder)
            Path(self._job.out).mkdir(parents=True, exist_ok=True)
            set_aside(self._folder)
            write_job(self._folder, self._job)
            previous = {number: signal.signal(number, self._interrupt) for number in _STOPPING}
            try:
                return self._do(control, watch)
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def _do(self, control: Control, watch: Watcher) -> Outcome:
        stopwatch = Stopwatch()
        try:
            run_id = control.submit(self._study, self.name)
            stopwatch.end_phase("start")
            return follow(
                self._folder,
                watch=watch,
                stopwatch=stopwatch,
                require_alive=self._require_wanted,
                has_finished=lambda: control.has_finished(run_id),
                log_file=superlink_of(self._server).log_file,
            )
        except KeyboardInterrupt:
            # All that run: none was when this one began.
            for unfinished in control.unfinished_runs():
                control.stop(unfinished)
            raise

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Raised within a library's callback an exception is lost: it is remembered as well.
        self._interrupted = True
        raise KeyboardInterrupt

    def _require_wanted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt


def _require_idle(control: Control) -> None:
    if control.unfinished_runs():
        raise FederationError(
            "a run is under way, and hospitals take part in one at a time; wait for its end, stop "
            "the 'pratique run' that leads it with Ctrl-C, or start the server anew",
            code="run_under_way",
        )
