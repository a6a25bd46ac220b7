"""Real captures the whole way, agent to hub to command line, against tshark, cell by cell."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from procs import Hub, environment, program

csv.field_size_limit(1 << 30)
TARGET = 0.999
"""Share of equal cells of each column over the whole corpus."""


def oracle_rows(script: Path, capture: Path) -> list[dict[str, str]]:
    done = subprocess.run([str(script), "--inner", str(capture)], capture_output=True, text=True, check=False)
    return list(csv.DictReader(done.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def either(row: dict[str, Any], *names: str) -> str:
    return next((str(row[name]) for name in names if name in row), "")


def fragment(row: dict[str, Any]) -> tuple[str, str]:
    if "ipv6.fraghdr.offset" in row:
        return str(row["ipv6.fraghdr.offset"] * 8), str(row["ipv6.fraghdr.more"])
    offset, more = row.get("ip.frag_offset", 0), row.get("ip.flags.mf", 0)
    return (str(offset * 8), str(more)) if offset or more else ("", "")


def in_tsharks_words(row: dict[str, Any]) -> dict[str, str]:
    """A row as `nodetap packets -o ndjson` prints it, in the oracle's columns."""
    offset, more = fragment(row)
    return {
        **{name: either(row, name) for name in (
            "frame.number", "frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_id", "frame.encap_type",
        )},
        "vlan.ids": "|".join(map(str, row.get("vlan.id", []))),
        "inner.ipver": "4" if "ip.src" in row else "6" if "ipv6.src" in row else "",
        "inner.src": either(row, "ip.src", "ipv6.src"),
        "inner.dst": either(row, "ip.dst", "ipv6.dst"),
        "inner.proto": either(row, "nodetap.proto"),
        "inner.ttl": either(row, "ip.ttl", "ipv6.hlim"),
        "inner.sport": either(row, "tcp.srcport", "udp.srcport", "sctp.srcport"),
        "inner.dport": either(row, "tcp.dstport", "udp.dstport", "sctp.dstport"),
        "inner.tcp.flags": f"0x{row['tcp.flags']:04x}" if "tcp.flags" in row else "",
        **{f"inner.{name}": either(row, name) for name in (
            "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value", "tcp.len", "udp.length",
        )},
        "inner.icmp.type": either(row, "icmp.type", "icmpv6.type"),
        "inner.icmp.code": either(row, "icmp.code", "icmpv6.code"),
        "inner.frag": offset,
        "inner.mf": more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("corpus"))
    try:
        yield hub.ready()
    finally:
        hub.kill()


def captures(corpus: Path) -> list[Path]:
    return sorted(p for p in corpus.iterdir() if p.suffix in (".pcap", ".pcapng"))


def replay(hub: Hub, capture: Path) -> str:
    """Store a capture; the name of its agent."""
    command = program("agent.cli", "replay", str(capture), "--hub", hub.ws, "--node", capture.stem)
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert done.returncode == 0, f"{capture.name}: {done.stderr[-1000:]}"
    return next(line.split()[-1] for line in done.stderr.splitlines() if "packets stored as" in line)


@pytest.mark.timeout(1800)  # some fifty programs one after the other, each with a minute of its own
def test_every_capture_comes_out_as_tshark_reads_it(hub: Hub, corpus: Path, tshark: str) -> None:
    script = Path(os.environ.get("NODETAP_ORACLE", corpus.parent / "oracle" / "tshark_fields.sh"))
    if not script.is_file():
        pytest.skip(f"no oracle at {script} (set NODETAP_ORACLE)")
    cells: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    different: list[str] = []
    agents = {capture: replay(hub, capture) for capture in captures(corpus)}
    stored: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in hub.rows():
        stored[row["nodetap.agent"]].append(row)
    for capture, agent in agents.items():
        ours = [in_tsharks_words(row) for row in stored[agent]]
        ours.sort(key=lambda row: int(row["frame.number"]))
        theirs = oracle_rows(script, capture)
        assert len(ours) == len(theirs), capture.name
        for mine, tsharks in zip(ours, theirs, strict=True):
            for column, value in mine.items():
                if value or tsharks[column]:
                    cells[column] += 1
                    equal[column] += value == tsharks[column]
                    if value != tsharks[column]:
                        different.append(f"{capture.name}:{mine['frame.number']} {column} {value} {tsharks[column]}")
    shares = {column: equal[column] / count for column, count in cells.items()}
    print(json.dumps({column: [cells[column], equal[column]] for column in cells}))
    assert min(shares.values()) >= TARGET, (shares, different[:20])
    ledger = hub.ledger()
    assert ledger["balanced"]
    assert ledger["complete"]
    assert sum(b["row"] for b in ledger["agents"]) == cells["frame.number"]
