"""The page of metrics, from the collectors of both programs: names, kinds, labels, meanings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agent.metrics import Metrics as AgentMetrics
from agent.metrics import Now, RecorderMetrics, SpoolMetrics
from agent.recorder.recorder import RecorderView
from agent.spool.spooler import SpoolView
from agent.tap.metrics import TapMetrics
from agent.tap.tap import TapView
from agent.uplink.machine import State
from agent.uplink.quality import Quality
from hub.metrics import GAUGES
from hub.metrics import Metrics as HubMetrics
from protocol.ledger import Report

AN_AGENT = {"agent": "a", "verdict": "healthy", "connection": "c", "level": "packets", "ended": {"": 0}}


def _now() -> Now:
    ended = "Jan  1 00:00:00 2030 GMT"
    return Now(State.STREAMING, Report(), 0, 0, 0, Quality(), 0.0, False, 0, {}, certificate_ends=ended)


def agent_metrics() -> dict[str, list[Metric]]:
    """An agent's, by what has to be switched on for them."""
    parts: dict[str, Collector] = {
        "Of every agent": AgentMetrics(_now).registry,
        "With `--spool`": SpoolMetrics(SpoolView),
        "With `--recorder`": RecorderMetrics(RecorderView),
        "Where live captures are allowed": TapMetrics(TapView),
    }
    return {title: list(collector.collect()) for title, collector in parts.items()}


def hub_metrics() -> list[Metric]:
    """The hub's."""
    return list(HubMetrics(lambda: dict.fromkeys(GAUGES, 0.0), lambda: [AN_AGENT]).registry.collect())


def rows(metrics: Iterable[Metric]) -> Iterator[tuple[str, str, str, str]]:
    """Name as it is scraped, kind, labels, meaning; in order of names."""
    for metric in sorted(metrics, key=lambda each: each.name):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found = {label for sample in metric.samples for label in sample.labels if label != "le"}
        labels = getattr(metric, "_labelnames", None) or sorted(found)
        yield f"`{name}`", metric.type, ", ".join(f"`{label}`" for label in labels), metric.documentation
