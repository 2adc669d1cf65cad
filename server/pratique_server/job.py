"""A run as the coordinator prepares it: the study, the sites it expects and where results go."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pratique_common.errors import FederationError

HOME_VARIABLE = "PRATIQUE_COORDINATOR"
"""Environment of the SuperLink: the coordinator's folder, which its ServerApp works in."""

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
OUTCOME_FILE = "outcome.json"
KEY_FILE = "coordinator.key"


class Job(BaseModel):
    """One run.

    Attributes:
        job: random name; the only setting that the Flower run carries.
        study_file: the study file's text, as it goes into the bundle.
        sites: expected site → public key, exchanged out of band.
        out: folder in which ``bundle`` or ``refusal`` is written.
        join_timeout_s: how long to wait for the sites to connect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    study_file: str
    sites: dict[str, str]
    out: str
    join_timeout_s: float = 120.0


def load_job(name: str) -> tuple[Job, Path]:
    """Return the job of this name and the coordinator's folder.

    Raises:
        FederationError: there is no such job here.
    """
    home = Path(os.environ.get(HOME_VARIABLE, ""))
    try:
        job = Job.model_validate_json((home / JOB_FILE).read_text())
    except (OSError, ValueError):
        job = None
    if job is None or job.job != name:
        raise FederationError("the coordinator has prepared no such job")
    return job, home


class Events:
    """Progress, one JSON object a line: what the display follows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def emit(self, kind: str, **fields: object) -> None:
        """Append one event."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")
