"""The quality of links as people see it: the agent's metrics, the hub's for each agent, `nodetap agents -o wide`."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from procs import Agent, Hub, ending, free_port, until

pytestmark = pytest.mark.root

MEASURED = (
    "round_trip_seconds", "round_trip_jitter_seconds", "pings_total", "pongs_total", "echoes_total",
    "echo_replies_total",
)  # fmt: skip
AT_REST = ("clock_offset_seconds", "oldest_unacknowledged_seconds", "degraded")
WIDE = (
    "agent", "verdict", "level", "since (UTC)", "rtt", "jitter", "pings", "echoes", "clock", "oldest", "links ended",
    "reconnects", "evidence",
)  # fmt: skip


def text_of(url: str) -> bytes:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return bytes(answer.read())


def test_every_number_is_in_the_metrics_and_in_the_table(tmp_path: Path) -> None:
    hub = Hub(tmp_path).ready()
    names = ["n1", "n2"]
    agents = {
        name: Agent(
            tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {free_port()}", "--node",
            name, "--echo-interval", "0.5", "--stall-timeout", "3", name=name,
        )
        for name in names
    }  # fmt: skip
    with ending(hub, *agents.values()):
        until("both are there", lambda: sorted(hub.agents()) == names)
        for name, agent in agents.items():
            label = f'{{agent="{name}"}}'
            for metric in MEASURED:
                until(metric, lambda a=agent, m=metric: a.metric(f"nodetap_agent_{m}") > 0)
                until(metric, lambda m=metric, x=label: hub.metric(f"nodetap_hub_agent_{m}{x}") > 0)
            for metric in AT_REST:
                assert abs(agent.metric(f"nodetap_agent_{metric}")) < 0.5
                assert abs(hub.metric(f"nodetap_hub_agent_{metric}{label}")) < 0.5
        hub.kill()
        again = hub.again().ready()
        with ending(again):
            for name, agent in agents.items():
                until("streams", lambda a=agent: a.state == "streaming")
                assert agent.metric('nodetap_agent_links_ended_total{reason="lost"}') == 1
                series = f'nodetap_hub_agent_links_ended_total{{agent="{name}",reason="lost"}}'
                until(series, lambda s=series: again.metric(s) == 1)
            found = {agent["agent"]: agent for agent in json.loads(again.cli("agents", "-o", "json").stdout)}
            assert found["n1"]["ended"] == {"lost": 1}
            wide = again.cli("agents", "-o", "wide").stdout.splitlines()
            assert all(header in wide[0] for header in WIDE)
            assert all("lost:1" in line for line in wide[1:])
            check_names(text_of(agents["n1"].url), text_of(again.api))
            agents["n2"].stop()
            until("who left has no series", lambda: again.metric('nodetap_hub_agent_pings_total{agent="n2"}') == -1)


def check_names(*texts: bytes) -> None:
    """Names and help as Prometheus wants them."""
    if promtool := shutil.which("promtool"):
        for text in texts:
            done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr.decode()
