"""What a coordinator is doing: who is connected, which run, phase and round, what was lost."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from pratique_common.security_log import Entry, security_log
from pratique_server.deployment.folder import Server
from pratique_server.deployment.joining import JoinedSite, control_of, joined_sites
from pratique_server.deployment.serving import JOBS
from pratique_server.job import EVENTS_FILE, JOB_FILE, OUTCOME_FILE

_REFUSALS = ("dropped", "vetoed", "stranger")


@dataclass
class RunStatus:
    """The newest run, from its events; all of it was released with noise or is no secret."""

    run: str
    started: str
    phase: str = "start"
    since: str = ""
    round: int | None = None
    rounds: int | None = None
    epsilon: float | None = None
    taking_part: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    outcome: dict[str, Any] | None = None
    under_way: bool | None = None

    def follow(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        match event["kind"]:
            case "phase":
                self.phase, self.since = event["phase"], _utc(event["time"])
            case "joined" | "returned":
                self.taking_part.add(event["site"])
                self.missing.pop(event["site"], None)
            case "dropped":
                self.taking_part.discard(event["site"])
                self.missing[event["site"]] = event["code"]
            case "round":
                self.round, self.rounds = event["round"], event["rounds"]
                self.epsilon = event["epsilon"]


@dataclass(frozen=True)
class ServerStatus:
    """What ``pratique status`` shows."""

    serving: bool
    sites: tuple[JoinedSite, ...]
    run: RunStatus | None
    last_refusal: Entry | None

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        run = None
        if self.run is not None:
            run = {**vars(self.run), "taking_part": sorted(self.run.taking_part)}
        return {
            "serving": self.serving,
            "sites": {site.name: site.connected for site in self.sites},
            "connected": sum(site.connected is True for site in self.sites),
            "run": run,
            "last_refusal": self.last_refusal,
        }


def status_of(server: Server) -> ServerStatus:
    """Ask the SuperLink who is connected, and read the newest run's events."""
    sites = tuple(joined_sites(server))
    run = _newest_run(server.subfolder(JOBS))
    serving = _serves(server, sites)
    if run is not None and serving:
        with control_of(server) as control:
            run.under_way = run.outcome is None and bool(control.unfinished_runs())
    return ServerStatus(
        serving=serving,
        sites=sites,
        run=run,
        last_refusal=security_log(server.folder).last(_REFUSALS),
    )


def _serves(server: Server, sites: tuple[JoinedSite, ...]) -> bool:
    if sites:
        return sites[0].connected is not None
    from pratique_common.health import probe

    return probe(f"127.0.0.1:{server.settings.health_port}")


def _newest_run(jobs: Path) -> RunStatus | None:
    folders = [path.parent for path in jobs.glob(f"*/{JOB_FILE}")]
    if not folders:
        return None
    folder = max(folders, key=lambda path: (path / JOB_FILE).stat().st_mtime)
    run = RunStatus(folder.name, _utc((folder / JOB_FILE).stat().st_mtime))
    for event in _lines(folder / EVENTS_FILE):
        run.follow(event)
    outcome = folder / OUTCOME_FILE
    run.outcome = json.loads(outcome.read_text()) if outcome.exists() else None
    return run


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return  # the last line, being written


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_table(status: ServerStatus) -> Table:
    """Return a status for a terminal."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("SuperLink", "serves" if status.serving else "[bold red]does not answer[/]")
    run = status.run
    missing = run.missing if run is not None and run.outcome is None else {}
    for site in status.sites:
        connected = {True: "connected", False: "[bold]not connected[/]", None: "unknown"}
        code = f", missing from the run: {missing[site.name]}" if site.name in missing else ""
        table.add_row(f"  {site.name}", connected[site.connected] + code)
    if not status.sites:
        table.add_row("  sites", "none have joined")
    if run is None:
        table.add_row("run", "none yet")
    else:
        table.add_row("run", f"{run.run}, since {run.started}")
        table.add_row("  state", _state(run))
        if run.epsilon is not None:
            table.add_row("  ε spent", f"{run.epsilon:.2f} a patient, by training")
    refusal = status.last_refusal
    if refusal is not None:
        words = [refusal["event"], refusal.get("site", ""), refusal.get("code", "")]
        table.add_row("refusal", f"{refusal['time']}: {' '.join(word for word in words if word)}")
    return table


def _state(run: RunStatus) -> str:
    if run.outcome is not None:
        decision = run.outcome.get("decision")
        return decision if decision else f"ended: {run.outcome.get('message', 'no result')}"
    if run.under_way is False:
        return f"stopped without a result, in phase {run.phase}"
    number = f", round {run.round} of {run.rounds}" if run.phase == "training" and run.round else ""
    since = f", since {run.since}" if run.since else ""
    return f"{run.phase}{number}{since}, {len(run.taking_part)} sites take part"
