"""A run as the coordinator prepares it: the study, the sites it expects and where results go."""

import json
import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pratique_common.durable import write_whole
from pratique_common.errors import FederationError
from pratique_common.security_log import security_log

HOME_VARIABLE = "PRATIQUE_COORDINATOR"
"""Environment of the SuperLink: the folder of jobs. Its ServerApp works in that of its own job."""

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
OUTCOME_FILE = "outcome.json"
KEY_FILE = "coordinator.key"
SUMS_FOLDER = "sums"
_FOLDER_NAME = re.compile(r"[a-z0-9]{1,64}")


class Job(BaseModel):
    """One run.

    Attributes:
        job: random name of the run in every message and ledger.
        study_file: the study file's text, as it goes into the bundle.
        sites: expected site → public key, exchanged out of band.
        out: folder in which ``bundle`` or ``refusal`` is written.
        key_file: the coordinator's private key; a relative path starts at the job's folder.
        join_timeout_s: how long to wait for the sites to connect.
        refuse_if_silent: whether the run ends in a signed refusal when a site that it needs stays
            silent; else it ends without a result, and can be resumed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    study_file: str
    sites: dict[str, str]
    out: str
    key_file: str = KEY_FILE
    join_timeout_s: float = 120.0
    refuse_if_silent: bool = False


def write_job(folder: Path, job: Job) -> None:
    """Prepare a job in its folder, whose name is the only setting that the Flower run carries."""
    assert _FOLDER_NAME.fullmatch(folder.name)
    write_whole(folder / JOB_FILE, job.model_dump_json().encode())


def set_aside(folder: Path) -> None:
    """Give events and outcome of an earlier try another name: the run goes on without them."""
    for name in (EVENTS_FILE, OUTCOME_FILE):
        path = folder / name
        if path.exists():
            number = 1
            while (aside := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
                number += 1
            path.rename(aside)


def load_job(name: str) -> tuple[Job, Path]:
    """Return the job in the folder of this name, and the folder.

    Raises:
        FederationError: there is no such job here.
    """
    folder = Path(os.environ.get(HOME_VARIABLE, "")) / name
    job = None
    if _FOLDER_NAME.fullmatch(name):
        try:
            job = Job.model_validate_json((folder / JOB_FILE).read_text())
        except (OSError, ValueError):
            job = None
    if job is None:
        raise FederationError("the coordinator has prepared no such job")
    return job, folder


OF_SECURITY = frozenset({
    "joined", "stranger", "dropped", "returned", "vetoed", "key_used", "decided",
})  # fmt: skip
"""Kinds of progress that stand in the security log as well."""


class Events:
    """Progress, one JSON object a line: what the display follows."""

    def __init__(self, path: Path, security_folder: Path | None = None) -> None:
        """Write to ``path``; the security log is in its folder, if no other is given."""
        self._path = path
        self._security = security_log(security_folder or path.parent)

    def emit(self, kind: str, **fields: object) -> None:
        """Append one event, also to the security log if it belongs there."""
        if kind in OF_SECURITY:
            self._security.record(kind, **fields)
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")
