"""`nodetap top` and `nodetap map` against a real hub whose flows are new."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from procs import Hub, ending
from query_rows import Row, address, entry
from test_cli_hub import fill, last_word, terminal

from hub.cli.top import Frame, draw, rate
from protocol.schema import Has

V4, V6 = int(Has.IP | Has.IPV4 | Has.TCP), int(Has.IP | Has.IPV6 | Has.UDP)
MAC = int(Has.ETH | Has.ETHERTYPE)


def flow(start: int, **changes: object) -> Row:
    row = {
        "start": start,
        "end": start + 10**9,
        "iface": "eth0",
        "layers": V4,
        "ethertype": 0x0800,
        "proto": 6,
        "src": address("10.0.0.1"),
        "dst": address("10.0.0.2"),
        "src_port": 50_000,
        "dst_port": 443,
        "packets": 30,
        "packets_rev": 30,
        "bytes": 20_000,
        "bytes_rev": 40_000,
    }
    return row | changes


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that knows of five flows of the last seconds."""
    folder = tmp_path_factory.mktemp("top")
    now = time.time_ns()
    v6 = {"src": address("2001:db8::1"), "dst": address("2001:db8::2"), "dst_port": 53, "proto": 17, "layers": V6}
    rows = [
        flow(now),
        flow(now, src_port=50_001, dst_port=80),
        flow(now, src=address("10.0.0.3"), bytes=200, bytes_rev=0),
        flow(now, **v6, ethertype=0x86DD, bytes=100, bytes_rev=0),
        flow(now, layers=MAC, ethertype=0x0806, eth_src=1, eth_dst=2, bytes=60, bytes_rev=0),
    ]
    fill(folder, [entry("flows", rows, 1)])
    hub = Hub(folder)
    with ending(hub):
        yield hub.ready()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose one run is complete."""
    folder = tmp_path_factory.mktemp("whole")
    fill(folder, [entry("flows", [flow(time.time_ns())], 1), last_word(2, 60)])
    hub = Hub(folder)
    with ending(hub):
        yield hub.ready()


def test_once(hub: Hub) -> None:
    lines = hub.cli("top", "--window", "600").stdout.splitlines()
    assert lines[0].endswith("packets/s  1.60k bit/s  (mean of 600 s)")
    assert lines[1].split() == ["src", "dst", "proto", "flows/s", "packets/s", "bit/s", "%", "bytes"]
    assert [line.split()[0] for line in lines[2:6]] == ["10.0.0.1", "10.0.0.3", "2001:db8::1", "00:00:00:00:00:01"]
    assert lines[2].split()[1:] == ["→", "10.0.0.2", "TCP", "0.0", "0.2", "1.60k", "99.7"]
    assert lines[-1].startswith(("complete: ", "INCOMPLETE: "))


def test_by_other_fields_with_a_filter_and_an_order(hub: Hub) -> None:
    asked = ("top", "--window", "600", "--by", "tcp.dstport", "--port", "1-1000", "tcp")
    lines = hub.cli(*asked, "--sort", "tcp.dstport").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["tcp.dstport", "80", "443"]
    assert len(hub.cli(*asked, "--top", "1").stdout.splitlines()) == 4
    done = hub.cli("top", "--by", "ip.sorc", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(("most", "found"), [((), 5), (("--top", "2"), 2), (("--limit", "3"), 3),
                                             (("--limit", "3", "--top", "1"), 1), (("--limit", "0"), 5)])  # fmt: skip
def test_as_many_groups_as_were_asked_for(hub: Hub, most: tuple[str, ...], found: int) -> None:
    done = hub.cli("flows", "--since", "all", "--by", "ip.src,ipv6.src,tcp.dstport", "-o", "ndjson", *most)
    assert len(done.stdout.splitlines()) == found


@pytest.mark.parametrize("columns", [80, 200])
def test_live_fits_the_terminal_until_ctrl_c(hub: Hub, columns: int) -> None:
    shown = terminal(hub, "top", "--window", "600", columns=columns, until_seen=b"10.0.0.3", LINES="10")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", shown).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= columns
    assert any("omplete: " in line or "OMPLETE: " in line for line in lines)
    assert "\x1b[?1049l" in shown, "the terminal is not given back"


def test_a_terminal_that_only_prints_gets_one_look(hub: Hub) -> None:
    shown = terminal(hub, "top", "--window", "600", columns=80, TERM="dumb")
    assert "\x1b" not in shown
    assert "10.0.0.3" in shown


def test_strict(hub: Hub, whole: Hub) -> None:
    for command in (("top", "--window", "600"), ("map",), ("map", "-o", "dot"), ("map", "-o", "mermaid")):
        incomplete = hub.cli(*command, "--strict", check=False)
        assert incomplete.returncode == 4, command
        assert "INCOMPLETE: " in incomplete.stdout.splitlines()[-1]
        complete = whole.cli(*command, "--strict")
        assert complete.stdout.splitlines()[-1].endswith("complete: 1 agent, no gaps")


def test_map(hub: Hub) -> None:
    lines = hub.cli("map").stdout.splitlines()
    assert lines[0].split() == ["src", "dst", "flows", "packets", "bytes"]
    assert lines[1].split() == ["10.0.0.1", "→", "10.0.0.2", "2", "120", "120000"]
    assert len(lines) == 6
    ports = hub.cli("map", "--ports", "--top", "1").stdout.splitlines()
    assert ports[1].split()[2] in ("10.0.0.2:443", "10.0.0.2:80")
    assert ports[2] == "only the 1 with the most bytes: --top 0 shows all"
    assert hub.cli("map", "--ip", "2001:db8::2").stdout.splitlines()[1].startswith("2001:db8::1  →  2001:db8::2")


@pytest.mark.parametrize(("output", "arrow"), [("mermaid", ' -->|"TCP '), ("dot", " -> ")])
def test_map_as_a_drawing(hub: Hub, output: str, arrow: str) -> None:
    text = hub.cli("map", "-o", output, "--ports").stdout
    assert text.count(arrow.removesuffix("TCP ")) == 5
    assert arrow in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.0"), (0.04, "0.0"), (12.54, "12.5"), (99.96, "100"), (999.4, "999"), (999.6, "1.00k"), (43.1e6, "43.1M"),
     (9.996e3, "10.0k"), (99.96e3, "100k"), (999.6e3, "1.00M"), (5e15, "5000T")],
)  # fmt: skip
def test_rates(value: float, shown: str) -> None:
    assert rate(value) == shown


def test_a_frame_without_flows() -> None:
    frame = Frame([], 0, 0, 0, {"complete": True}, 30)
    assert frame.head() == "0.0 flows/s  0.0 packets/s  0.0 bit/s  (mean of 30 s)"
    assert frame.columns([])[-1].cell({"flow.bytes": 0}) == "0.0"


def test_a_hub_that_is_away_is_told_below_the_last_frame() -> None:
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as said:
        console.print(draw(Frame([], 0, 0, 0, {"complete": True}, 30), [], "hub unresponsive"))
    assert said.get().splitlines()[-1].startswith("hub unresponsive")
