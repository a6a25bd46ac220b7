"""The hub's metrics, declared in one place. Names follow Prometheus conventions: base units, bounded labels."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import protocol
from hub.ingest.verdict import VERDICTS
from protocol.errors import CODES
from protocol.schema import TABLES

Agents: TypeAlias = "Sequence[Mapping[str, Any]]"
"""Agents as the register lists them."""


class _Live(Collector):
    """What is asked for when somebody looks."""

    def __init__(self, look: Callable[[], dict[str, float]], agents: Callable[[], Agents]) -> None:
        self.looks, self._agents = [look], agents

    def collect(self) -> Iterable[Metric]:
        """Everything as it is now."""
        agents = self._agents()
        verdicts = Tally(agent["verdict"] for agent in agents)
        family = GaugeMetricFamily("nodetap_hub_agents", "Agents by verdict", labels=["verdict"])
        for verdict in VERDICTS:
            family.add_metric([verdict], verdicts[verdict])
        yield family
        yield from _links([agent for agent in agents if agent["connection"] is not None])
        for look in self.looks:
            for name, value in look().items():
                yield GaugeMetricFamily(name, GAUGES[name], value=value)


GAUGES = {
    "nodetap_hub_sessions": "Agent connections open now",
    "nodetap_hub_people_connections": "Connections of people and programs that ask, open now",
    "nodetap_hub_queued_works": "Batches, tombstones and echoes waiting for the writer",
    "nodetap_hub_writer_stuck_seconds": "Seconds since the writer last finished something while it had work",
    "nodetap_hub_store_failing": "1 while the store takes nothing: its disk is full, or its servers are away",
    "nodetap_hub_commit": "Number of the newest commit",
    "nodetap_hub_held_bytes": "Bytes of messages and batches that came in and are not on disk yet",
    "nodetap_hub_unbalanced_runs": "Runs of agents in whose books packets are unaccounted for",
    "nodetap_hub_incomplete_runs": "Runs of agents with gaps, or whose end was not reported",
    "nodetap_hub_names_behind_seconds": "Age of what the watches of Kubernetes have told; 0 before they know all",
    "nodetap_hub_names_intervals": "Addresses and times that Kubernetes' names are known for",
    "nodetap_hub_names_listings": "Lists of a whole kind that were read from Kubernetes since the start",
    "nodetap_hub_rollup_behind_seconds": "Time since the end of the oldest hour that is not summed up; 0 without any",
    "nodetap_hub_disk_free_bytes": "Bytes that the disk of the store has left for it",
    "nodetap_hub_disk_size_bytes": "Size of the disk of the store",
    "nodetap_hub_certificate_not_after_timestamp_seconds": "When the certificate in use ends",
}

LINK_GAUGES = {
    "round_trip": ("round_trip_seconds", "Round trip of an agent's pings, smoothed"),
    "jitter": ("round_trip_jitter_seconds", "Mean deviation of the round trip of an agent's pings"),
    "clock_offset": ("clock_offset_seconds", "The hub's clock minus an agent's"),
    "oldest_unacknowledged": ("oldest_unacknowledged_seconds", "Age of the oldest batch that an agent owes the hub"),
    "outbox_bytes": ("outbox_bytes", "Bytes in an agent's outbox"),
}
LINK_COUNTS = {
    "pings": "Pings that an agent sent",
    "pongs": "Pings of an agent that were answered",
    "echoes": "Echoes that an agent sent through the hub's queue",
    "echo_replies": "Echoes of an agent that were answered",
}


def _links(agents: Agents) -> Iterable[Metric]:
    """The links of connected agents, as the agents measure them."""
    for key, (name, doc) in LINK_GAUGES.items():
        gauge = GaugeMetricFamily(f"nodetap_hub_agent_{name}", doc, labels=["agent"])
        yield _each(gauge, agents, lambda agent, key=key: {(): agent.get(key)})
    for key, doc in LINK_COUNTS.items():
        count = CounterMetricFamily(f"nodetap_hub_agent_{key}", doc, labels=["agent"])
        yield _each(count, agents, lambda agent, key=key: {(): agent.get(key)})
    degraded = GaugeMetricFamily("nodetap_hub_agent_degraded", "1 while an agent sends only flows", labels=["agent"])
    yield _each(degraded, agents, lambda agent: {(): float(agent["level"] != "packets")})
    ended = CounterMetricFamily(
        "nodetap_hub_agent_links_ended", "Links of an agent that ended, by reason", labels=["agent", "reason"]
    )
    yield _each(ended, agents, lambda agent: {(reason,): times for reason, times in agent.get("ended", {}).items()})


def _each(
    family: GaugeMetricFamily | CounterMetricFamily, agents: Agents, read: Callable[..., Mapping[tuple[str, ...], Any]]
) -> Metric:
    """Fill a family: `read` gives an agent's values by their further labels, None where it does not tell."""
    for agent in agents:
        for labels, number in read(agent).items():
            if number is not None:
                family.add_metric([agent["agent"], *labels], number)
    return family


class Metrics:
    """Everything the hub counts."""

    def __init__(self, look: Callable[[], dict[str, float]], agents: Callable[[], Agents]) -> None:
        self.registry = CollectorRegistry()
        self._live = _Live(look, agents)
        self.registry.register(self._live)
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

    def show(self, look: Callable[[], dict[str, float]]) -> None:
        """Ask for more gauges when somebody looks: their values by names in GAUGES."""
        self._live.looks.append(look)

    def text(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self.registry)
