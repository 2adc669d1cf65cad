"""Progress of a run on a terminal, or in plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_PHASES = {
    "join": "waiting for the sites",
    "histograms": "noised histograms",
    "training": "training",
    "fit": "fitting the generator to the sums",
    "candidate": "sampling the candidate",
    "audit": "auditing inside every site",
    "conclusion": "deciding and collecting signatures",
}
_PLAIN_EVERY_S = 5.0


class RunDisplay:
    """Follows a run's events. Everything it shows was already released with noise."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task: TaskID | None = None
        self._last_plain = 0.0
        self._num_rounds: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        match event["kind"]:
            case "phase":
                self._console.print(f"· {_PHASES.get(event['phase'], event['phase'])}")
            case "joined":
                self._console.print(f"  {event['site']} joined")
            case "dropped":
                self._console.print(
                    f"  [bold]{event['site']} dropped out[/] {self._when(event)}: {event['code']}"
                )
            case "returned":
                self._console.print(f"  {event['site']} came back {self._when(event)}")
            case "stranger":
                self._console.print("  a node that is not of this study was turned away")
            case "round":
                self._show_round(event)

    def _when(self, event: Mapping[str, Any]) -> str:
        trained = self._num_rounds is not None and event["round"] > self._num_rounds
        return "after training" if trained else f"in round {event['round']}"

    def _show_round(self, event: Mapping[str, Any]) -> None:
        self._num_rounds = event["rounds"]
        state = (
            f"round {event['round']}/{event['rounds']} · {event['sites']} sites · "
            f"signal/noise {event['signal']:.2f} · ε spent a site {event['epsilon']:.2f}"
        )
        if self._task is None:
            self._task = self._progress.add_task("  training", total=event["rounds"], state="")
        self._progress.update(self._task, completed=event["round"], state=state)
        is_last = event["round"] == event["rounds"]
        now = time.monotonic()
        if not self._console.is_terminal and (is_last or now - self._last_plain > _PLAIN_EVERY_S):
            self._last_plain = now
            self._console.print(f"  {state}")


def time_table(seconds_by_phase: Mapping[str, float]) -> Table:
    """Return wall time a phase."""
    table = Table("phase", "seconds", title="Wall time", title_justify="left")
    for phase, seconds in seconds_by_phase.items():
        table.add_row(phase, f"{seconds:.1f}")
    table.add_row("total", f"{sum(seconds_by_phase.values()):.1f}")
    return table
