"""What the patients of one population have spent, over all rounds, restarts, studies and audits.

An append-only, hash-chained table on the hospital's own disk. A spend is written and synced to disk
*before* the computation that it pays for: a crash at any point may lose budget and never
under-counts it. Entries say what happened; what it costs is computed from them.
"""

import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from pratique_common.canonical import digest
from pratique_common.durable import DISK_FULL, NOT_WRITABLE
from pratique_common.errors import BudgetExceededError, FederationError, VerificationError
from pratique_privacy.accountant import ORDERS, GaussianEvent, epsilon_of_curve, rdp_curve

Role = Literal["member", "holdout"]

GENESIS = "0" * 64
_SHARED_MEMORY_BYTES = 32 * 1_024
_PRIMARY_CODE = 0xFF  # SQLite's result codes: https://sqlite.org/rescode.html
_DISK_CODES = {
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_READONLY: NOT_WRITABLE,
    sqlite3.SQLITE_IOERR: NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: NOT_WRITABLE,
}
_BUSY_TIMEOUT_S = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    position INTEGER PRIMARY KEY,
    population TEXT NOT NULL,
    study TEXT NOT NULL,
    run TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('member', 'holdout')),
    phase TEXT NOT NULL,
    noise_multiplier REAL NOT NULL,
    sample_rate REAL NOT NULL,
    num_steps INTEGER NOT NULL,
    written TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
);
CREATE TRIGGER IF NOT EXISTS entries_never_change BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_go BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One spend: who pays, for what, and what happens to them."""

    study: str
    run: str
    role: Role
    phase: str
    event: GaussianEvent


@dataclass(frozen=True, kw_only=True)
class Entry(Charge):
    """A charge as it stands in the ledger."""

    position: int
    population: str
    written: str
    previous: str
    hash: str

    def expected_hash(self) -> str:
        """Return the hash that this entry must have."""
        return _entry_hash(self, self.position, self.population, self.written, self.previous)


def _entry_hash(charge: Charge, position: int, population: str, written: str, previous: str) -> str:
    return digest(
        {
            "position": position,
            "population": population,
            "study": charge.study,
            "run": charge.run,
            "role": charge.role,
            "phase": charge.phase,
            "noise_multiplier": charge.event.noise_multiplier,
            "sample_rate": charge.event.sample_rate,
            "num_steps": charge.event.num_steps,
            "written": written,
            "previous": previous,
        }
    )


class PrivacyLedger:
    """The ledger of one population, with its budget (ε, δ) per patient.

    Composition is by Rényi differential privacy at fixed orders, used as a filter: a charge is
    accepted while some order keeps the whole history within (ε, δ) (Feldman & Zrnic 2021, arXiv
    2008.11193; Lécuyer 2021, arXiv 2103.01379). A patient's role changes from study to study, so
    a study costs the larger of its two roles at every order.
    """

    def __init__(self, path: Path, *, population: str, epsilon: float, delta: float) -> None:
        self.path, self.population = path, population
        self.epsilon, self.delta = epsilon, delta
        with self._connect() as db:
            db.executescript(_SCHEMA)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # One connection an operation: threads and forks never share one.
        db = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            yield db
        except sqlite3.DatabaseError as error:
            if code := self._disk_code(error):
                raise FederationError(
                    f"{self.path}: the ledger takes no entry ({error.sqlite_errorname}); make room "
                    "on its disk, or mount it writable: the ledger itself is whole",
                    code=code,
                ) from None
            raise VerificationError(
                f"{self.path}: the ledger cannot be read or written "
                f"({type(error).__name__}); restore it from its backup",
                code="ledger_unusable",
            ) from None
        finally:
            db.close()

    def _disk_code(self, error: sqlite3.DatabaseError) -> str | None:
        code = _DISK_CODES.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE)
        # SQLite's shared memory grows by 32 KiB; where it cannot, that is an I/O error to it.
        is_full = shutil.disk_usage(self.path.parent).free < _SHARED_MEMORY_BYTES
        return DISK_FULL if code and is_full else code

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, without checking them."""
        with self._connect() as db:
            return self._read(db)

    def verify(self) -> str:
        """Check the whole chain and return its head.

        Raises:
            VerificationError: an entry was changed, removed or put in.
        """
        with self._connect() as db:
            return self._verified(self._read(db))

    def entries_of(self, study: str, run: str) -> list[Entry]:
        """Return the entries of one run, oldest first."""
        return [entry for entry in self.entries() if (entry.study, entry.run) == (study, run)]

    def spent(self) -> float:
        """Return ε at the ledger's δ that a patient of this population has spent at most."""
        return self._epsilon(self.entries())

    def reserve(self, charges: list[Charge]) -> str:
        """Write charges to disk, all or none, before what they pay for; return the new head.

        A role pays for a phase of a run once: whoever asks for it again, also after a restart or
        from another process, gets no second draw of its noise.

        Raises:
            FederationError: a charge stands in the ledger already; nothing was written.
            BudgetExceededError: they do not fit; nothing was written.
            VerificationError: the chain is broken: nothing more may be spent on it.
        """
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                entries = self._read(db)
                head = self._verified(entries)
                _refuse_repetition(entries, charges)
                self._refuse_overspending(entries, charges)
                for offset, charge in enumerate(charges):
                    head = self._append(db, len(entries) + offset, charge, head)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return head

    def check_affordable(self, charges: list[Charge]) -> None:
        """Raise BudgetExceededError if ``charges`` would not fit, writing nothing."""
        self._refuse_overspending(self.entries(), charges)

    def _refuse_overspending(self, entries: list[Entry], charges: list[Charge]) -> None:
        after = self._epsilon([*entries, *charges])
        if after > self.epsilon:
            raise BudgetExceededError(
                f"{self.path}: the budget of population '{self.population}' is ε = "
                f"{self.epsilon:g} a patient and {self._epsilon(entries):.2f} are spent; this "
                f"would make {after:.2f}: nothing was computed"
            )

    def _append(self, db: sqlite3.Connection, position: int, charge: Charge, head: str) -> str:
        written = datetime.now(UTC).isoformat(timespec="milliseconds")
        new = _entry_hash(charge, position, self.population, written, head)
        db.execute(
            "INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                position,
                self.population,
                charge.study,
                charge.run,
                charge.role,
                charge.phase,
                charge.event.noise_multiplier,
                charge.event.sample_rate,
                charge.event.num_steps,
                written,
                head,
                new,
            ),
        )
        return new

    def _read(self, db: sqlite3.Connection) -> list[Entry]:
        rows = db.execute("SELECT * FROM entries ORDER BY position").fetchall()
        return [
            Entry(
                position=row[0],
                population=row[1],
                study=row[2],
                run=row[3],
                role=row[4],
                phase=row[5],
                event=GaussianEvent(noise_multiplier=row[6], sample_rate=row[7], num_steps=row[8]),
                written=row[9],
                previous=row[10],
                hash=row[11],
            )
            for row in rows
        ]

    def _verified(self, entries: list[Entry]) -> str:
        head = GENESIS
        for position, entry in enumerate(entries):
            intact = (
                entry.position == position
                and entry.population == self.population
                and entry.previous == head
                and entry.hash == entry.expected_hash()
            )
            if not intact:
                raise VerificationError(
                    f"{self.path}: the ledger's chain is broken at entry {position}; stop, keep "
                    "the file and restore it from its backup",
                    code="ledger_broken",
                )
            head = entry.hash
        return head

    def _epsilon(self, charges: list[Entry] | list[Charge | Entry] | list[Charge]) -> float:
        by_study: dict[str, dict[Role, list[GaussianEvent]]] = defaultdict(
            lambda: {"member": [], "holdout": []}
        )
        for charge in charges:
            by_study[charge.study][charge.role].append(charge.event)
        total = np.zeros(len(ORDERS))
        for roles in by_study.values():
            total += np.maximum(rdp_curve(roles["member"]), rdp_curve(roles["holdout"]))
        return epsilon_of_curve(total, delta=self.delta)


def _refuse_repetition(entries: list[Entry], charges: list[Charge]) -> None:
    paid = {(entry.study, entry.run, entry.role, entry.phase) for entry in entries}
    if any((c.study, c.run, c.role, c.phase) in paid for c in charges):
        raise FederationError("this was asked for and paid before", code="repeated_request")
