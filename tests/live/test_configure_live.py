"""Settings of a running agent: changed, refused, kept across restarts of both sides, taken back; no packet lost."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from netns import Netns, pair
from procs import Agent, Hub, ending, until

pytestmark = pytest.mark.root

QUESTION = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04host\x07example\x00\x00\x01\x00\x01"


def send(left: Netns, right: Netns, port: int, count: int = 5) -> None:
    """DNS questions to a port where nobody answers."""
    with right.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left.entered():
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, source:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sink.bind((right.address, port))
        for _ in range(count):
            source.sendto(QUESTION, (right.address, port))


def found(hub: Hub, port: int) -> list[dict[str, Any]]:
    return hub.rows(f"udp.dstport == {port}")


def settings(hub: Hub) -> dict[str, str]:
    [agent] = json.loads(hub.cli("configure", "-o", "json").stdout)["agents"]
    return dict(agent["settings"])


def agent_of(folder: Path, hub: Hub, left: Netns, name: str) -> Agent:
    options = ("--interface", left.device, "--node", "live", "--filter", "udp")
    return Agent(folder, "run", "--hub", hub.ws, *options, name=name)


def test_an_agent_is_configured_while_it_captures(tmp_path: Path) -> None:
    with pair() as (left, right), left.entered():
        hub = Hub(tmp_path).ready()
        agent = agent_of(tmp_path, hub, left, "first")
        with ending(hub, agent):
            until("streaming", lambda: agent.state == "streaming")
            send(left, right, 1001)
            until("rows", lambda: len(found(hub, 1001)) == 5)
            assert "dns.qry.name" not in found(hub, 1001)[0]

            hub.cli("configure", "--bpf", "udp port 1002", "--l7-mode", "fast")
            assert settings(hub) == {"filter": "udp port 1002", "detail": "packets", "l7": "fast"}
            send(left, right, 1001)
            send(left, right, 1002)
            until("rows of the new filter", lambda: len(found(hub, 1002)) == 5)
            assert all(row["dns.qry.name"] == ["host.example"] for row in found(hub, 1002))
            assert len(found(hub, 1001)) == 5

            wrong = hub.cli("configure", "--bpf", "no such word", check=False)
            assert (wrong.returncode, "live: bad filter 'no such word'" in wrong.stderr) == (2, True), wrong.stderr
            assert settings(hub)["filter"] == "udp port 1002"
            assert "filter='udp port 1002'" in hub.cli("agents", "-o", "wide").stdout

            hub.cli("configure", "--agent", "live", "--detail", "flows")
            until("flows alone", lambda: hub.agents()["live"]["level"] == "flows")
            assert hub.agents()["live"]["verdict"] in ("healthy", "quiet")
            send(left, right, 1002)
            assert agent.stop() == 0
            assert len(found(hub, 1002)) == 5
            assert hub.stop() == 0

        hub = hub.again().ready()
        agent = agent_of(tmp_path, hub, left, "second")
        with ending(hub, agent):
            until("configured", lambda: agent.state == "streaming" and settings(hub)["detail"] == "flows")
            assert settings(hub) == {"filter": "udp port 1002", "detail": "flows", "l7": "fast"}
            hub.cli("configure", "--agent", "live", "--reset")
            hub.cli("configure", "--reset")
            assert settings(hub) == {"filter": "udp", "detail": "packets", "l7": "off"}
            until("packets again", lambda: agent.metric("nodetap_agent_degraded") == 0.0)
            send(left, right, 1003)
            until("rows of the old filter", lambda: len(found(hub, 1003)) == 5)
            assert agent.stop() == 0
            books = hub.ledger()
            assert (books["balanced"], books["complete"]) == (True, True)
            assert [line["captured"] for line in books["agents"]] == [15, 5]
        said = [event for event in hub.events if event["event"].startswith("settings were")]
        assert [event["agent"] for event in said] == ["*", "*", "live", "live", "*"]
