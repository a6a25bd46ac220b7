"""The Grafana dashboard as a table of panels. A test scrapes the programs for every metric that is named here."""

from __future__ import annotations

from typing import Any

HALF, THIRD = 12, 8

# (title of the row, (title, width, unit, (query, legend)...)...); RATE is the interval that Grafana takes for a rate
ROWS: tuple[tuple[str, tuple[tuple[str, int, str, tuple[tuple[str, str], ...]], ...]], ...] = (
    ("The cluster", (
        ("Agents by verdict", THIRD, "short", (("sum by (verdict) (nodetap_hub_agents)", "{{verdict}}"),)),
        ("Packets captured", THIRD, "pps", (("sum(rate(nodetap_agent_captured_packets_total[RATE]))", "captured"),)),
        ("Rows stored", THIRD, "ops", (("sum by (kind) (rate(nodetap_hub_rows_stored_total[RATE]))", "{{kind}}"),)),
    )),
    ("What is missing", (
        ("Dropped by the kernel", THIRD, "pps", (
            ("rate(nodetap_agent_kernel_dropped_packets_total[RATE]) > 0", "{{node}} {{instance}}"),
        )),
        ("Lost, by reason", THIRD, "pps", (
            ("sum by (reason) (rate(nodetap_agent_lost_packets_total[RATE]))", "{{reason}}"),
        )),
        ("Books", THIRD, "short", (
            ("nodetap_hub_unbalanced_runs", "out of balance"), ("nodetap_hub_incomplete_runs", "incomplete"),
        )),
        ("Packets in flows only", THIRD, "pps", (
            ("sum(rate(nodetap_agent_flow_only_packets_total[RATE]))", "flow only"),
            ("sum(rate(nodetap_agent_row_packets_total[RATE]))", "row"),
        )),
        ("Agents at level flows", THIRD, "short", (("sum(nodetap_agent_degraded)", "agents"),)),
        ("Batches refused", THIRD, "ops", (
            ("sum by (code) (rate(nodetap_hub_batches_refused_total[RATE])) > 0", "{{code}}"),
        )),
    )),
    ("Agents", (
        ("Packets captured", HALF, "pps", (
            ("topk(10, rate(nodetap_agent_captured_packets_total[RATE]))", "{{node}} {{instance}}"),
        )),
        ("Outbox", HALF, "bytes", (("topk(10, nodetap_agent_buffer_bytes)", "{{node}} {{instance}}"),)),
        ("Not captured, by reason", HALF, "pps", (
            ("sum by (reason) (rate(nodetap_agent_discarded_packets_total[RATE]))", "{{reason}}"),
        )),
        ("Spool", HALF, "bytes", (("topk(10, nodetap_agent_spool_bytes)", "{{node}} {{instance}}"),)),
    )),
    ("Links", (
        ("Stalls found, by detector", THIRD, "short", (
            ("sum by (detector) (increase(nodetap_agent_stalls_total[RATE]))", "{{detector}}"),
        )),
        ("Round trip", THIRD, "s", (("topk(10, nodetap_hub_agent_round_trip_seconds)", "{{agent}}"),)),
        ("Oldest batch without acknowledgement", THIRD, "s", (
            ("topk(10, nodetap_hub_agent_oldest_unacknowledged_seconds)", "{{agent}}"),
        )),
        ("Links ended, by reason", HALF, "short", (
            ("sum by (reason) (increase(nodetap_agent_links_ended_total[RATE]))", "{{reason}}"),
        )),
        ("Clocks", HALF, "s", (("topk(10, abs(nodetap_hub_agent_clock_offset_seconds))", "{{agent}}"),)),
    )),
    ("Hub", (
        ("Commit", THIRD, "s", (
            ("histogram_quantile(0.5, sum by (le) (rate(nodetap_hub_commit_seconds_bucket[RATE])))", "p50"),
            ("histogram_quantile(0.99, sum by (le) (rate(nodetap_hub_commit_seconds_bucket[RATE])))", "p99"),
        )),
        ("Taken in", THIRD, "Bps", (("sum(rate(nodetap_hub_received_bytes_total[RATE]))", "bytes"),)),
        ("Waiting for the writer", THIRD, "short", (
            ("nodetap_hub_queued_works", "works"), ("nodetap_hub_writer_stuck_seconds", "seconds without progress"),
        )),
        ("Disk", THIRD, "percentunit", (
            ("1 - nodetap_hub_disk_free_bytes / nodetap_hub_disk_size_bytes", "used"),
        )),
        ("Loop", THIRD, "s", (
            ("histogram_quantile(0.99, sum by (le) (rate(nodetap_hub_loop_lag_seconds_bucket[RATE])))", "late, p99"),
        )),
        ("Kubernetes' names", THIRD, "s", (("nodetap_hub_names_behind_seconds", "behind"),)),
        ("Certificate ends in", THIRD, "s", (
            ("nodetap_hub_certificate_not_after_timestamp_seconds - time()", "left"),
        )),
    )),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it; the data source is chosen there."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": _place(0, y, 24, 1), "panels": []})
        x, y = 0, y + 1
        for name, width, unit, queries in row:
            if x + width > 24:
                x, y = 0, y + 8
            panels.append(_panel(name, unit, queries, _place(x, y, width, 8)))
            x += width
        y += 8
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "nodetap",
        "title": "nodetap",
        "tags": ["nodetap"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(title: str, unit: str, queries: tuple[tuple[str, str], ...], place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": source,
            "expr": query.replace("[RATE]", "[$__rate_interval]"),
            "legendFormat": legend,
        }
        for number, (query, legend) in enumerate(queries)
    ]
    return {
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }
