"""The security log: joins, approvals, spends, refusals, signatures; one JSON object a line.

It stands apart from the application's log, in ``security.log`` of a site's or a coordinator's
folder, readable by its owner only and only ever appended to. Every field has a pattern, and a text
that does not match is not written: no value of a record can get in, whoever wrote the message.

==============  =================================================================  ==============
event           fields beside ``time`` (UTC) and ``event``                         written at
==============  =================================================================  ==============
started         version                                                            both
stopped                                                                            both
key_made        key                                                                both
key_used        key, purpose                                                       both
approved        study, sites                                                       site
joined          study, run (site); site (coordinator)                              both
spent           study, run, role, phase, noise_multiplier, sample_rate,            site
                num_steps, head
countersigned   study, run, phase                                                  site
opened          study, run, phase                                                  site
signed          study, run                                                         site
refused         code, question, study, run, bundle                                 site
vetoed          code, question, study, run (site); site, code (coordinator)        both
invited         site                                                               coordinator
accepted        site, key                                                          coordinator
removed         site, key                                                          coordinator
dropped         site, round, code                                                  coordinator
returned        site, round                                                        coordinator
stranger                                                                           coordinator
decided         decision, manifest                                                 coordinator
==============  =================================================================  ==============

``code`` is the public code of an error, ``head`` the ledger's head after a spend, ``key`` a
fingerprint. A field that is not known, or not well-formed, is left out.
"""

import fcntl
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pratique_common.durable import sync_folder
from pratique_common.rotated_files import PrivateRotatingHandler

SECURITY_LOG = "security.log"
LOG_BYTES = 5_000_000
LOG_FILES = 20
"""Kept beside the present one: with some 300 bytes an event, hundreds of thousands of events."""

EVENTS = frozenset({
    "started", "stopped", "key_made", "key_used", "approved", "joined", "spent", "countersigned",
    "opened", "signed", "refused", "vetoed", "dropped", "returned", "stranger", "decided",
    "invited", "accepted", "removed",
})  # fmt: skip

_HASH, _SITE, _WORD = r"[0-9a-f]{64}", r"[a-z0-9][a-z0-9_-]{0,62}", r"[a-z][a-z_-]{0,62}"
_TEXTS = {
    "version": r"[0-9a-z.+-]{1,32}",
    "key": r"([0-9a-f]{4} ){7}[0-9a-f]{4}",
    "purpose": _WORD,
    "study": _HASH,
    "run": r"[0-9a-z][0-9a-z-]{0,120}",
    "site": _SITE,
    "role": "member|holdout",
    "phase": rf"histograms|round \d{{1,9}}|(audit|utility) {_HASH}",
    "head": _HASH,
    "code": _WORD,
    "question": _WORD,
    "bundle": _HASH,
    "decision": "granted|refused|not_enough_data",
    "manifest": _HASH,
}
_NUMBERS = frozenset({"noise_multiplier", "sample_rate", "num_steps", "round"})

log = logging.getLogger("pratique")

Entry = Mapping[str, Any]


class SecurityLog:
    """The security log of one folder; several processes may write to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SECURITY_LOG
        self._lock = threading.Lock()
        self._watchers: list[Callable[[Entry], None]] = []

    def record(self, event: str, **fields: object) -> None:
        """Append one event. A disk that takes nothing is told in the application's log."""
        if event not in EVENTS:
            raise ValueError(f"no event of the security log: {event}")
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry: dict[str, object] = {"time": time, "event": event}
        entry |= {name: value for name, value in fields.items() if _is_well_formed(name, value)}
        try:
            with self._alone():
                is_first = not self.path.exists()
                handler = _SyncedHandler(self.path, max_bytes=LOG_BYTES, files=LOG_FILES)
                handler.handle(_as_record(json.dumps(entry)))
                handler.close()
                if is_first:
                    sync_folder(self.path.parent)
        except OSError as error:
            log.error("%s cannot be written: %s", self.path, error.strerror)
        for watcher in self._watchers:
            watcher(entry)

    def watch(self, watcher: Callable[[Entry], None]) -> None:
        """Call ``watcher`` with every event that this process records from now on."""
        self._watchers.append(watcher)

    def entries(self) -> Iterator[Entry]:
        """Yield the events of this file and the one before it, newest first."""
        for path in (self.path, self.path.with_name(f"{SECURITY_LOG}.1")):
            lines = path.read_text().splitlines() if path.is_file() else []
            for line in reversed(lines):
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # a line that a crash cut off

    def last(self, events: Collection[str]) -> Entry | None:
        """Return the newest entry of one of these events."""
        return next((entry for entry in self.entries() if entry["event"] in events), None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else rotate or write meanwhile: no thread, and no process."""
        descriptor = os.open(self.path.with_name(".security.lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with self._lock:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
        finally:
            os.close(descriptor)


@cache
def security_log(folder: Path) -> SecurityLog:
    """Return the one security log of a folder in this process."""
    return SecurityLog(folder)


class _SyncedHandler(PrivateRotatingHandler):
    """Lets errors out, and is on disk before it returns."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.shouldRollover(record):
            self.doRollover()
        stream = self.stream = self.stream or self._open()
        if _is_cut_off(Path(self.baseFilename)):
            stream.write("\n")  # a crash cut it off: only that line is lost
        stream.write(record.getMessage() + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _is_cut_off(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _as_record(text: str) -> logging.LogRecord:
    return logging.LogRecord("security", logging.INFO, "", 0, "%s", (text,), None)


def _is_well_formed(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return isinstance(value, int | float)
    if name == "sites":
        return isinstance(value, list) and all(re.fullmatch(_SITE, str(site)) for site in value)
    return name in _TEXTS and re.fullmatch(_TEXTS[name], str(value)) is not None
