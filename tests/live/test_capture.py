"""`nodetap capture` against live agents: frames as tcpdump writes them, whoever freezes, dies or comes back."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.netns import Netns, pair, send_marker, tcpdump
from tests.live.test_live_recorder import frames_of, talk
from tests.live.test_pcap import send, tshark
from tests.live.test_pcap import sink as sink
from tests.procs import Agent, Hub, environment, program, until

pytestmark = pytest.mark.root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path).ready()
    yield made
    made.kill()


def allowing(folder: Path, hub: Hub, name: str, *more: str, interface: str = "lo") -> Agent:
    agent = Agent(
        folder, "run", "--hub", hub.ws, "--interface", interface, "--node", name, "--allow-capture",
        *more, name=name,
    )  # fmt: skip
    until(f"{name} is there", lambda: hub.agents().get(name, {}).get("state") == "streaming")
    return agent


class Capture:
    """`nodetap capture ... -w -` into a file, and what it says."""

    def __init__(self, hub: Hub, path: Path, *words: str, prefix: Sequence[str] = ()) -> None:
        self.path, self.log = path, path.with_suffix(".stderr")
        command = program("hub.cli.main", "--hub-url", hub.api, "capture", *words, "-w", "-")
        with path.open("wb") as out, self.log.open("wb") as err:
            self.popen = subprocess.Popen([*prefix, *command], stdout=out, stderr=err, env=environment())

    def begun(self, agents: int) -> Capture:
        until(f"{agents} agents take part", lambda: f"capturing from {agents} agent" in self.said or self.ended())
        return self

    def ended(self) -> bool:
        assert self.popen.poll() is None, self.said
        return False

    @property
    def said(self) -> str:
        return self.log.read_text()

    def has(self, text: bytes) -> None:
        until(f"{text!r} is captured", lambda: text in self.path.read_bytes() or self.ended())

    def end(self, number: int = signal.SIGINT) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(30)


@pytest.fixture
def captures() -> Iterator[list[Capture]]:
    made: list[Capture] = []
    yield made
    for each in made:
        if each.popen.poll() is None:
            each.popen.kill()
            each.popen.wait(10)


def streaming(hub: Hub, netns: Netns) -> dict[str, str]:
    """State by agent, asked from inside a namespace."""
    asked = netns.run(*program("hub.cli.main", "--hub-url", hub.api, "agents", "-o", "json"))
    return {each["agent"]: each["state"] for each in json.loads(asked)}


def test_three_agents_give_what_tcpdump_writes_and_one_that_freezes_costs_its_own_part(tmp_path: Path) -> None:
    """All agents see the same port. The third is stopped before the second half of the traffic."""
    dump, out, names = tmp_path / "tcpdump.pcap", tmp_path / "out.pcapng", ["n0", "n1", "n2"]
    with pair() as (left, right), ExitStack() as undo:
        hub = Hub(tmp_path, prefix=left.command())
        undo.callback(hub.kill)
        agents = {}
        for name in names:
            agents[name] = Agent(
                tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", name, "--allow-capture",
                name=name, prefix=left.command(),
            )  # fmt: skip
            undo.callback(agents[name].kill)
        for name in names:
            until(f"{name} streams", lambda name=name: '"state": "streaming"' in agents[name].text, 90)
        capture = Capture(hub, out, "--deadline", "1", prefix=left.command())
        undo.callback(capture.popen.kill)
        capture.begun(3)
        with tcpdump(left, left.device, dump):
            talk(left, right)
            send_marker(left, right, right.address)
        until("all three have it", lambda: out.read_bytes().count(b"the last frame of this test") == 3)
        theirs = frames_of([dump], tmp_path)
        assert frames_of([out], tmp_path) == Counter({frame: 3 * count for frame, count in theirs.items()})
        agents["n2"].send(signal.SIGSTOP)
        second = tmp_path / "second.pcap"
        with tcpdump(left, left.device, second):
            talk(left, right)
            send_marker(left, right, right.address)
        until("two have it", lambda: out.read_bytes().count(b"the last frame of this test") == 5)
        until("it is named", lambda: "n2 missing (" in capture.said)
        agents["n2"].send(signal.SIGCONT)
        until("it takes part again", lambda: "n2 takes part" in capture.said)
        assert capture.end() == 0
        assert capture.said.splitlines()[-1].startswith("INCOMPLETE: frames of n2 not here (agent_away) (")
        more = frames_of([second], tmp_path)
        ours = frames_of([out], tmp_path)
        for frame, count in (theirs + more).items():
            assert 3 * theirs[frame] + 2 * more[frame] <= ours[frame] <= 3 * count  # what its ring held may come still
        assert ours.keys() == (theirs + more).keys()


def test_readers_take_it_without_a_word_and_the_log_says_who_asked(
    tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]
) -> None:
    """Two captures at once with filters of their own; one agent records, one allows, one does neither."""
    only = ("--filter", f"udp port {sink}")
    with ExitStack() as undo:
        for name, more in (("a1", ()), ("b2", ("--recorder", str(tmp_path / "frames")))):
            undo.callback(allowing(tmp_path, hub, name, *only, *more).kill)
        plain = Agent(tmp_path, "run", "--hub", hub.ws, "--interface", "lo", *only, "--node", "plain", name="plain")
        undo.callback(plain.kill)
        until("plain streams", lambda: hub.agents().get("plain", {}).get("state") == "streaming")
        captures.append(Capture(hub, tmp_path / "all.pcapng", f"udp.dstport == {sink}", "and", "frame.len", "<", "500"))
        captures.append(Capture(hub, tmp_path / "one.pcapng", "nodetap.agent == b2 and frame.len > 500"))
        both, one = captures
        both.begun(2)
        one.begun(1)
        assert "plain missing (not_allowed: it gives no live frames" in both.said
        assert "plain" not in one.said
        for number in range(4):
            send(sink, 25, 100 if number % 2 else 600)
        send(sink, 1, 160)
        send(sink, 1, 700)
        fields = ["frame.interface_name", "frame.interface_description", "frame.len", "udp.dstport"]
        columns = [word for name in fields for word in ("-e", name)]
        until("the last", lambda: len(tshark(both.path, "-T", "fields", *columns).splitlines()) == 102)
        until("the last", lambda: len(tshark(one.path, "-T", "fields", *columns).splitlines()) == 51)
        assert [both.end(), one.end()] == [0, 0]
        shown = Counter(tshark(both.path, "-T", "fields", *columns).splitlines())
        assert shown == {
            **{f"lo\tlo of {name}\t142\t{sink}": 50 for name in ("a1", "b2")},
            **{f"lo\tlo of {name}\t202\t{sink}": 1 for name in ("a1", "b2")},
        }
        assert set(tshark(one.path, "-T", "fields", *columns).splitlines()) == {
            f"lo\tlo of b2\t642\t{sink}", f"lo\tlo of b2\t742\t{sink}",
        }  # fmt: skip
        about = subprocess.run(["capinfos", both.path], capture_output=True, text=True, check=True)
        assert "Comment = agent a1" in about.stdout
        assert both.said.splitlines()[-1].startswith("INCOMPLETE: plain missing (not_allowed")
        assert one.said.splitlines()[-1] == "complete: 51 frames, 1 agent"
        until("the log has both", lambda: len(logged(hub, "raw frames were captured")) == 2)
        lines = {line["filter"]: line for line in logged(hub, "raw frames were captured")}
        assert [(line["asked_by"], line["outcome"]) for line in lines.values()] == [("127.0.0.1", "aborted")] * 2
        assert sorted((tuple(line["agents"]), line["frames"]) for line in lines.values()) == [
            (("a1", "b2"), 102), (("b2",), 51),
        ]  # fmt: skip


def test_frames_of_agents_that_keep_up_are_in_order_of_time(
    tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]
) -> None:
    """A machine that holds an agent up for longer than frames wait is no machine to see that on: so try again."""
    agents = [allowing(tmp_path, hub, name, "--filter", f"udp port {sink}") for name in ("a1", "b2", "c3")]

    def in_order() -> bool:
        captures.append(Capture(hub, tmp_path / "out.pcapng").begun(3))
        for _ in range(20):
            send(sink, 5)
            time.sleep(0.02)
        until("all is there", lambda: len(tshark(captures[-1].path).splitlines()) == 300)
        assert captures[-1].end() == 0
        about = subprocess.run(["capinfos", captures[-1].path], capture_output=True, text=True, check=True)
        return "Strict time order:   True" in about.stdout

    try:
        until("a capture is in order", in_order, timeout=120)
    finally:
        for agent in agents:
            agent.kill()


def logged(hub: Hub, event: str) -> list[dict[str, Any]]:
    return [each for each in hub.events if each.get("event") == event]


def test_bounds_end_it_and_a_file_is_whole(tmp_path: Path, hub: Hub, sink: int) -> None:
    agent, out = allowing(tmp_path, hub, "a1", "--filter", f"udp port {sink}"), tmp_path / "out.pcapng"

    def ask(*words: str) -> subprocess.Popen[str]:
        command = program("hub.cli.main", "--hub-url", hub.api, "capture", *words, "-w", str(out))
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())

    def sending(*words: str) -> tuple[int, str]:
        asking = ask(*words)
        while asking.poll() is None:
            send(sink, 1)
            time.sleep(0.01)
        assert asking.stderr is not None
        return asking.returncode, asking.stderr.read().splitlines()[-1]

    try:
        assert sending("--limit", "7") == (0, "complete: 7 frames, 1 agent; ended by --limit")
        assert out.stat().st_mode & 0o777 == 0o600
        assert len(tshark(out).splitlines()) == 7
        assert sending("--max-bytes", "1000")[1] == "complete: 5 frames, 1 agent; ended by --max-bytes"
        code, said = sending("--max-seconds", "1")
        assert (code, said.startswith("complete: "), said.endswith("; ended by --max-seconds")) == (0, True, True)
        tshark(out)
        out.unlink()
        for words, code, text in ((["tcp.prt == 1"], 2, "did you mean"), (["frame.number == 1"], 2, "no frame.number")):
            wrong = hub.cli("capture", *words, "-w", str(out), check=False)
            assert (wrong.returncode, text in wrong.stderr) == (code, True), wrong.stderr
        assert not out.exists()
        assert list(tmp_path.glob(".*partial")) == []
    finally:
        agent.kill()


def test_whoever_is_killed_leaves_nothing_running(tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]) -> None:
    agent = allowing(tmp_path, hub, "a1", "--filter", f"udp port {sink}")
    try:
        for number in (signal.SIGKILL, signal.SIGTERM):
            captures.append(Capture(hub, tmp_path / "out.pcapng").begun(1))
            assert agent.metric("nodetap_agent_live_captures") == 1
            captures[-1].end(number)
            until("the agent has stopped", lambda: agent.metric("nodetap_agent_live_captures") == 0, timeout=10)
        captures.append(Capture(hub, tmp_path / "out.pcapng").begun(1))
        hub.send(signal.SIGSTOP)  # a hub that hangs: nobody asks on
        until("the lease is over", lambda: agent.metric("nodetap_agent_live_captures") == 0, timeout=30)
        hub.send(signal.SIGCONT)
    finally:
        agent.kill()


def test_an_agent_that_was_told_to_send_flows_alone_gives_frames_all_the_same(
    tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]
) -> None:
    agent = allowing(tmp_path, hub, "a1", "--filter", f"udp port {sink}")
    try:
        hub.cli("configure", "--agent", "a1", "--detail", "flows")
        until("it does", lambda: hub.agents()["a1"]["level"] == "flows")
        captures.append(Capture(hub, tmp_path / "out.pcapng").begun(1))
        send(sink, 5)
        until("they are there", lambda: len(tshark(captures[0].path).splitlines()) == 5)
        assert captures[0].end() == 0
        assert captures[0].said.splitlines()[-1] == "complete: 5 frames, 1 agent"
    finally:
        agent.kill()


def test_an_agent_that_is_killed_is_named_and_taken_up_when_it_is_back(
    tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]
) -> None:
    only = ("--filter", f"udp port {sink}")
    a, b = allowing(tmp_path, hub, "a1", *only), allowing(tmp_path, hub, "b2", *only)
    try:
        capture = Capture(hub, tmp_path / "out.pcapng").begun(2)
        captures.append(capture)
        send(sink, 10)
        capture.has(b"lo of b2")
        b.kill()
        until("it is named", lambda: "b2 missing (" in capture.said)
        b = allowing(tmp_path, hub, "b2", *only)
        until("it is back", lambda: "b2 takes part" in capture.said)
        new = allowing(tmp_path, hub, "c3", *only)
        until("so is a new one", lambda: "c3 takes part" in capture.said)
        before = capture.path.read_bytes()
        assert b"lo of c3" not in before
        send(sink, 5)
        capture.has(b"lo of c3")
        until("all have come", lambda: len(tshark(capture.path).splitlines()) == 35)
        assert capture.end() == 0
        new.kill()
        comments = tshark(capture.path, "-T", "fields", "-e", "frame.interface_description", "-e", "frame.comment")
        marked = [line for line in comments.splitlines() if line.split("\t")[1]]
        assert len(marked) == 1
        assert marked[0].startswith("lo of b2\tframes of b2 are missing from")
        assert "INCOMPLETE: frames of b2 not here (agent_away) (35 frames, 3 agents)" in capture.said
    finally:
        a.kill()
        b.kill()


def test_a_hub_that_is_told_to_stop_ends_it_with_a_whole_file(
    tmp_path: Path, hub: Hub, sink: int, captures: list[Capture]
) -> None:
    agent, out = allowing(tmp_path, hub, "a1", "--filter", f"udp port {sink}"), tmp_path / "file.pcapng"
    command = program("hub.cli.main", "--hub-url", hub.api, "capture", "-w", str(out))
    to_file = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        capture = Capture(hub, tmp_path / "out.pcapng").begun(1)
        captures.append(capture)
        until("both run", lambda: agent.metric("nodetap_agent_live_captures") == 2)
        send(sink, 10)
        capture.has(b"lo of a1")
        ports = sink.to_bytes(2, "big") + (8 + 100).to_bytes(2, "big")  # of a datagram's header: port and length
        (partial,) = tmp_path.glob(".file.pcapng.*.partial")
        for path in (capture.path, partial):
            until(f"{path.name} has all", lambda path=path: path.read_bytes().count(ports) == 10)
        assert hub.stop() == 0
        assert capture.popen.wait(20) == 3
        assert capture.said.splitlines()[-1] == "INCOMPLETE: the hub was stopped (10 frames, 1 agent)"
        assert len(tshark(capture.path).splitlines()) == 10
        assert to_file.wait(20) == 3
        assert len(tshark(out).splitlines()) == 10
        until("the agent has stopped", lambda: agent.metric("nodetap_agent_live_captures") == 0, timeout=10)
    finally:
        to_file.kill()
        to_file.communicate()
        agent.kill()


def test_tshark_prints_from_the_pipe_while_it_runs(tmp_path: Path, hub: Hub, sink: int) -> None:
    agent, shown = allowing(tmp_path, hub, "a1", "--filter", f"udp port {sink}"), tmp_path / "shown"
    command = program("hub.cli.main", "--hub-url", hub.api, "capture", "-w", "-")
    with ExitStack() as undo:
        undo.callback(agent.kill)
        ours = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
        with shown.open("wb") as out:
            theirs = subprocess.Popen(
                ["tshark", "-l", "-n", "-r", "-"], stdin=ours.stdout, stdout=out, stderr=subprocess.DEVNULL
            )
        for process in (ours, theirs):
            undo.callback(process.wait, 10)
            undo.callback(process.kill)
        assert ours.stdout is not None
        ours.stdout.close()
        until("the agent captures", lambda: agent.metric("nodetap_agent_live_captures") == 1)
        for count in range(1, 6):
            send(sink, 1)
            until("a line", lambda count=count: len(shown.read_text().splitlines()) == count, timeout=20)
        with contextlib.suppress(ProcessLookupError):
            theirs.kill()  # whoever reads has enough
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
            send(sink, 1)
        assert ours.wait(20) == 0
