"""The hub's metrics, declared in one place. Names follow Prometheus conventions: base units, bounded labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import protocol
from protocol.errors import CODES
from protocol.schema import TABLES


class _Live(Collector):
    """Gauges that are asked for when somebody looks."""

    def __init__(self, look: Callable[[], dict[str, float]], verdicts: Callable[[], dict[str, int]]) -> None:
        self._look, self._verdicts = look, verdicts

    def collect(self) -> Iterable[Metric]:
        """The gauges as they are now."""
        agents = GaugeMetricFamily("nodetap_hub_agents", "Agents by verdict", labels=["verdict"])
        for verdict, count in self._verdicts().items():
            agents.add_metric([verdict], count)
        yield agents
        for name, value in self._look().items():
            yield GaugeMetricFamily(name, GAUGES[name], value=value)


GAUGES = {
    "nodetap_hub_sessions": "Agent connections open now",
    "nodetap_hub_queued_works": "Batches, tombstones and echoes waiting for the writer",
    "nodetap_hub_writer_stuck_seconds": "Seconds since the writer last finished something while it had work",
    "nodetap_hub_commit": "Number of the newest commit",
    "nodetap_hub_held_bytes": "Bytes of messages and batches that came in and are not on disk yet",
}


class Metrics:
    """Everything the hub counts."""

    def __init__(self, look: Callable[[], dict[str, float]], verdicts: Callable[[], dict[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Live(look, verdicts))
        to = self.registry
        self.rows = Counter("nodetap_hub_rows_stored", "Rows stored and acknowledged", ["kind"], registry=to)
        self.batches = Counter("nodetap_hub_batches_stored", "Batches stored and acknowledged", ["kind"], registry=to)
        self.duplicates = Counter(
            "nodetap_hub_batches_duplicate", "Batches received again and dropped", ["was"], registry=to
        )
        self.refused = Counter("nodetap_hub_batches_refused", "Batches refused", ["code"], registry=to)
        self.refusals = Counter("nodetap_hub_connections_refused", "Connections refused", ["code"], registry=to)
        self.received_bytes = Counter("nodetap_hub_received_bytes", "Bytes of batches taken in", registry=to)
        self.unknown_keys = Counter("nodetap_hub_unknown_keys", "Unknown message keys dropped", registry=to)
        self.unknown_columns = Counter("nodetap_hub_unknown_columns", "Unknown batch columns dropped", registry=to)
        self.commit_seconds = Histogram(
            "nodetap_hub_commit_seconds",
            "Time from taking batches out of the queue to having them on disk",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry=to,
        )
        self.loop_lag = Histogram(
            "nodetap_hub_loop_lag_seconds",
            "How late the event loop came back to a task that slept",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=to,
        )
        self.admitted = Counter("nodetap_hub_connections_admitted", "Connections let in", registry=to)
        self.info = Counter("nodetap_hub_starts", "Starts of this process, by version", ["version"], registry=to)
        self.info.labels(protocol.VERSION).inc()
        for kind in (*TABLES, "tombstone"):
            self.batches.labels(kind)
        for kind in TABLES:
            self.rows.labels(kind)
        for code in CODES:
            self.refused.labels(code)
            self.refusals.labels(code)
        for was in ("held", "queued"):
            self.duplicates.labels(was)

    def text(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self.registry)
