"""Which sites are in a run, which are missing and why, and who came back."""

from collections.abc import Iterable, Mapping

from pratique_common.durable import MENDABLE
from pratique_privacy.evidence import Drop
from pratique_server.exchange import TIMEOUT, UNREACHABLE
from pratique_server.job import Events

SILENT = frozenset({TIMEOUT, UNREACHABLE, *MENDABLE})
"""Codes of sites that may come back by themselves; with any other somebody has to mend them."""


class Attendance:
    """The sites of a run by the nodes that they answer from now."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._node_of: dict[str, int] = {}
        self.members: frozenset[str] = frozenset()
        """Who joined the run, in or missing."""
        self.dropped: dict[str, list[Drop]] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are in, sorted."""
        return tuple(sorted(self._node_of))

    @property
    def nodes(self) -> frozenset[int]:
        """Flower's nodes of the sites that are in."""
        return frozenset(self._node_of.values())

    def node(self, site: str) -> int:
        """Return the node of a site that is in."""
        return self._node_of[site]

    def restore(self, members: Iterable[str], dropped: Mapping[str, Iterable[Drop]]) -> None:
        """Go on with who joined, and who was missing when the coordinator ended."""
        self.members = frozenset(members)
        self.dropped = {site: list(drops) for site, drops in dropped.items()}

    def take_in(self, site: str, node: int, round_number: int) -> None:
        """Take a site in, for the first time or again."""
        self._node_of[site] = node
        if self.is_missing(site):
            drops = self.dropped[site]
            drops[-1] = drops[-1].model_copy(update={"returned": round_number})
            self._events.emit("returned", site=site, round=round_number)
        else:
            self._events.emit("joined", site=site)

    def drop(self, site: str, round_number: int, code: str) -> None:
        """Leave a site out from now on."""
        self._node_of.pop(site, None)
        self.dropped.setdefault(site, []).append(Drop(round=round_number, code=code))
        self._events.emit("dropped", site=site, round=round_number, code=code)

    def is_missing(self, site: str) -> bool:
        """Return whether a site was dropped and did not come back."""
        return site in self.dropped and self.dropped[site][-1].returned is None

    def silent(self) -> set[str]:
        """Return members that are missing and may come back."""
        missing = filter(self.is_missing, self.members)
        return {site for site in missing if self.dropped[site][-1].code in SILENT}

    def reasons(self, names: Iterable[str]) -> str:
        """Return ``site: code`` of the last time that each of these sites dropped out."""
        return "; ".join(f"{site}: {self.dropped[site][-1].code}" for site in sorted(names))
