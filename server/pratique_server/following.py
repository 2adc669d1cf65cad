"""Follow a run from its submission to its outcome: events to a display, seconds a phase."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pratique_common.errors import FederationError
from pratique_server.job import EVENTS_FILE, OUTCOME_FILE

_POLL_S = 0.1
_LOOK_AT_RUN_EVERY_S = 1.0
_PATIENCE_S = 60.0
"""How long a SuperLink may be silent; a restart of one takes seconds."""

Watcher = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    decision: str | None
    path: Path | None
    message: str | None
    seconds_by_phase: Mapping[str, float]


class Stopwatch:
    """Wall time a phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def end_phase(self, name: str) -> None:
        """Count the time since the last phase ended for this one."""
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def follow(
    job_folder: Path,
    *,
    watch: Watcher,
    stopwatch: Stopwatch,
    require_alive: Callable[[], None],
    has_finished: Callable[[], bool],
    log_file: Path,
) -> Outcome:
    """Pass a run's events on until it has an outcome.

    Args:
        job_folder: where the ServerApp writes events and outcome.
        watch: is called with every event.
        stopwatch: counts the phases that events name.
        require_alive: raises when waiting on makes no sense; called at every look.
        has_finished: whether Flower counts the run as finished.
        log_file: named when the run ends without an outcome.

    Raises:
        FederationError: the run ended without an outcome, or its SuperLink is silent.
    """
    events = job_folder / EVENTS_FILE
    seen, phase = 0, "import"
    looked = answered = time.monotonic()
    while True:
        lines = events.read_text().splitlines()[seen:] if events.exists() else []
        for line in lines:
            event = json.loads(line)
            if event["kind"] == "phase":
                stopwatch.end_phase(phase)
                phase = event["phase"]
            watch(event)
        seen += len(lines)
        outcome = _read_outcome(job_folder / OUTCOME_FILE, stopwatch)
        if outcome is not None:
            stopwatch.end_phase(phase)
            return outcome
        require_alive()
        if time.monotonic() - looked > _LOOK_AT_RUN_EVERY_S:
            try:
                finished, answered = has_finished(), time.monotonic()
            except FederationError:
                if time.monotonic() - answered > _PATIENCE_S:
                    raise
                finished = False
            # Read again: a run writes its outcome before it ends.
            if finished and _read_outcome(job_folder / OUTCOME_FILE, stopwatch) is None:
                raise FederationError(f"the run ended without a result; see {log_file}")
            looked = time.monotonic()
        time.sleep(_POLL_S)


def _read_outcome(path: Path, stopwatch: Stopwatch) -> Outcome | None:
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    return Outcome(
        exit_code=data["exit_code"],
        decision=data.get("decision"),
        path=Path(data["path"]) if "path" in data else None,
        message=data.get("message"),
        seconds_by_phase=stopwatch.seconds,
    )
