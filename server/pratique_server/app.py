"""The Flower ServerApp: does the prepared job and writes down how it ended."""

import json
import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pratique_common.console import log_to_file
from pratique_common.durable import disk_code, write_whole
from pratique_common.errors import ExitCode, PratiqueError, describe_without_values
from pratique_common.flower_settings import shorten_object_waits
from pratique_common.signing import load_key
from pratique_common.study import parse_study_text
from pratique_common.thin_bundle import JOB_KEY
from pratique_common.threads import use_one_thread
from pratique_common.tied import end_with_parent
from pratique_server.checkpoint import Checkpoint
from pratique_server.coordinator import Coordinator
from pratique_server.job import EVENTS_FILE, OUTCOME_FILE, SUMS_FOLDER, Events, load_job

EXIT_CODE_OF_DECISION = {
    "granted": ExitCode.DONE,
    "refused": ExitCode.REFUSED,
    "not_enough_data": ExitCode.NOT_ENOUGH_DATA,
}

_RESERVE_BYTES = 65_536
"""Given back to a full disk, so that how the run ended can be written."""

log = logging.getLogger("pratique.server")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do the job that the run's one setting names."""
    # Flower's own watch ends a ServerApp only after it could tell its SuperLink, which may be gone.
    end_with_parent()
    shorten_object_waits()
    use_one_thread()
    job, home = load_job(str(context.run_config[JOB_KEY]))
    log_to_file(home / "coordinator.log")
    reserve = home / "outcome.reserve"
    outcome: dict[str, object]
    try:
        reserve.write_bytes(bytes(_RESERVE_BYTES))
        study = parse_study_text(job.study_file, source="study.toml")
        events = Events(home / EVENTS_FILE, home / Path(job.key_file).parent)
        checkpoint = Checkpoint(home / SUMS_FOLDER)
        key = load_key(home / job.key_file)
        result = Coordinator(grid, study, job, key, events, checkpoint).run()
        code = EXIT_CODE_OF_DECISION[result.decision]
        outcome = {"exit_code": int(code), "decision": result.decision, "path": str(result.path)}
    except PratiqueError as error:
        log.error("%s", error)
        outcome = {"exit_code": int(error.exit_code), "message": str(error)}
    except OSError as error:
        log.error("%s: %s", describe_without_values(error), error)
        outcome = _disk_failed(error, home) if disk_code(error) else _bug(home)
    except Exception as error:  # noqa: BLE001 - every end of a run must be written down
        log.error("%s: %s", describe_without_values(error), error)
        outcome = _bug(home)
    reserve.unlink(missing_ok=True)
    write_whole(home / OUTCOME_FILE, json.dumps(outcome).encode())


def _disk_failed(error: OSError, home: Path) -> dict[str, object]:
    where = error.filename or home  # a write has no name
    message = f"{where}: {error.strerror}; make room or rights for it, then resume the run"
    return {"exit_code": int(ExitCode.FEDERATION_FAILED), "message": message}


def _bug(home: Path) -> dict[str, object]:
    message = f"a bug of Pratique stopped the coordinator; see {home / 'coordinator.log'}"
    return {"exit_code": int(ExitCode.INTERNAL), "message": message}
