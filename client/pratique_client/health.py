"""Whether a site takes part, and what it is doing: for ``status``, health checks and metrics.

All of it is read from the site's folder, so it is the same from inside and from beside the daemon.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pratique_client.ledger_witness import require_newest
from pratique_client.signs import EXECUTOR, NODE, Signs
from pratique_client.site import Site
from pratique_common.errors import PratiqueError
from pratique_common.security_log import Entry, security_log

CONTACT_LIMIT_S = 60.0
"""After two missed heartbeats of 30 s the SuperLink takes a node for lost, too."""

EXECUTOR_LIMIT_S = 30.0
"""Three heartbeats of a task; between tasks the executor looks for the next one all the time."""

_REFUSALS = ("refused", "vetoed")


@dataclass(frozen=True)
class Part:
    """One part of a site's health, in one sentence."""

    name: str
    well: bool
    finding: str


@dataclass(frozen=True)
class Doing:
    """The run that this site is in, or was in last; ``since`` is when the phase was paid for."""

    study: str
    run: str
    phase: str
    since: str | None


@dataclass(frozen=True)
class SiteStatus:
    """What ``status`` shows; ``epsilon_spent`` is None if the ledger cannot be read."""

    site: str
    parts: tuple[Part, ...]
    doing: Doing | None
    epsilon_spent: float | None
    epsilon_budget: float
    last_refusal: Entry | None

    @property
    def well(self) -> bool:
        """Whether every part is."""
        return all(part.well for part in self.parts)


def signs_of(site: Site) -> Signs:
    """Return the site's signs of life."""
    return Signs(site.subfolder("signs"))


def look(site: Site) -> tuple[Part, ...]:
    """Look at the parts of a site: connection, executor, ledger."""
    signs = signs_of(site)
    return (
        _sign("supernode", signs.age_s(NODE), CONTACT_LIMIT_S, "the coordinator answered"),
        _sign("executor", signs.age_s(EXECUTOR), EXECUTOR_LIMIT_S, "the daemon was ready"),
        _ledger(site),
    )


def status_of(site: Site) -> SiteStatus:
    """Look at everything."""
    parts = look(site)
    intact = parts[-1].well
    return SiteStatus(
        site=site.name,
        parts=parts,
        doing=_doing(site) if intact else None,
        epsilon_spent=site.ledger.spent() if intact else None,
        epsilon_budget=site.ledger.epsilon if intact else site.settings.budget.epsilon,
        last_refusal=security_log(site.folder).last(_REFUSALS),
    )


def _sign(name: str, age_s: float | None, limit_s: float, what: str) -> Part:
    if age_s is None:
        return Part(name, False, "never since the daemon started; is it running?")
    well = age_s <= limit_s
    remedy = "" if well else f"; more than {limit_s:g} s: see site.log and supernode.log"
    return Part(name, well, f"{what} {age_s:.0f} s ago{remedy}")


def _ledger(site: Site) -> Part:
    try:
        head = require_newest(site)
    except PratiqueError as error:
        return Part("ledger", False, str(error))
    return Part("ledger", True, f"chain intact, head {head[:12]}")


def _doing(site: Site) -> Doing | None:
    run = next(_runs(site), None)
    if run is None:
        return None
    folder, state = run
    entries = site.ledger.entries_of(state["study"], folder.name)
    if state.get("mask_key") is None:
        return Doing(state["study"], folder.name, "concluded", None)
    if not entries:
        return Doing(state["study"], folder.name, "joined", None)
    return Doing(state["study"], folder.name, entries[-1].phase, entries[-1].written)


def _runs(site: Site) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in site.subfolder("runs").glob("*/state.json"):
        try:
            yield path.parent, json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # being replaced, or damaged: the daemon tells when it needs it
