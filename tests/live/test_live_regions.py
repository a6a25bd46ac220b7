"""Raw frames of two regions, each with its hub and agent: one file, whatever becomes of one of the hubs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live.test_pcap import have_recorded, send, sink, tshark
from tests.procs import Agent, Hub, Process, ending, environment, program, until

__all__ = ["sink"]
pytestmark = pytest.mark.root
SIZES = b"\x8e\0\0\0" * 2
"""The lengths of a frame of `send`, as its block has them."""


class Region(NamedTuple):
    """One hub with one agent."""

    hub: Hub
    agent: Agent


@pytest.fixture
def regions(tmp_path: Path, sink: int) -> Iterator[list[Region]]:
    """Two, whose agents see the same frames; the second hub wants a token."""
    token = tmp_path / "token"
    token.write_text("b" * 32)
    found = []
    for name, options in (("eu", ()), ("us", ("--token-file", str(token)))):
        folder = tmp_path / name
        folder.mkdir()
        hub = Hub(folder, *options).ready()
        more = ("--filter", f"udp port {sink}", "--allow-capture", *options)
        found.append(Region(hub, _recording(folder, hub, name, *more)))
    with ending(*(process for region in found for process in region)):
        yield found


def _recording(folder: Path, hub: Hub, name: str, *more: str) -> Agent:
    agent = Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--node", name, "--recorder", str(folder / "frames"),
        "--recorder-bytes", str(8 << 20), "--ring-bytes", str(4 << 20), *more, name=name,
    )  # fmt: skip
    until(f"{name} streams", lambda: agent.state == "streaming")
    return agent


def command(regions: list[Region], *words: str, token: str = "token") -> list[str]:
    urls = [word for region in regions for word in ("--hub-url", region.hub.api)]
    file = regions[0].hub.folder.parent / token
    return program("hub.cli.main", *urls, "--token-file", str(file), "--hub-deadline", "6", *words)


def nodetap(regions: list[Region], *words: str, token: str = "token") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(regions, *words, token=token),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )


def frames(path: Path) -> list[tuple[str, str]]:
    """Time and interface of each."""
    lines = tshark(path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.interface_description").splitlines()
    return [(time, interface) for time, _, interface in (line.partition("\t") for line in lines)]


def test_recorded_frames_of_two_regions(tmp_path: Path, regions: list[Region], sink: int) -> None:
    out, one = tmp_path / "out.pcapng", tmp_path / "one.pcapng"
    send(sink, 300)
    have_recorded(300, *(region.agent for region in regions))
    done = nodetap(regions, "pcap", "--since", "all", "-w", str(out), "--strict")
    assert (done.returncode, done.stderr) == (0, "complete: 600 frames, 2 agents of 2 hubs\n")
    both = []
    for region in regions:
        assert nodetap([region], "pcap", "--since", "all", "-w", str(one), "--strict").returncode == 0
        both += frames(one)
    assert sorted(frames(out), key=lambda frame: frame[0]) == frames(out)
    assert sorted(frames(out)) == sorted(both)

    eu, us = regions
    (tmp_path / "wrong").write_text("c" * 32)
    done = nodetap(regions, "pcap", "--since", "all", "-w", str(out), "--strict", token="wrong")
    assert (done.returncode, len(frames(out))) == (4, 300)
    assert f"hub {us.hub.api} missing (the hub wants a token: give it with --token-file" in done.stderr
    eu.hub.send(signal.SIGSTOP)
    done = nodetap(regions, "pcap", "--since", "all", "-w", str(out))
    assert (done.returncode, {interface for _, interface in frames(out)}) == (0, {"lo of us"})
    assert f"hub {eu.hub.api} missing (hub unresponsive: " in done.stderr
    assert done.stderr.endswith("(300 frames, 1 agent of 1 hub)\n")


def test_live_frames_of_two_regions_whose_hubs_go_and_come_back(
    tmp_path: Path, regions: list[Region], sink: int
) -> None:
    """One is killed and started again, then the other stands still for a time; until Ctrl-C."""
    eu, us = regions
    out, log = tmp_path / "out.pcapng", tmp_path / "log"
    with log.open("w") as errors, out.open("wb") as file:
        words = command(regions, "capture", "-w", "-", "--strict")
        capture = subprocess.Popen(words, stdout=file, stderr=errors, env=environment())

    def send_to(agents: int) -> None:
        """Frames that as many agents see."""
        count = out.read_bytes().count(SIZES)
        send(sink, 50)
        until("its frames are there", lambda: out.read_bytes().count(SIZES) == count + agents * 50)

    def told(line: str, times: int = 1) -> None:
        until(line, lambda: log.read_text().count(line) >= times)

    try:
        until("both take part", lambda: "capturing from 2 agents" in log.read_text())
        send_to(2)
        us.hub.kill()
        told(f"hub {us.hub.api} missing (")
        send_to(1)
        with ending(us.hub.again()):
            told(f"hub {us.hub.api} is back")
            told("us takes part")
            send_to(2)
            eu.hub.send(signal.SIGSTOP)
            told(f"hub {eu.hub.api} missing (hub unresponsive: ")
            send_to(1)
            eu.hub.send(signal.SIGCONT)
            told(f"hub {eu.hub.api} is back")
            told("eu takes part")
            send_to(2)
            capture.send_signal(signal.SIGINT)
            assert capture.wait(20) == 4
    finally:
        capture.kill()
        capture.wait(10)
    found = frames(out)
    assert found == sorted(found, key=lambda frame: frame[0])
    assert Counter(interface for _, interface in found) == {"lo of us": 200, "lo of eu": 200}
    last = log.read_text().splitlines()[-1]
    assert all(f"hub {region.hub.api} was away for " in last for region in regions)
    assert last.endswith(" (400 frames, 2 agents of 2 hubs)")
    assert all(f"frames of {region.hub.api} are missing from ".encode() in out.read_bytes() for region in regions)


def test_wireshark_sees_the_agents_of_two_regions(tmp_path: Path, regions: list[Region], sink: int) -> None:
    """The one hub wants a token, the other none; one goes and is back while a capture of all runs."""
    eu, us = regions
    env = environment({"NODETAP_HUB_URL": f"{eu.hub.api},{us.hub.api}", "NODETAP_TOKEN_FILE": str(tmp_path / "token")})

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = program("hub.extcap.main", *words)
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=True)

    def listed() -> list[str]:
        lines = ask("--extcap-interfaces").stdout.splitlines()
        return [line.partition("{value=")[2].partition("}")[0] for line in lines if line.startswith("interface")]

    assert listed() == ["nodetap", "nodetap-eu", "nodetap-us"]
    assert "tcp.prt" in ask("--extcap-interface", "nodetap", "--extcap-capture-filter", "tcp.prt == 1").stdout
    out, log, fifo = tmp_path / "out.pcapng", tmp_path / "extcap.log", tmp_path / "pipe"
    os.mkfifo(fifo)
    words = program("hub.extcap.main", "--capture", "--extcap-interface", "nodetap", "--fifo", str(fifo))
    capture, reader = Process(words, log, env), Process(["cat", str(fifo)], out)
    with ending(capture, reader):
        until("both take part", lambda: "capturing from 2 agents" in capture.text)
        us.hub.kill()
        until("it is named", lambda: f"hub {us.hub.api} missing (" in capture.text)
        shown = ask("--extcap-interfaces")
        assert "nodetap-eu" in shown.stdout
        assert shown.stderr.startswith(f"nodetap-extcap: hub {us.hub.api} missing (cannot reach the hub: ")
        with ending(us.hub.again()):
            until("it is back", lambda: "nodetap-extcap: us takes part" in capture.text)
            send(sink, 50)
            until("its frames are there", lambda: out.read_bytes().count(SIZES) == 100)
            capture.send(signal.SIGTERM)
            assert (capture.wait(20), reader.wait(20)) == (0, 0)
    assert Counter(interface for _, interface in frames(out)) == {"lo of us": 50, "lo of eu": 50}
