"""The metrics of live captures; there are none where none may be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.tap.tap import TapView


class TapMetrics(Collector):
    """What a tap counts."""

    def __init__(self, look: Callable[[], TapView]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Everything that is read when somebody looks."""
        now = self._look()
        yield GaugeMetricFamily("nodetap_agent_live_captures", "Live captures that run", value=now.captures)
        yield GaugeMetricFamily("nodetap_agent_live_bytes", "Bytes of frames they hold", value=now.waiting_bytes)
        yield CounterMetricFamily("nodetap_agent_live_packets", "Frames they found", value=now.caught)
        lost = CounterMetricFamily("nodetap_agent_live_lost_packets", "Frames they missed", labels=["reason"])
        for reason, count in now.lost.items():
            lost.add_metric([reason], count)
        yield lost
