"""Kill -9 of every part of a federation in every phase of a run: it goes on, or is resumed.

One run a part: the part is killed once in each phase, and the run has to come to its end all the
same, with every budget paid once. What became of each kill is told at the end, as a table.
"""

import time

import pytest

from tests.faults.conftest import TOLD, Deploy
from tests.faults.federation import COORDINATOR, DECISIONS, VICTIMS, Federation, wait
from tests.faults.ledgers import require_consistent

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_800)]

PHASES = ("join", "histograms", "training", "fit", "candidate", "audit", "conclusion")
ROUNDS = 4


class Attempt:
    """A run and its resumptions, until a decision is signed."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.process = federation.start_run()
        self.name = ""
        self.resumed = 0
        self.ends: list[str] = []

    def seen(self) -> list[str]:
        """Return the phases that this attempt has begun."""
        self._find()
        events = self.federation.events(self.name)
        return [event["phase"] for event in events if event["kind"] == "phase"]

    def _find(self) -> None:
        if not self.name:
            self.name = next(iter(self.federation.runs()), "")

    def go_on(self) -> bool:
        """Resume where the command ended without a decision; return whether there is one."""
        if self.process.poll() is None:
            return False
        out = self.process.communicate()[0]
        self.ends.append(out)
        assert "Traceback" not in out, out
        # The run itself may have gone on to its end while nobody watched it.
        if self.process.returncode in DECISIONS or f"{self.name} ended; see" in out:
            return True
        assert self.process.returncode in (7, -9, 137), out
        self.resumed += 1
        assert self.resumed < 40, out
        time.sleep(2)
        self._find()
        # Killed before there was a job to resume, it begins anew.
        options = ("--resume", self.name) if self.name else ()
        self.process = self.federation.start_run(*options)
        return False


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_9_in_every_phase(deploy: Deploy, victim: str) -> None:
    # Without the hospital a run would have ended before it is back: here nothing goes on without.
    at_hospital = VICTIMS[victim][0] != COORDINATOR
    federation = deploy(rounds=ROUNDS, everybody=at_hospital)
    attempt = Attempt(federation)
    told: list[tuple[str, str]] = []
    for phase in PHASES:
        decided = False

        def reached(phase: str = phase) -> bool:
            nonlocal decided
            decided = attempt.go_on()
            return decided or phase in attempt.seen()

        wait(reached, f"{phase} was not reached: {attempt.ends[-1:]}", 600)
        if decided:
            told.append((phase, "was decided before"))
            break
        before = attempt.resumed
        killed = federation.kill(victim)
        _wait_a_moment(attempt)
        told.append((phase, f"{killed} killed, resumed {attempt.resumed - before}"))
    wait(attempt.go_on, "the run does not end", 900)
    path, report = federation.result(attempt.name)
    for name in federation.sites:
        require_consistent(federation, name, attempt.name, report, rounds=ROUNDS)
    missing = sorted(set(federation.sites) - set(report["sites"]["answered"]))
    _tell(victim, told, f"{path.name}, resumed {attempt.resumed}, not answering {missing}")
    assert sum(int(what.split()[0]) for _, what in told if what[0].isdigit()) >= 4


def _wait_a_moment(attempt: Attempt) -> None:
    """Let the kill show before the next phase is looked for."""
    end = time.monotonic() + 3
    while time.monotonic() < end and not attempt.go_on():
        time.sleep(0.1)


def _tell(victim: str, told: list[tuple[str, str]], end: str) -> None:
    TOLD.extend(f"| {victim} | {phase} | {what} |" for phase, what in told)
    TOLD.append(f"| {victim} | end | {end} |")
