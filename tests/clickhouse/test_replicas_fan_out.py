"""Questions that need agents, asked of one hub, reach the agents of another over the same store."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from procs import Agent, Hub, Process, ending, environment, free_port, program, until
from standin import Server

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROLES = {role: f"{role}-token-{'x' * 24}" for role in ("agent", "read", "capture", "admin")}


class Site:
    """Two hubs over one store, an agent at each that sees and records what is sent to PORT of the loopback."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.port = folder, free_port()
        for role, token in ROLES.items():
            (folder / role).write_text(token)
        (folder / "roles").write_text("".join(f"{role} {token} the-{role}\n" for role, token in ROLES.items()))
        self.hubs = [self._hub(server, name) for name in "ab"]
        self.agents = [self._agent(hub, name) for hub, name in zip(self.hubs, ("one", "two"), strict=True)]

    def _hub(self, server: Server, name: str) -> Hub:
        home = self.folder / name
        home.mkdir()
        return Hub(home, "--store", server.url("fan"), "--token-file", str(self.folder / "roles"))

    def _agent(self, hub: Hub, name: str) -> Agent:
        return Agent(
            self.folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {self.port}",
            "--node", name, "--ring-bytes", str(1 << 20), "--recorder", str(self.folder / f"rec-{name}"),
            "--token-file", str(self.folder / "agent"), name=name,
        )  # fmt: skip

    def send(self, count: int = 1) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for _ in range(count):
                out.sendto(b"hello", ("127.0.0.1", self.port))

    def command(self, hub: Hub, role: str, *words: str) -> list[str]:
        return program("hub.cli.main", "--hub-url", hub.api, "--token-file", str(self.folder / role), *words)

    def ask(self, hub: Hub, role: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(hub, role, *words), capture_output=True, text=True, timeout=120, env=environment(), check=False
        )

    def doctor(self, hub: Hub, deadline: float = 10.0) -> dict[str, Any]:
        done = self.ask(hub, "read", "doctor", "--deadline", f"{deadline:g}", "-o", "json")
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def agents_of(self, hub: Hub) -> dict[str, dict[str, Any]]:
        done = self.ask(hub, "read", "agents", "-o", "json")
        return {agent["agent"]: agent for agent in json.loads(done.stdout or "[]")}


def frames(folder: Path, text: str) -> tuple[int, int]:
    """Frames and agents of `complete: 12 frames, 2 agents`."""
    words = text.splitlines()[-1].replace("complete:", "").replace(",", "").split()
    return int(words[0]), int(words[2])


def test_questions_reach_agents_of_another_hub(tmp_path: Path, server: Server) -> None:
    site = Site(tmp_path, server)
    a, b = site.hubs
    with ending(a, b, *site.agents):
        for hub in site.hubs:
            hub.ready()
        for hub in site.hubs:
            until("both are known", lambda hub=hub: set(site.agents_of(hub)) == {"one", "two"}, 90, 1.0)
        assert site.agents_of(a)["two"]["hub"] == b.api

        until("all answer", lambda: set(site.doctor(a).get("agents", ())) == {"one", "two"}, 90)
        told = site.doctor(a)
        assert told["missing"] == []
        assert f"the hub at {b.api}" in {finding["where"] for finding in told["findings"]}

        site.send(20)
        path = tmp_path / "found.pcapng"

        def found() -> bool:
            done = site.ask(a, "capture", "pcap", "--since", "all", "--deadline", "20", "-w", str(path))
            return done.stderr.startswith("complete") and frames(tmp_path, done.stderr) == (40, 2)

        until("the recorders have it all", found, 90, 1.0)
        relayed = [event for event in b.events if event["event"] == "raw frames are relayed"]
        assert {(event["agent"], event["role"], event["token"], event["asked_for"]) for event in relayed} == {
            ("two", "capture", "the-capture", "127.0.0.1")
        }
        assert site.ask(a, "read", "pcap", "--since", "all", "-w", str(path)).returncode == 3

        live = Process(
            site.command(a, "capture", "capture", "--limit", "6", "-w", str(tmp_path / "live")), tmp_path / "l"
        )
        with ending(live):
            until("it captures", lambda: "capturing from 2 agents" in live.text, 60)
            until("it has what it wants", lambda: site.send() or live.popen.poll() is not None, 60, 0.2)
            assert live.popen.returncode == 0, live.text
            assert "2 agents" in live.text.splitlines()[-1]

        done = site.ask(a, "admin", "configure", "--agent", "two", "--detail", "flows")
        assert done.returncode == 0, done.stderr

        def applied() -> bool:
            shown = json.loads(site.ask(a, "read", "configure", "-o", "json").stdout)
            return any(each["agent"] == "two" and each["settings"].get("detail") == "flows" for each in shown["agents"])

        until("the other hub told its agent", applied, 60, 1.0)
        a.stop()
        a = a.again().ready()
        with ending(a):
            shown = json.loads(site.ask(a, "read", "configure", "-o", "json").stdout)
            assert shown["wishes"] == {"two": {"detail": "flows"}}
            until("both are known", lambda: set(site.agents_of(a)) == {"one", "two"}, 90, 1.0)
            until("all answer", lambda: set(site.doctor(a).get("agents", ())) == {"one", "two"}, 90)

            b.send(signal.SIGSTOP)
            begun = time.monotonic()
            told = site.doctor(a, 2.0)
            assert time.monotonic() - begun < 60
            assert list(told["agents"]) == ["one"]
            (missing,) = told["missing"]
            assert (missing["agent"], missing["reason"] in ("hub_silent", "not_connected")) == ("two", True)
            done = site.ask(a, "capture", "pcap", "--since", "all", "--deadline", "2", "--strict", "-w", str(path))
            assert done.returncode == 4
            assert "two missing" in done.stderr
