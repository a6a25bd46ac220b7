"""The agents as interfaces of tshark: by the launcher in its folder, and by speaking the protocol by hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_capture import allowing
from tests.live.test_pcap import send, tshark
from tests.live.test_pcap import sink as sink
from tests.procs import Agent, Hub, Process, environment, program, until

pytestmark = pytest.mark.root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path).ready()
    yield made
    made.kill()


@pytest.fixture
def agents(tmp_path: Path, hub: Hub, sink: int) -> Iterator[list[Agent]]:
    made = [allowing(tmp_path, hub, name, "--filter", f"udp port {sink}") for name in ("a1", "b2")]
    yield made
    for agent in made:
        agent.kill()


def live(agents: list[Agent]) -> list[float]:
    return [agent.metric("nodetap_agent_live_captures") for agent in agents]


def test_the_protocol_by_hand(tmp_path: Path, hub: Hub, sink: int, agents: list[Agent]) -> None:
    env, fifo, out = environment({"NODETAP_HUB_URL": hub.api}), tmp_path / "pipe", tmp_path / "out.pcapng"

    def ask(*words: str) -> str:
        return subprocess.run(
            program("hub.extcap.main", *words), capture_output=True, text=True, check=True, env=env
        ).stdout

    listed = re.findall(r"^interface \{value=(\S+?)\}", ask("--extcap-interfaces"), re.MULTILINE)
    assert listed == ["nodetap", "nodetap-a1", "nodetap-b2"]
    check = ("--extcap-interface", "nodetap", "--extcap-capture-filter")
    assert ask(*check, "udp.port == 1") == ""
    assert "tcp.prt" in ask(*check, "tcp.prt == 1")
    os.mkfifo(fifo)
    capturing = Process(
        program("hub.extcap.main", "--capture", "--extcap-interface", "nodetap-b2", "--fifo", str(fifo),
                "--extcap-capture-filter", f"udp.dstport == {sink}", "--filter", "frame.len > 100", "--token-file", ""),
        tmp_path / "extcap.log", {"NODETAP_HUB_URL": hub.api},
    )  # fmt: skip
    try:
        with fifo.open("rb") as pipe:
            until("it captures", lambda: live(agents) == [0, 1] or capturing.popen.poll())
            assert capturing.popen.poll() is None, capturing.text
            send(sink, 10, 50)
            send(sink, 10, 200)
            data = b""
            while data.count(b"\xf2\x00\x00\x00\xf2\x00\x00\x00") < 10:  # lengths of 242 bytes
                data += pipe.read1(1 << 16)
        assert capturing.wait(20) == 0  # nobody reads any more, and nothing comes that could be written
        until("the agent has stopped", lambda: live(agents) == [0, 0])
    finally:
        capturing.kill()
    out.write_bytes(data)
    lines = tshark(out, "-T", "fields", "-e", "frame.interface_description", "-e", "frame.len").splitlines()
    assert lines == ["lo of b2\t242"] * 10


@pytest.mark.parametrize("interface", ["nodetap", "nodetap-a1"])
def test_tshark_captures_from_the_cluster(
    tmp_path: Path, hub: Hub, sink: int, agents: list[Agent], interface: str
) -> None:
    home, out = tmp_path / "home", tmp_path / "out.pcapng"
    home.mkdir()
    env = environment({"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")})
    install = program("hub.cli.main", "--hub-url", hub.api, "extcap", "install")
    subprocess.run(install, env=env, check=True, capture_output=True, timeout=60)
    listed = subprocess.run(["tshark", "-D"], capture_output=True, text=True, env=env, timeout=60).stdout
    assert "nodetap-b2 (nodetap: b2)" in listed
    words = ["tshark", "-n", "-i", interface, "-f", f"udp.dstport == {sink}", "-w", str(out)]
    capturing = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    wanted = [1, 1] if interface == "nodetap" else [1, 0]
    try:
        until("it captures", lambda: live(agents) == wanted)
        send(sink, 20, 77)
        count = 20 * sum(wanted)
        until(
            "all is there",
            lambda: out.exists() and out.read_bytes().count(b"\x77\x00\x00\x00\x77\x00\x00\x00") == count,
        )
        capturing.send_signal(signal.SIGINT)
        capturing.wait(20)
        until("the agents have stopped", lambda: live(agents) == [0, 0])
    finally:
        capturing.kill()
        capturing.wait(10)
    shown = tshark(out, "-T", "fields", "-e", "frame.interface_description").splitlines()
    assert set(shown) == ({"lo of a1", "lo of b2"} if interface == "nodetap" else {"lo of a1"})
