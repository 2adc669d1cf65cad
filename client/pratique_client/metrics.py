"""Metrics in Prometheus text on the loopback address: counts of events, budget, contact.

Nothing here is derived from a record, and no time that an answer took is among them.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pratique_client.health import look, signs_of
from pratique_client.signs import NODE
from pratique_client.site import Site
from pratique_common.errors import PratiqueError, UsageError
from pratique_common.health import require_loopback
from pratique_common.security_log import Entry, security_log


class SiteMetrics(Collector):
    """A site's metrics, read when they are asked for; counts are since the daemon started."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._events: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._rounds = 0
        security_log(site.folder).watch(self._count)

    def _count(self, entry: Entry) -> None:
        self._events[entry["event"]] += 1
        if entry["event"] in ("refused", "vetoed"):
            self._codes[entry.get("code", "unknown")] += 1
        if entry["event"] == "spent" and entry.get("phase", "").startswith("round "):
            self._rounds += 1

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the metrics."""
        yield CounterMetricFamily("pratique_rounds", "Training rounds paid for.", self._rounds)
        refusals = CounterMetricFamily(
            "pratique_refusals", "Questions refused, by public code.", labels=["code"]
        )
        for code, number in sorted(self._codes.items()):
            refusals.add_metric([code], number)
        yield refusals
        events = CounterMetricFamily(
            "pratique_security_events", "Events of the security log.", labels=["event"]
        )
        for event, number in sorted(self._events.items()):
            events.add_metric([event], number)
        yield events
        yield from self._gauges()

    def _gauges(self) -> Iterator[GaugeMetricFamily]:
        well = GaugeMetricFamily("pratique_well", "1 if this part is well.", labels=["part"])
        for part in look(self._site):
            well.add_metric([part.name], float(part.well))
        yield well
        age_s = signs_of(self._site).age_s(NODE)
        if age_s is not None:
            yield GaugeMetricFamily(
                "pratique_contact_age_seconds", "Since the coordinator last answered.", age_s
            )
        try:
            spent, budget = self._site.ledger.spent(), self._site.ledger.epsilon
        except PratiqueError:
            return  # the ledger is not well, which is told above
        yield GaugeMetricFamily("pratique_epsilon_spent", "ε that a patient has spent.", spent)
        yield GaugeMetricFamily("pratique_epsilon_budget", "ε that a patient may spend.", budget)


def serve_metrics(address: str, metrics: Collector) -> Callable[[], None]:
    """Serve metrics on http://address/metrics; return what stops it.

    Raises:
        UsageError: not on the loopback address, or in use.
    """
    host, port = require_loopback(address, "--metrics")
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError:
        raise UsageError(f"--metrics {address}: the address is in use; give another") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
