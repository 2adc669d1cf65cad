"""Which audits of a study this site answered in earlier runs, and what it signed of them.

Every run of a study is another try at its tolerances. A site tells of the tries that its own
ledger was charged for, so that neither a coordinator nor a report can leave one out.
"""

from datetime import datetime
from typing import cast, get_args

from pratique_client.site import Site
from pratique_common.bundle import Decision
from pratique_common.durable import write_whole
from pratique_common.messages import AUDIT_PREFIX
from pratique_common.parts import EarlierAudit

_FOLDER = "decisions"


def keep_decision(site: Site, run: str, decision: Decision) -> None:
    """Remember what this site signs of a run; the last counts, where a veto changed it."""
    write_whole(site.subfolder(_FOLDER) / run, decision.encode(), mode=0o600)


def earlier_audits(site: Site, study_digest: str, run: str) -> tuple[EarlierAudit, ...]:
    """Return the audits of a study that were charged before a run's own, oldest first."""
    found = {}
    for entry in site.ledger.entries():
        if entry.study != study_digest or not entry.phase.startswith(AUDIT_PREFIX):
            continue
        if entry.run == run:
            break
        found[entry.run, entry.phase] = EarlierAudit(
            run=entry.run,
            candidate_sha256=entry.phase.removeprefix(AUDIT_PREFIX),
            day=datetime.fromisoformat(entry.written).date(),
            decision=_decision(site, entry.run),
        )
    return tuple(found.values())


def _decision(site: Site, run: str) -> Decision | None:
    path = site.subfolder(_FOLDER) / run
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    return cast(Decision, text) if text in get_args(Decision) else None
