"""`nodetap pcap` against live agents: frames as tcpdump writes them, agents that do not answer, readers of captures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.netns import pair, send_marker, tcpdump
from tests.live.test_live_recorder import frames_of, talk
from tests.procs import Agent, Hub, environment, program, until

pytestmark = pytest.mark.root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path).ready()
    yield made
    made.kill()


def recording(folder: Path, hub: Hub, name: str, interface: str, *more: str, prefix: tuple[str, ...] = ()) -> Agent:
    agent = Agent(
        folder, "run", "--hub", hub.ws, "--interface", interface, "--node", name, "--recorder", str(folder / "frames"),
        "--recorder-bytes", str(8 << 20), "--ring-bytes", str(4 << 20), *more, name=name, prefix=prefix,
    )  # fmt: skip
    until(f"{name} is there", lambda: hub.agents().get(name, {}).get("state") == "streaming")
    return agent


def tshark(path: Path, *words: str) -> str:
    """What tshark says of a capture, without a word on stderr."""
    done = subprocess.run(["tshark", "-n", "-r", str(path), *words], capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if line.strip() and "Running as user" not in line] == []
    return done.stdout


def send(port: int, count: int, size: int = 100) -> None:
    """Datagrams to a port of this machine, numbered in their first bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        for number in range(count):
            source.sendto(number.to_bytes(4, "big") + bytes(size - 4), ("127.0.0.1", port))


@pytest.fixture
def sink() -> Iterator[int]:
    """A port where nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def have_recorded(count: int, *agents: Agent) -> None:
    """Each of them has recorded so many frames."""
    until(
        f"{count} frames are recorded",
        lambda: all(agent.metric("nodetap_agent_recorded_packets_total") == count for agent in agents),
    )


def test_five_agents_one_frozen_frames_as_tcpdump_wrote_them(tmp_path: Path) -> None:
    """Every agent sees the same port: four of them give every frame once, the fifth is named within the deadline."""
    capture, out, deadline = tmp_path / "tcpdump.pcap", tmp_path / "out.pcapng", 2.0
    names = [f"n{number}" for number in range(5)]
    with pair() as (left, right), ExitStack() as undo:
        hub = Hub(tmp_path, prefix=left.command(), env=None)
        undo.callback(hub.kill)

        def ask(*words: str) -> subprocess.CompletedProcess[str]:
            command = program("hub.cli.main", "--hub-url", hub.api, "pcap", *words)
            return subprocess.run(left.command(*command), capture_output=True, text=True, env=environment(), timeout=60)

        with tcpdump(left, left.device, capture):
            agents = {}
            for name in names:
                agents[name] = Agent(
                    tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", name,
                    "--recorder", str(tmp_path / "frames"), "--ring-bytes", str(4 << 20), name=name,
                    prefix=left.command(),
                )  # fmt: skip
                undo.callback(agents[name].kill)
            for name in names:
                until(
                    f"{name} streams", lambda name=name: "link" in agents[name].text or "streaming" in agents[name].text
                )
            talk(left, right)
            send_marker(left, right, right.address)
        for name in names:
            files = tmp_path / "frames" / f"{name}.recorder"
            until(
                "recorded", lambda files=files: any(b"the last frame" in p.read_bytes() for p in files.glob("*.pcapng"))
            )
        whole = ask("--since", "all", "-w", str(out), "--strict")
        assert whole.returncode == 0, whole.stderr
        theirs = frames_of([capture], tmp_path)
        assert frames_of([out], tmp_path) == Counter({frame: 5 * count for frame, count in theirs.items()})
        assert whole.stderr == f"complete: {5 * sum(theirs.values()):,} frames, 5 agents\n"
        times = tshark(out, "-T", "fields", "-e", "frame.time_epoch").split()
        assert times == sorted(times, key=float)
        agents["n3"].send(signal.SIGSTOP)
        begun = time.monotonic()
        frozen = ask("--since", "all", "-w", str(out), "--strict", "--deadline", str(deadline))
        took = time.monotonic() - begun
        assert frozen.returncode == 4
        assert frozen.stderr.startswith("INCOMPLETE: n3 missing (")
        assert took < deadline + 10  # starting the command included
        assert frames_of([out], tmp_path) == Counter({frame: 4 * count for frame, count in theirs.items()})
        assert (
            "agent n3 is missing: no answer within 2 s"
            in subprocess.run(["capinfos", out], capture_output=True, text=True, check=True).stdout
        )


def test_readers_of_captures_take_it_without_a_word(tmp_path: Path, hub: Hub, sink: int) -> None:
    agents = [recording(tmp_path, hub, name, "lo", "--filter", f"udp port {sink}") for name in ("a1", "b2")]
    try:
        send(sink, 50)
        have_recorded(50, *agents)
        out = tmp_path / "out.pcapng"
        done = hub.cli("pcap", f"udp.dstport == {sink}", "--since", "all", "-w", str(out))
        assert done.stderr == "complete: 100 frames, 2 agents\n"
        assert out.stat().st_mode & 0o777 == 0o600
        assert [p.name for p in tmp_path.glob("*partial*")] == []
        fields = ["frame.interface_name", "frame.interface_description", "frame.len", "udp.dstport"]
        shown = tshark(out, "-T", "fields", *(word for name in fields for word in ("-e", name)))
        assert Counter(shown.splitlines()) == {f"lo\tlo of {name}\t142\t{sink}": 50 for name in ("a1", "b2")}
        about = subprocess.run(["capinfos", out], capture_output=True, text=True, check=True)
        assert about.stderr.count("\n") <= 1
        assert "Strict time order:   True" in about.stdout
        assert "Comment = agent a1" in about.stdout
        command = program("hub.cli.main", "--hub-url", hub.api, "pcap", "nodetap.agent", "==", "b2", "--since", "all")
        raw = subprocess.run([*command, "-w", "-"], capture_output=True, check=True, env=environment(), timeout=60)
        assert raw.stderr == b"complete: 50 frames, 1 agent\n"
        out.write_bytes(raw.stdout)
        assert len(tshark(out).splitlines()) == 50
        lines = [event for event in hub.events if event["event"] == "raw frames were fetched"]
        assert [(line["filter"], line["agents"], line["frames"]) for line in lines] == [
            (f"udp.dstport == {sink}", ["a1", "b2"], 100), ("nodetap.agent == b2", ["b2"], 50),
        ]  # fmt: skip
        assert lines[0]["asked_by"] == "127.0.0.1"
    finally:
        for agent in agents:
            agent.kill()


def test_what_it_cannot_give_is_said(tmp_path: Path, hub: Hub, sink: int) -> None:
    silent = Agent(
        tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {sink}", "--node", "plain"
    )
    agent = recording(tmp_path, hub, "a1", "lo", "--filter", f"udp port {sink}")
    out = tmp_path / "out.pcapng"
    try:
        until("plain streams", lambda: hub.agents().get("plain", {}).get("state") == "streaming")
        send(sink, 20)
        have_recorded(20, agent)
        plain = hub.cli("pcap", "--since", "all", "-w", str(out), "--strict", check=False)
        assert plain.returncode == 4
        assert "plain missing (no_recorder: it records no frames (nodetap-agent run --recorder DIR))" in plain.stderr
        assert "agent plain is missing" in subprocess.run(["capinfos", out], capture_output=True, text=True).stdout
        cut = hub.cli("pcap", "nodetap.agent == a1", "--since", "all", "--limit", "7", "-w", str(out))
        assert cut.stderr == "INCOMPLETE: cut after 7 frames (--limit) (7 frames, 1 agent)\n"
        assert len(tshark(out).splitlines()) == 7
        cut = hub.cli("pcap", "nodetap.agent == a1", "--since", "all", "--max-bytes", "1000", "-w", str(out))
        assert cut.stderr.startswith("INCOMPLETE: cut after 880 bytes (--max-bytes) (5 frames")
        nothing = hub.cli("pcap", "nodetap.agent == nobody", "--since", "all", "-w", str(out))
        assert nothing.stderr == "complete: 0 frames, 0 agents: none is connected\n"
        assert tshark(out) == ""
        for words, code, said in (
            (["tcp.prt == 1"], 2, "did you mean"),
            (["frame.number == 1"], 2, "no frame.number"),
            (["--since", "yesterdayish"], 2, "is not a time"),
        ):
            wrong = hub.cli("pcap", *words, "-w", str(tmp_path / "wrong.pcapng"), check=False)
            assert (wrong.returncode, said in wrong.stderr) == (code, True), wrong.stderr
        for target, said in (
            (tmp_path / "no" / "x.pcapng", "No such file"),
            (tmp_path, "it is a folder"),
            (Path("/dev/full"), "No space"),
        ):
            wrong = hub.cli("pcap", "nodetap.agent == a1", "--since", "all", "-w", str(target), check=False)
            assert wrong.returncode == 1
            assert said in wrong.stderr
            assert wrong.stderr.count("\n") == 1
        assert not (tmp_path / "wrong.pcapng").exists()
        assert list(tmp_path.glob(".*partial")) == []
    finally:
        silent.kill()
        agent.kill()


def test_an_agent_that_dies_amid_its_answer_is_named_and_the_file_is_whole(tmp_path: Path, hub: Hub, sink: int) -> None:
    agent = recording(tmp_path, hub, "a1", "lo", "--filter", f"udp port {sink}")
    other = recording(tmp_path, hub, "b2", "lo", "--filter", f"udp port {sink}")
    out = tmp_path / "out.pcapng"
    try:
        for sent in range(100, 1001, 100):
            send(sink, 100, 4000)
            have_recorded(sent, agent, other)
        fifo = tmp_path / "pipe"
        os.mkfifo(fifo)
        asking = subprocess.Popen(
            program("hub.cli.main", "--hub-url", hub.api, "pcap", "--since", "all", "-w", str(fifo), "--deadline", "1"),
            stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        with fifo.open("rb") as pipe, out.open("wb") as file:
            file.write(pipe.read(4096))  # it has begun; then it waits for us
            agent.kill()
            while data := pipe.read(1 << 16):
                file.write(data)
        said = asking.communicate(timeout=60)[1]
        assert "a1 missing (connection_lost" in said or said.startswith("complete")  # all of it may have been under way
        tshark(out)
    finally:
        agent.kill()
        other.kill()


def test_a_killed_agent_goes_on_with_what_it_had(tmp_path: Path, hub: Hub, sink: int) -> None:
    out, options = tmp_path / "out.pcapng", ("--filter", f"udp port {sink}")
    for _ in (1, 2):
        agent = recording(tmp_path, hub, "a1", "lo", *options)
        try:
            send(sink, 30)
            have_recorded(30, agent)
        finally:
            agent.kill()
    agent = recording(tmp_path, hub, "a1", "lo", *options)
    try:
        done = hub.cli("pcap", "--since", "all", "--strict", "-w", str(out), check=False)
        assert done.returncode == 4
        assert done.stderr == "INCOMPLETE: frames of a1 not recorded (agent_restarted) (60 frames, 1 agent)\n"
        comments = tshark(out, "-T", "fields", "-e", "frame.comment").split("\n")
        assert [bool(comment) for comment in comments[:60]] == [*[False] * 30, True, *[False] * 29]
        assert "the agent did not run" in comments[30]
        assert [event["frames"] for event in agent.events if event["event"] == "recorder's file was cut"] == [30, 30]
    finally:
        agent.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "frames"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_recording_and_not_the_capture(
    tmp_path: Path, hub: Hub, sink: int, small_disk: Path
) -> None:
    agent = recording(tmp_path, hub, "a1", "lo", "--filter", f"udp port {sink}")
    ballast = small_disk / "ballast"
    try:
        ballast.write_bytes(bytes(700_000))
        sent = 0
        while not agent.metric("nodetap_agent_recorder_failing"):
            send(sink, 20, 4000)
            sent += 20
            until("all are captured", lambda sent=sent: agent.metric("nodetap_agent_captured_packets_total") == sent)
        send(sink, 20, 4000)
        sent += 20
        until("they are captured too", lambda: agent.metric("nodetap_agent_captured_packets_total") == sent)
        lost = metric_of(agent, 'nodetap_agent_recorder_lost_packets_total{reason="disk_failed"}')
        assert agent.metric("nodetap_agent_recorded_packets_total") + lost == sent
        assert metric_of(agent, 'nodetap_agent_recorder_errors_total{reason="ENOSPC"}') >= 1
        said = hub.cli("pcap", "--since", "all", "-w", str(tmp_path / "out.pcapng")).stderr
        assert said.startswith(f"INCOMPLETE: {lost:g} frames of a1 not recorded (disk_failed)")
        assert "No space left" in hub.cli("doctor", "-o", "wide", check=False).stdout
        ballast.unlink()

        def works() -> bool:
            send(sink, 1)
            return not agent.metric("nodetap_agent_recorder_failing")

        until("it records again", works, timeout=40, pause=0.5)
    finally:
        agent.kill()


def metric_of(agent: Agent, sample: str) -> float:
    """One sample of an agent's metrics, with its labels."""
    with urllib.request.urlopen(f"{agent.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(sample)).rpartition(" ")[2])
