import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.errors import BudgetExceededError, FederationError, VerificationError
from pratique_privacy.accountant import GaussianEvent, epsilon_rdp
from pratique_privacy.ledger import GENESIS, Charge, PrivacyLedger, Role

STUDY = "a" * 64
_PHASES = itertools.count()


def _ledger(folder: Path, epsilon: float = 8.0) -> PrivacyLedger:
    return PrivacyLedger(
        folder / "ledger.db", population="heart/patients", epsilon=epsilon, delta=1e-5
    )


def _charge(noise_multiplier: float = 5.0, *, role: Role = "member", study: str = STUDY) -> Charge:
    event = GaussianEvent(noise_multiplier=noise_multiplier)
    return Charge(study=study, run="r", role=role, phase=f"sum {next(_PHASES)}", event=event)


def test_a_phase_of_a_run_is_paid_once_also_by_another_process(tmp_path: Path) -> None:
    charge = _charge()
    head = _ledger(tmp_path, epsilon=100).reserve([charge])
    other = _ledger(tmp_path, epsilon=100)
    with pytest.raises(FederationError) as caught:
        other.reserve([_charge(), charge])
    assert caught.value.code == "repeated_request"
    assert other.verify() == head
    other.reserve([replace(charge, role="holdout"), replace(charge, run="another")])
    assert [entry.phase for entry in other.entries_of(STUDY, "r")] == [charge.phase] * 2


def test_a_new_ledger_is_empty_and_intact(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    assert ledger.verify() == GENESIS
    assert ledger.spent() == 0.0


@settings(max_examples=25, deadline=None)
@given(noise=st.lists(st.floats(2.0, 50.0), min_size=1, max_size=12))
def test_spending_adds_up_and_survives_reopening(
    tmp_path_factory: pytest.TempPathFactory, noise: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = _ledger(folder, epsilon=100)
    for noise_multiplier in noise:
        ledger.reserve([_charge(noise_multiplier)])
    again = _ledger(folder, epsilon=100)
    assert again.verify() == ledger.verify() != GENESIS
    events = [GaussianEvent(noise_multiplier=n) for n in noise]
    assert again.spent() == pytest.approx(epsilon_rdp(events, delta=1e-5))


def test_overspending_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path, epsilon=3.0)
    accepted = 0
    with pytest.raises(BudgetExceededError, match="heart/patients"):
        while True:
            ledger.reserve([_charge(3.0)])
            accepted += 1
    assert accepted >= 1
    assert len(ledger.entries()) == accepted
    assert ledger.spent() <= 3.0
    with pytest.raises(BudgetExceededError):
        ledger.check_affordable([_charge(3.0)])


def test_charges_are_all_or_none(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path, epsilon=3.0)
    with pytest.raises(BudgetExceededError):
        ledger.reserve([_charge(50.0), _charge(0.5)])
    assert ledger.entries() == []


def test_a_study_costs_the_dearer_role_and_studies_add_up(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path, epsilon=100)
    ledger.reserve([_charge(4.0), _charge(2.0, role="holdout")])
    one = epsilon_rdp([GaussianEvent(noise_multiplier=2.0)], delta=1e-5)
    assert ledger.spent() == pytest.approx(one)
    # In another study the roles may be swapped: the same patient pays the dearer one twice.
    ledger.reserve([_charge(2.0, study="b" * 64)])
    two = epsilon_rdp([GaussianEvent(noise_multiplier=2.0)] * 2, delta=1e-5)
    assert ledger.spent() == pytest.approx(two)


def test_entries_cannot_be_changed_or_removed_by_sql(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ledger.reserve([_charge()])
    with sqlite3.connect(ledger.path) as db:
        for statement in ("UPDATE entries SET noise_multiplier = 99", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET noise_multiplier = 99 WHERE position = 1",
        "UPDATE entries SET role = 'holdout' WHERE position = 0",
        "DELETE FROM entries WHERE position = 1",
        "UPDATE entries SET population = 'other'",
        "UPDATE entries SET hash = 'x' || hash WHERE position = 2",
    ],
)
def test_tampering_behind_its_back_breaks_the_chain(tmp_path: Path, statement: str) -> None:
    ledger = _ledger(tmp_path)
    for _ in range(3):
        ledger.reserve([_charge()])
    with sqlite3.connect(ledger.path) as db:
        db.execute("DROP TRIGGER entries_never_change")
        db.execute("DROP TRIGGER entries_never_go")
        db.execute(statement)
    with pytest.raises(VerificationError, match="chain is broken"):
        ledger.verify()
    with pytest.raises(VerificationError):
        ledger.reserve([_charge()])


def test_a_damaged_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(VerificationError, match="restore it from its backup"):
        _ledger(tmp_path)


def test_a_disk_that_takes_nothing_is_named_and_the_ledger_stays_whole(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    head = ledger.reserve([_charge()])
    code = f"""
import resource, signal
from pathlib import Path
from pratique_common.errors import FederationError
from tests.privacy.test_ledger import _charge, _ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    _ledger(Path({str(tmp_path)!r})).reserve([_charge()])
except FederationError as error:
    print(error.code, error)
"""
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert told.startswith("folder_not_writable")
    assert "ledger.db" in told and "mount it writable" in told
    assert ledger.verify() == head


def test_parallel_charges_never_overspend(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path, epsilon=4.0)

    def spend(_: int) -> bool:
        try:
            ledger.reserve([_charge(4.0)])
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        accepted = sum(pool.map(spend, range(16)))
    assert len(ledger.entries()) == accepted < 16
    assert ledger.spent() <= 4.0
    ledger.verify()


_SPENDER = """
import sys, uuid
from pathlib import Path
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.ledger import Charge, PrivacyLedger
ledger = PrivacyLedger(Path(sys.argv[1]), population="p", epsilon=100, delta=1e-5)
computed = open(sys.argv[2], "a", buffering=1)
while True:
    ledger.reserve([Charge(study="s", run="r", role="member", phase=uuid.uuid4().hex,
                           event=GaussianEvent(noise_multiplier=40.0))])
    computed.write("1\\n")  # stands for the computation that was paid for
"""


def test_kill_9_may_lose_budget_and_never_under_counts(tmp_path: Path) -> None:
    path, computed = tmp_path / "ledger.db", tmp_path / "computed"
    computed.touch()
    for round_number in range(6):
        child = subprocess.Popen([sys.executable, "-c", _SPENDER, str(path), str(computed)])
        before = computed.stat().st_size
        deadline = time.monotonic() + 30
        while computed.stat().st_size < before + 4 and time.monotonic() < deadline:
            time.sleep(0.001 * (1 + round_number))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        ledger = PrivacyLedger(path, population="p", epsilon=100, delta=1e-5)
        ledger.verify()
        paid, done = len(ledger.entries()), len(computed.read_text().splitlines())
        assert done >= 2 * (round_number + 1)
        assert done <= paid <= done + round_number + 1
