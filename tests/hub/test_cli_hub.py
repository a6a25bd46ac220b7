"""The command line against a real hub with a real store: rows, completeness, follow, exit codes, terminals."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from procs import Hub, ending, environment, program, until
from store_rows import flows, packet_columns, packets, tombstone

from hub.query.arrow import END
from hub.store.store import Store
from protocol.columns import Text
from protocol.schema import Has

ROWS = 600
LAYERS = int(Has.TIME | Has.IP | Has.IPV4 | Has.TCP | Has.TCP_FLAGS | Has.TCP_SEQ | Has.TCP_LEN)


def tcp(seq: int, rows: int, agent: str = "web-1") -> Any:
    """A batch of TCP packets, one of which carries what a terminal must not obey."""
    info = Text(np.zeros(rows, "<u4"), np.zeros(0, np.uint8))
    constant = {"layers": LAYERS, "proto": 6, "dst_port": 443, "tcp_flags": 0x12}
    first = 1 + (seq - 1) * rows
    columns = packet_columns(rows, first)
    changes = {k: np.full(rows, v, columns[k].dtype) for k, v in constant.items()}  # type: ignore[union-attr]
    return packets(seq, rows, agent, **changes, info=info, tcp_seq=columns["frame_number"].astype("<u4"))  # type: ignore[union-attr]


def summed(seq: int) -> Any:
    """Four flows whose packets all have rows."""
    entry = flows(seq)
    assert entry.columns is not None
    columns = entry.columns | {"flow_only": np.zeros(4, "<u8")}
    return replace(entry, message=replace(entry.message, flow_only=0), columns=columns)


def last_word(seq: int, captured: int) -> Any:
    """The report that ends a run in good order."""
    ledger = {"captured": captured, "rows": captured, "flow_packets": 60}
    return tombstone(seq, 0, kind="report", reason="", final=1, ledger=ledger)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose store holds 600 packets and 4 flows of one agent."""
    folder = tmp_path_factory.mktemp("cli")
    fill(folder, [tcp(1, ROWS // 2), tcp(2, ROWS // 2), summed(3), last_word(4, ROWS)])
    hub = Hub(folder)
    with ending(hub):
        yield hub.ready()


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that knows of lost packets."""
    folder = tmp_path_factory.mktemp("holes")
    fill(folder, [tcp(1, 10), tombstone(2)])
    hub = Hub(folder)
    with ending(hub):
        yield hub.ready()


def fill(folder: Path, entries: list[Any]) -> None:
    store = Store(f"chdb://{folder / 'store'}")
    store.open(time.time_ns())
    try:
        store.commit(entries, time.time_ns())
    finally:
        store.close()


def numbers(text: str) -> list[int]:
    return [json.loads(line)["frame.number"] for line in text.splitlines()]


def terminal(hub: Hub, *arguments: str, columns: int, until_seen: bytes = b"", **env: str) -> str:
    """What a terminal of that width shows until the program ends; it gets Ctrl-C once `until_seen` is to be seen."""
    primary, secondary = pty.openpty()
    command = program("hub.cli.main", "--hub-url", hub.api, *arguments)
    env = {"COLUMNS": str(columns), "TERM": "xterm-256color", **env}
    process = subprocess.Popen(
        command, stdout=secondary, stderr=subprocess.DEVNULL, env=environment(env), stdin=secondary
    )
    os.close(secondary)
    shown = b""
    try:
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(primary, 65536):
                shown += part
                if until_seen and until_seen in shown:
                    process.send_signal(signal.SIGINT)
                    until_seen = b""
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(primary)
    return shown.decode()


# -- rows ----------------------------------------------------------------------------------------------------------


def test_all_rows_each_once_in_order(hub: Hub) -> None:
    done = hub.cli("packets", "--since", "all", "--limit", "0", "-o", "ndjson")
    assert numbers(done.stdout) == list(range(1, ROWS + 1))
    answer = json.loads(done.stderr)
    assert answer["complete"] is True
    assert answer["agents"] == ["web-1"]


def test_the_newest_hundred_oldest_first(hub: Hub) -> None:
    done = hub.cli("packets", "--since", "all", "-o", "ndjson")
    assert numbers(done.stdout) == list(range(ROWS - 99, ROWS + 1))


def test_json_is_one_array_of_the_same(hub: Hub) -> None:
    arguments = ("packets", "--since", "all", "--limit", "20")
    array = json.loads(hub.cli(*arguments, "-o", "json").stdout)
    assert array == [json.loads(line) for line in hub.cli(*arguments, "-o", "ndjson").stdout.splitlines()]
    assert array[0]["tcp.flags"] == 0x12


def test_csv_has_the_fields_in_the_order_wanted(hub: Hub) -> None:
    done = hub.cli("packets", "--since", "all", "-o", "csv", "--fields", "frame.number,tcp.dstport", "--limit", "3")
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        ["frame.number", "tcp.dstport"],
        *([str(n), "443"] for n in range(ROWS - 2, ROWS + 1)),
    ]
    assert json.loads(done.stderr)["complete"] is True


@pytest.mark.parametrize(("output", "begin", "end"), [("parquet", b"PAR1", b"PAR1"), ("arrow", b"\xff" * 4, END)])
def test_parquet_and_arrow_are_whole(hub: Hub, tmp_path: Path, output: str, begin: bytes, end: bytes) -> None:
    command = program("hub.cli.main", "--hub-url", hub.api, "packets", "--since", "all", "-o", output)
    done = subprocess.run(command, capture_output=True, env=environment(), check=True, timeout=60)
    assert done.stdout.startswith(begin)
    assert done.stdout.endswith(end)
    written = tmp_path / f"packets.{output}"
    hub.cli("packets", "--since", "all", "-o", output, "-w", str(written))
    assert written.read_bytes() == done.stdout


def test_pcapng_is_what_pcap_fetches(hub: Hub, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pcapng", tmp_path / "other.pcapng"
    asked = ("--since", "all", "tcp.port", "==", "443")
    said = hub.cli("packets", "-o", "pcapng", "-w", str(one), *asked)
    assert (said.stdout, said.stderr) == ("", hub.cli("pcap", "-w", str(other), *asked).stderr)
    assert one.read_bytes() == other.read_bytes() != b""
    done = hub.cli("packets", "-o", "pcapng", "--sort", "frame.len", *asked, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--sort" in done.stderr


def test_a_file_is_there_once_it_is_whole(hub: Hub, holes: Hub, tmp_path: Path) -> None:
    asked = ("packets", "--since", "all", "-o", "csv", "-w", str(tmp_path / "packets.csv"))
    assert hub.cli(*asked, "tcp.prot == 1", check=False).returncode == 2
    assert os.listdir(tmp_path) == []
    done = holes.cli(*asked, "--strict", check=False)
    assert (done.returncode, done.stdout, os.listdir(tmp_path)) == (4, "", ["packets.csv"])
    assert json.loads(done.stderr)["complete"] is False
    done = hub.cli(*asked[:-1], str(tmp_path / "nowhere" / "packets.csv"), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert hub.cli("packets", "-w", "x", check=False).returncode == 2
    printed = hub.cli(*asked[:-1], "-").stdout
    assert printed == hub.cli("packets", "--since", "all", "-o", "csv").stdout


@pytest.mark.parametrize("output", ["table", "json", "ndjson", "csv", "parquet", "arrow"])
def test_a_full_disk_is_one_line(hub: Hub, output: str) -> None:
    command = program("hub.cli.main", "--hub-url", hub.api, "packets", "--since", "all", "-o", output)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "nodetap: cannot write: No space left on device; what is written so far is not whole"
    ]


def test_filter_words_are_joined(hub: Hub) -> None:
    done = hub.cli("packets", "frame.number", "==", "7", "--since", "all", "-o", "ndjson")
    assert numbers(done.stdout) == [7]


def test_explain_shows_the_query_and_its_parameters(hub: Hub) -> None:
    lines = hub.cli("packets", "--explain", "nodetap.iface", "==", "eth0").stdout.splitlines()
    assert lines[0].startswith("WHERE ")
    assert "eth0" not in lines[0]
    assert lines[1] == "  p0 = 'eth0'"
    answer = json.loads(hub.cli("flows", "--explain", "-o", "json", "tcp", "--by", "ip.src").stdout)
    assert answer["filter"]["params"] == {}
    assert answer["filter"]["sql"] in answer["query"]["sql"]
    assert "GROUP BY" in answer["query"]["sql"]


def test_flags_combine_with_the_filter(hub: Hub) -> None:
    asked = ("packets", "--last", "all", "-o", "ndjson", "--port", "443", "--agent", "web-1")
    assert numbers(hub.cli(*asked, "frame.number < 3 or frame.number == 9").stdout) == [1, 2, 9]
    assert numbers(hub.cli(*asked, "--not", "frame.number > 2").stdout) == [1, 2]
    assert numbers(hub.cli(*asked, "--ip", "192.0.2.1").stdout) == []
    assert numbers(hub.cli("follow", *asked[1:], "--limit", "1", "frame.number == 9").stdout) == [9]


def test_a_window_of_time(hub: Hub) -> None:
    done = hub.cli(
        "packets", "--since", "2023-11-14T22:13:20.000005Z", "--until", "1700000000.000008000", "-o", "ndjson"
    )
    assert numbers(done.stdout) == [5, 6, 7]


def test_no_rows_is_no_error(hub: Hub) -> None:
    done = hub.cli("packets")
    assert done.stdout.startswith("complete: ")
    assert "--since all" in done.stderr
    done = hub.cli("packets", "--since", "5m", "--until", "1h")
    assert done.stderr == "no packets: --until 1h is before --since 5m, so the window is empty\n"


def test_a_wrong_filter_is_shown_where_it_is_wrong(hub: Hub) -> None:
    done = hub.cli("packets", "frame.number == 1 and tcp.prot == 3", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[1][lines[2].index("^") :].startswith("tcp.prot")
    assert "did you mean tcp.port?" in done.stderr


def test_an_unknown_field_is_refused(hub: Hub) -> None:
    done = hub.cli("packets", "--fields", "ip.sorc", check=False)
    assert done.returncode == 2
    assert "ip.sorc" in done.stderr


def test_flows_and_their_sums(hub: Hub) -> None:
    rows = [json.loads(line) for line in hub.cli("flows", "--since", "all", "-o", "ndjson").stdout.splitlines()]
    assert [row["flow.packets"] for row in rows] == [10] * 4
    assert "packets" in hub.cli("flows", "--since", "all").stdout
    [total] = json.loads(hub.cli("flows", "--since", "all", "--by", "nodetap.agent", "-o", "json").stdout)
    assert (total["nodetap.agent"], total["flow.packets"], total["flow.records"]) == ("web-1", 40, 4)


def test_an_order_of_ones_own(hub: Hub) -> None:
    asked = ("packets", "--since", "all", "-o", "ndjson", "--limit", "3", "--sort")
    assert numbers(hub.cli(*asked, "frame.number").stdout) == [1, 2, 3]
    assert numbers(hub.cli(*asked, "tcp.dstport,frame.number:desc").stdout) == [ROWS, ROWS - 1, ROWS - 2]
    done = hub.cli(*asked, "frame.nunber", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("did you mean frame.number?\n")
    assert hub.cli(*asked, "frame.number:up", check=False).returncode == 2
    groups = hub.cli("flows", "--since", "all", "--by", "ip.src", "--sort", "flow.records:desc").stdout
    assert groups.splitlines()[0].split() == ["ip.src", "flows", "packets", "packets", "←", "bytes", "bytes", "←"]


# -- completeness and the books ------------------------------------------------------------------------------------


def test_what_is_lost_is_said(holes: Hub) -> None:
    done = holes.cli("packets", "--since", "all")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("INCOMPLETE: ")
    assert "10 packets lost (shed 10)" in last


def test_strict_makes_incomplete_an_error(holes: Hub, hub: Hub) -> None:
    for output in ("table", "ndjson", "csv"):
        assert holes.cli("packets", "--since", "all", "--strict", "-o", output, check=False).returncode == 4
        assert hub.cli("packets", "--since", "all", "--strict", "-o", output).returncode == 0


def test_the_ledger(hub: Hub) -> None:
    books = json.loads(hub.cli("ledger", "-o", "json").stdout)
    assert books["balanced"] is True
    assert [(run["agent"], run["row"]) for run in books["agents"]] == [("web-1", ROWS)]
    text = hub.cli("ledger").stdout
    assert f"{ROWS:,}" in text
    assert text.splitlines()[-1].startswith("balanced, ")


def test_fields_and_agents(hub: Hub) -> None:
    fields = json.loads(hub.cli("fields", "-o", "json").stdout)
    assert "ip.src" in {field["name"] for field in fields}
    assert isinstance(json.loads(hub.cli("agents", "-o", "json").stdout), list)
    assert hub.cli("agents", "forget", "nobody/replay-0011", check=False).returncode == 1


# -- terminals and pipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("output", ["table", "wide"])
def test_no_line_is_wider_than_the_terminal(hub: Hub, columns: int, output: str) -> None:
    shown = terminal(hub, "packets", "--since", "all", "-o", output, columns=columns)
    assert "\x1b[" in shown
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "").splitlines()
    assert len(lines) == 102
    assert max(map(len, lines)) <= columns
    assert sum("[SYN, ACK]" in line for line in lines) == (100 if columns == 200 else sum("SYN" in x for x in lines))


def test_no_color_is_honoured(hub: Hub) -> None:
    shown = terminal(hub, "packets", "--since", "all", columns=100, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_with_ascii_alone(hub: Hub, columns: int) -> None:
    shown = terminal(hub, "packets", "--since", "all", columns=columns, PYTHONIOENCODING="ascii")
    assert "\\u2192" in shown
    assert "complete: " in shown


def test_a_pipe_gets_plain_lines(hub: Hub) -> None:
    text = hub.cli("packets", "--since", "all").stdout
    assert "\x1b" not in text
    assert len(text.splitlines()) == 102
    assert "Seq=600" in text


def test_a_closed_pipe_ends_it_quietly(hub: Hub) -> None:
    command = program("hub.cli.main", "--hub-url", hub.api, "packets", "--since", "all", "--limit", "0", "-o", "ndjson")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_watch_shows_the_agents_until_ctrl_c(hub: Hub) -> None:
    assert "verdict" in terminal(hub, "agents", "--watch", columns=120, until_seen=b"verdict")


# -- follow --------------------------------------------------------------------------------------------------------


def follow(hub: Hub, *arguments: str) -> subprocess.Popen[bytes]:
    command = program("hub.cli.main", "--hub-url", hub.api, "follow", "-o", "ndjson", *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())


def test_follow_goes_on_where_a_cursor_says(hub: Hub) -> None:
    first = hub.cli("follow", "--since", "all", "--limit", "250", "-o", "ndjson").stdout.splitlines()
    cursor = json.loads(first[-1])["nodetap.cursor"]
    rest = hub.cli("follow", "--cursor", cursor, "--limit", str(ROWS - 250), "-o", "ndjson").stdout
    assert numbers("\n".join(first)) + numbers(rest) == list(range(1, ROWS + 1))


def test_follow_as_a_table(hub: Hub) -> None:
    lines = hub.cli("follow", "--since", "all", "--limit", "5").stdout.splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("complete: ")


def test_follow_ends_with_ctrl_c(hub: Hub) -> None:
    process = follow(hub, "--since", "all")
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(ROWS):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, words = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, b"")
    assert json.loads(words)["complete"] is True


def test_follow_says_what_is_lost_like_any_answer(holes: Hub) -> None:
    done = holes.cli("follow", "--since", "all", "--limit", "5", "--strict", "-o", "ndjson", check=False)
    assert (done.returncode, done.stdout.count("\n")) == (4, 5)
    assert json.loads(done.stderr)["complete"] is False
    gone = holes.cli("follow", "--since", "all", "--limit", "5", "--strict", "-o", "table", check=False)
    assert gone.returncode == 4
    assert gone.stdout.splitlines()[-1].startswith("INCOMPLETE: ")


def test_follow_survives_a_restart_of_the_hub_and_not_its_end(tmp_path: Path) -> None:
    fill(tmp_path, [tcp(1, 50)])
    hub = Hub(tmp_path)
    with ending(hub):
        hub.ready()
        process = follow(hub, "--since", "all", "--give-up", "20")
        try:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(50)]
            hub.kill()
            fill(tmp_path, [tcp(2, 50)])
            again = hub.again()
            with ending(again):
                again.ready()
                seen += [process.stdout.readline() for _ in range(50)]
                assert numbers(b"".join(seen).decode()) == list(range(1, 101))
                again.kill()
                _, words = process.communicate(timeout=60)
            assert process.returncode == 3
            assert b"--cursor" in words.splitlines()[-1]
        finally:
            process.kill()
            process.wait(10)


# -- a hub that hangs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["agents", "packets", "follow", "ledger"])
def test_a_stopped_hub_is_unresponsive(hub: Hub, command: str) -> None:
    hub.send(signal.SIGSTOP)
    try:
        begin = time.monotonic()
        done = hub.cli(command, check=False, timeout=30)
        assert done.returncode == 3
        assert "hub unresponsive" in done.stderr
        assert time.monotonic() - begin < 15
    finally:
        hub.send(signal.SIGCONT)
    until("the hub answers again", lambda: hub.cli("agents", check=False).returncode == 0)


# -- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_and_taken(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    hub = Hub(tmp_path, "--token-file", str(token))
    with ending(hub):
        hub.ready()
        done = hub.cli("agents", check=False)
        assert done.returncode == 3
        assert "--token-file" in done.stderr
        assert "s3cret" not in done.stderr
        assert hub.cli("--token-file", str(token), "agents").returncode == 0
