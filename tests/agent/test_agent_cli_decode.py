"""`nodetap-agent` as a process: decode, interfaces, help, and how they end."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-c", "from agent.cli import main; main()")


def agent(*arguments: str | Path, data: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=data,
        capture_output=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "TZ": "UTC", **env},
        check=False,
    )


def arp(sender: int) -> bytes:
    mac = bytes([2, 0, 0, 0, 0, sender])
    body = b"\0\1\x08\0\6\4\0\1" + mac + bytes([10, 0, 0, sender]) + bytes(6) + bytes([10, 0, 0, 1])
    return b"\xff" * 6 + mac + b"\x08\x06" + body


def udp(sender: int, vlan: int = 0) -> bytes:
    ip = bytes([0x45, 0, 0, 32, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, sender, 10, 0, 0, 99])
    tag = b"\x81\x00" + vlan.to_bytes(2, "big") if vlan else b""
    return b"\2" * 6 + b"\4" * 6 + tag + b"\x08\x00" + ip + b"\x04\xd2\x00\x35\x00\x0c\0\0data"


def pcap(*frames: bytes) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", 1_700_000_000 + i, 5, len(f), len(f)) + f for i, f in enumerate(frames))


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "three.pcap"
    path.write_bytes(pcap(arp(7), udp(8, vlan=42), udp(9)))
    return path


def objects(output: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_ndjson_has_the_public_names_and_only_fields_that_are_there(capture: Path) -> None:
    done = agent("decode", capture, "-o", "ndjson")
    assert (done.returncode, done.stderr) == (0, b"")
    first, second, third = objects(done.stdout)
    assert first["arp.opcode"] == 1
    assert first["arp.src.proto_ipv4"] == "10.0.0.7"
    assert "ip.src" not in first
    assert "vlan.id" not in third
    expected = {
        "frame.number": 2,
        "frame.time_epoch": "1700000001.000000005",
        "vlan.id": [42],
        "ip.src": "10.0.0.8",
        "udp.dstport": 53,
        "eth.src": "04:04:04:04:04:04",
    }
    assert {name: second[name] for name in expected} == expected
    assert not {"nodetap.agent", "nodetap.epoch"} & set(second)


def test_fields_come_in_the_order_asked_for(capture: Path) -> None:
    done = agent("decode", capture, "-o", "ndjson", "--fields", "ip.src, frame.number")
    assert done.stdout.splitlines()[1] == b'{"ip.src":"10.0.0.8","frame.number":2}'
    assert done.stdout.splitlines()[0] == b'{"frame.number":1}'
    table = agent("decode", capture, NODETAP_FIELDS="ip.src,frame.number").stdout
    assert table.splitlines() == [
        b"ip.src    frame.number",
        b"                     1",
        b"10.0.0.8             2",
        b"10.0.0.9             3",
    ]


def test_the_table_has_a_line_per_frame(capture: Path) -> None:
    header, *lines = agent("decode", capture).stdout.decode().splitlines()
    assert header.split() == ["frame", "time", "src", "dst", "proto", "len", "info"]
    assert [line.split()[:5] for line in lines] == [
        ["1", "22:13:20.000000", "10.0.0.7", "10.0.0.1", "ARP"],
        ["2", "22:13:21.000000", "10.0.0.8:1234", "10.0.0.99:53", "UDP"],
        ["3", "22:13:22.000000", "10.0.0.9:1234", "10.0.0.99:53", "UDP"],
    ]


def test_a_link_type_that_is_not_read_is_named(capture: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.pcap"
    odd.write_bytes(pcap(b"abcdef", b"ghi")[:20] + struct.pack("<I", 147) + pcap(b"abcdef", b"ghi")[24:])
    done = agent("decode", capture, odd, "-o", "ndjson", "--fields", "frame.number")
    assert (done.returncode, len(objects(done.stdout))) == (0, 5)
    assert done.stderr.decode() == (
        "nodetap-agent decode: odd.pcap: 2 frames of link type 147, which is not read: no addresses\n"
    )


def test_none_prints_nothing(capture: Path) -> None:
    done = agent("decode", capture, "-o", "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_several_files_and_standard_input_are_numbered_through(capture: Path) -> None:
    done = agent("decode", capture, "-", "-o", "ndjson", "--fields", "frame.number", data=pcap(arp(1)))
    assert [o["frame.number"] for o in objects(done.stdout)] == [1, 2, 3, 4]


def test_a_filter_chooses_frames(capture: Path) -> None:
    done = agent("decode", capture, "--filter", "arp", "-o", "ndjson", "--fields", "frame.number,arp.opcode")
    assert objects(done.stdout) == [{"frame.number": 1, "arp.opcode": 1}], done.stderr
    wrong = agent("decode", capture, "--filter", "no such filter")
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, b"", 1)


def test_a_file_that_is_cut_gives_its_rows_then_one_line(capture: Path) -> None:
    capture.write_bytes(capture.read_bytes()[:-3])
    done = agent("decode", capture, "-o", "ndjson")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert b"cut short" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"this is no capture at all, only text"])
def test_what_cannot_be_read_is_one_line_and_exit_2(tmp_path: Path, capture: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong"
    if content is not None:
        path.write_bytes(content)
    done = agent("decode", path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)
    assert str(path).encode() in done.stderr


def test_a_second_file_that_is_missing_is_noticed_before_the_first_is_printed(capture: Path, tmp_path: Path) -> None:
    done = agent("decode", capture, tmp_path / "missing")
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_field_that_does_not_exist_is_refused_with_near_names(capture: Path) -> None:
    done = agent("decode", capture, "--fields", "ip.sorc")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert b"ip.src" in done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    path = tmp_path / "many.pcap"
    path.write_bytes(pcap(*[udp(1)] * 100_000))
    with subprocess.Popen(
        [*PROGRAM, "decode", str(path), "-o", "ndjson"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_pipe_that_stays_open_is_printed_as_it_comes(capture: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "decode", "-", "-o", "ndjson", "--fields", "frame.number"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pcap(arp(1), arp(2)))
        process.stdin.flush()
        assert process.stdout.readline() == b'{"frame.number":1}\n'  # while the writer is still there
        process.stdin.close()
        assert process.wait(30) == 0


def test_help_names_all_commands_without_importing_them() -> None:
    done = agent("--help")
    assert done.returncode == 0
    for command in ("run", "replay", "decode", "interfaces"):
        assert f"\n  {command} " in done.stdout.decode()
    check = "import sys; from agent.cli import run_command; run_command(['--help'])"
    check += "; assert not {'numpy', 'scapy', 'structlog', 'websockets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_decoding_imports_no_scapy_and_no_database(capture: Path) -> None:
    check = f"import sys; from agent.cli import run_command; assert run_command(['decode', {str(capture)!r}]) == 0"
    check += "; assert not {'scapy', 'structlog', 'websockets', 'chdb', 'hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_version_and_a_wrong_command() -> None:
    assert agent("--version").stdout.startswith(b"nodetap-agent ")
    wrong = agent("decod")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_interfaces_show_loopback_to_everyone() -> None:
    done = agent("interfaces", "-o", "json")
    (loopback,) = [row for row in json.loads(done.stdout) if row["name"] == "lo"]
    assert loopback["kind"] == "loopback"
    assert loopback["linktype"] == 1
    assert loopback["capturable"] is (loopback["state"] == "up")
    header, *lines = agent("interfaces").stdout.decode().splitlines()
    assert header.split() == ["index", "name", "state", "kind", "capture", "addresses", "behind"]
    assert any(line.split()[1] == "lo" for line in lines)


def test_every_frame_of_the_corpus_is_a_line(corpus: Path, tshark: str) -> None:
    for path in sorted(p for p in corpus.iterdir() if p.suffix in (".pcap", ".pcapng")):
        done = agent("decode", path, "-o", "ndjson", "--fields", "frame.number,frame.time_epoch,frame.len")
        fields = ("frame.number", "frame.time_epoch", "frame.len")
        words = [tshark, "-n", "-r", str(path), "-T", "fields", *(w for f in fields for w in ("-e", f))]
        told = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False).stdout.splitlines()
        ours = [[str(row.get(f, "")) for f in fields] for row in objects(done.stdout)]
        assert ours == [line.split("\t") for line in told], path.name
