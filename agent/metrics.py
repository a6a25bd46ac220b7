"""The agent's metrics, declared in one place, and the small HTTP server that shows them.

The server has a thread of its own: it answers while the event loop hangs, which is when somebody looks.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import cert_time_to_seconds

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.recorder.recorder import RecorderView
from agent.spool.spooler import SpoolView
from agent.uplink.machine import TABLE, Event, State
from agent.uplink.quality import Quality
from protocol.ledger import DISCARDED, LOST, Report

DETECTORS = ("progress", "echo", "ping", "loop", "capture")


@dataclass(frozen=True, slots=True)
class Now:
    """The agent at one moment, as its metrics show it. Sizes in bytes, times in seconds."""

    state: State
    report: Report
    buffer_bytes: int
    buffer_batches: int
    capture_buffer_bytes: int
    quality: Quality
    oldest_age: float
    degraded: bool
    capture_restarts: int
    lost: dict[str, int]  # packets, by reason
    certificate_ends: str = ""  # the hub's, as the handshake told (GMT)


class _Live(Collector):
    def __init__(self, look: Callable[[], Now]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Everything that is read when somebody looks."""
        now = self._look()
        state = GaugeMetricFamily("nodetap_agent_state", "1 for the present state of the link", labels=["state"])
        for each in State:
            state.add_metric([str(each)], float(each is now.state))
        yield state
        for name, doc, value in _gauges(now):
            yield GaugeMetricFamily(f"nodetap_agent_{name}", doc, value=value)
        if now.certificate_ends:
            yield GaugeMetricFamily(
                "nodetap_agent_hub_certificate_not_after_timestamp_seconds",
                "When the certificate of the hub that we are connected to ends",
                value=cert_time_to_seconds(now.certificate_ends),
            )
        for name, doc, value in _counts(now):
            yield CounterMetricFamily(f"nodetap_agent_{name}", doc, value=value)
        ended = CounterMetricFamily("nodetap_agent_links_ended", "Links that ended, by reason", labels=["reason"])
        for reason, count in dict(now.quality.ended).items():
            ended.add_metric([reason], count)
        yield ended
        yield _by_reason("lost_packets", "Captured packets lost", LOST, now.lost)
        yield _by_reason("discarded_packets", "Frames seen and not captured", DISCARDED, now.report.discarded)


def _gauges(now: Now) -> list[tuple[str, str, float]]:
    return [
        ("buffer_bytes", "Bytes in the outbox", now.buffer_bytes),
        ("buffer_batches", "Batches in the outbox", now.buffer_batches),
        ("capture_buffer_bytes", "Bytes of packet data held outside the outbox", now.capture_buffer_bytes),
        ("round_trip_seconds", "Round trip of pings, smoothed", now.quality.ping.usual),
        ("round_trip_jitter_seconds", "Mean deviation of the round trip of pings", now.quality.ping.jitter),
        ("clock_offset_seconds", "The hub's clock minus ours", now.quality.clock_offset),
        ("oldest_unacknowledged_seconds", "Age of the oldest batch owed to the hub", now.oldest_age),
        ("degraded", "1 while only flows are sent", float(now.degraded)),
    ]


def _counts(now: Now) -> list[tuple[str, str, int]]:
    report, quality = now.report, now.quality
    return [
        ("capture_restarts", "Times that a capture which hung was given a new thread", now.capture_restarts),
        ("pings", "Pings sent", quality.ping.asked),
        ("pongs", "Pings answered", quality.ping.answered),
        ("echoes", "Echoes sent through the hub's queue", quality.echo.asked),
        ("echo_replies", "Echoes answered", quality.echo.answered),
        ("captured_packets", "Packets captured", report.captured),
        ("row_packets", "Packets put into packet rows", report.rows),
        ("flow_only_packets", "Packets put into flow records only", report.flow_only),
        ("kernel_packets", "Packets that passed the kernel's filter, drops included", report.kernel_packets),
        ("kernel_dropped_packets", "Packets for which the kernel found no room", report.kernel_dropped),
    ]


def _by_reason(name: str, doc: str, reasons: Iterable[str], counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"nodetap_agent_{name}", f"{doc}, by reason", labels=["reason"])
    for reason in reasons:
        family.add_metric([reason], counts.get(reason, 0))
    return family


class SpoolMetrics(Collector):
    """The spool's metrics; there are none where there is no spool."""

    def __init__(self, look: Callable[[], SpoolView]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Everything that is read when somebody looks."""
        now = self._look()
        for name, doc, value in (
            ("bytes", "Bytes of the spool on disk", now.bytes),
            ("segments", "Files of the spool", now.segments),
            ("parked_batches", "Batches owed that are on disk and not in memory", now.parked_batches),
            ("failing", "1 while the disk takes nothing", float(bool(now.failing))),
        ):
            yield GaugeMetricFamily(f"nodetap_agent_spool_{name}", doc, value=value)
        for name, doc, value in (
            ("written_bytes", "Bytes written to the spool", now.written_bytes),
            ("recovered_batches", "Batches of earlier runs found at the start", now.recovered_batches),
        ):
            yield CounterMetricFamily(f"nodetap_agent_spool_{name}", doc, value=value)
        yield _by_reason("spool_lost_batches", "Batches in the spool that could not be read", now.lost, now.lost)
        yield _by_reason("spool_errors", "Times that the disk failed", now.errors, now.errors)


class RecorderMetrics(Collector):
    """The recorder's metrics; there are none where frames are not recorded."""

    def __init__(self, look: Callable[[], RecorderView]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Everything that is read when somebody looks."""
        now = self._look()
        for name, doc, value in (
            ("bytes", "Bytes of recorded frames on disk", now.bytes),
            ("segments", "Files of recorded frames", now.segments),
            ("waiting_bytes", "Bytes of frames that wait for the disk", now.waiting_bytes),
            ("oldest_timestamp_seconds", "Time of the oldest frame that is kept", now.oldest / 1e9),
            ("failing", "1 while the disk takes nothing", float(bool(now.failing))),
        ):
            yield GaugeMetricFamily(f"nodetap_agent_recorder_{name}", doc, value=value)
        for name, doc, value in (
            ("recorded_packets", "Captured packets whose frames were recorded", now.recorded),
            ("recorder_written_bytes", "Bytes of frames written", now.written_bytes),
            ("recorder_removed_segments", "Files removed to make room", now.removed),
        ):
            yield CounterMetricFamily(f"nodetap_agent_{name}", doc, value=value)
        yield _by_reason("recorder_lost_packets", "Captured packets that were not recorded", now.lost, now.lost)
        yield _by_reason("recorder_errors", "Times that the disk failed", now.errors, now.errors)


class Metrics:
    """Everything the agent counts that is not a report."""

    def __init__(self, look: Callable[[], Now]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Live(look))
        self.stalls = Counter("nodetap_agent_stalls", "Stalls found", ["detector"], registry=self.registry)
        self.transitions = Counter(
            "nodetap_agent_transitions", "Changes of state", ["state", "reason"], registry=self.registry
        )
        self.reconnect_seconds = Histogram(
            "nodetap_agent_reconnect_seconds",
            "Time from losing the link to streaming again",
            buckets=(0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
            registry=self.registry,
        )
        for detector in DETECTORS:
            self.stalls.labels(detector)
        for (old, event), (new, _) in TABLE.items():
            if new is not old:
                self.transitions.labels(str(new), str(event))

    def transition(self, old: State, event: Event, new: State) -> None:
        """The link changed its state."""
        self.transitions.labels(str(new), str(event)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus text format."""
        return generate_latest(self.registry)


def serve(
    address: tuple[str, int], text: Callable[[], bytes], health: Callable[[], str], ready: Callable[[], str]
) -> ThreadingHTTPServer:
    """Answer /metrics, /healthz and /readyz on `address` from a thread; `health` and `ready` give "" or what is wrong.

    Raises OSError where the address cannot be had. `shutdown()` of the returned server ends it.
    """
    routes: dict[str, Callable[[], tuple[int, str, bytes]]] = {
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, text()),
        "/healthz": lambda: _verdict(health()),
        "/readyz": lambda: _verdict(ready()),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for which a client may say nothing

        def do_GET(self) -> None:
            """Answer by the table of routes."""
            route = routes.get(self.path.split("?")[0])
            status, kind, body = route() if route else (404, "text/plain", b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

        def shutdown(self) -> None:
            """End at once: who waits for connections would else look for that twice a second only."""
            self.socket.shutdown(socket.SHUT_RDWR)
            super().shutdown()

    server = Server(address, Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _verdict(wrong: str) -> tuple[int, str, bytes]:
    return (503, "text/plain", f"{wrong}\n".encode()) if wrong else (200, "text/plain", b"ok\n")
