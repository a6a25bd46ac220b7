"""How many cells equal tshark's: every file of the corpus through our decoder and through the oracle.

    python tools/fidelity.py [FILE ...] [--write docs/fidelity.md]

Captures are read from NODETAP_CORPUS (default ../shared/pcaps beside the checkout), the oracle is NODETAP_ORACLE
(default `oracle/tshark_fields.sh` beside the captures' folder). A cell counts where either side has a value, and is
equal where both are. Exit status 1 where a share is below its target.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.show import seconds
from protocol.columns import Columns, Lists
from protocol.schema import Has

ROOT = Path(__file__).resolve().parent.parent
TARGET_PLAIN, TARGET_ALL = 0.9995, 0.9995
PLAIN = {"eth", "ethertype", "vlan", "ieee8021ad", "ip", "ipv6", "tcp", "udp", "icmp", "icmpv6", "arp"}
TUNNELLED = {"vxlan", "geneve", "gre", "mpls", "pppoes", "ppp", "gtp", "sll", "null", "raw", "sctp"}

csv.field_size_limit(1 << 30)


class Cell(NamedTuple):
    """One cell that differs."""

    file: str
    frame: int
    column: str
    ours: str
    theirs: str
    protocols: str


class Score(NamedTuple):
    """Cells that counted, and those that were equal."""

    cells: int
    equal: int

    @property
    def share(self) -> float:
        """Equal cells by cells; 1 where there was none."""
        return self.equal / self.cells if self.cells else 1.0


def corpus() -> Path:
    """The folder of captures."""
    return Path(os.environ.get("NODETAP_CORPUS", ROOT.parent / "shared" / "pcaps"))


def oracle() -> Path:
    """The script that asks tshark."""
    return Path(os.environ.get("NODETAP_ORACLE", corpus().parent / "oracle" / "tshark_fields.sh"))


def captures(folder: Path) -> list[Path]:
    """The captures of a folder by name."""
    return sorted(p for p in folder.iterdir() if p.suffix in (".pcap", ".pcapng", ".cap"))


def theirs(path: Path) -> list[dict[str, str]]:
    """tshark's rows of a capture."""
    run = subprocess.run([str(oracle()), "--inner", str(path)], capture_output=True, text=True, check=False)
    return list(csv.DictReader(run.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


# -- our rows, in the oracle's words -------------------------------------------------------------------------------


def _number(name: str, need: int, form: Callable[[int], str] = str) -> Callable[[Columns, int, int], str]:
    def cell(columns: Columns, row: int, layers: int) -> str:
        value: Any = columns[name]
        return form(int(value[row])) if layers & need == need else ""

    return cell


def _time(columns: Columns, row: int, layers: int) -> str:
    value: Any = columns["time"]
    return seconds(int(value[row])) if layers & Has.TIME else ""


def _address(name: str) -> Callable[[Columns, int, int], str]:
    def cell(columns: Columns, row: int, layers: int) -> str:
        value: Any = columns[name]
        raw = value[row].tobytes()
        if layers & Has.IPV4:
            return socket.inet_ntop(socket.AF_INET, raw[12:])
        return socket.inet_ntop(socket.AF_INET6, raw) if layers & Has.IPV6 else ""

    return cell


def _version(columns: Columns, row: int, layers: int) -> str:
    return "4" if layers & Has.IPV4 else "6" if layers & Has.IPV6 else ""


def _any(name: str, *needs: int) -> Callable[[Columns, int, int], str]:
    def cell(columns: Columns, row: int, layers: int) -> str:
        value: Any = columns[name]
        return str(value[row]) if any(layers & need for need in needs) else ""

    return cell


def _fragment(name: str, factor: int) -> Callable[[Columns, int, int], str]:
    """IPv4 packets have the fields always, the oracle shows them of fragments only."""

    def cell(columns: Columns, row: int, layers: int) -> str:
        offset: Any = columns["frag_offset"]
        more: Any = columns["frag_more"]
        value: Any = columns[name]
        if not layers & Has.FRAG or (layers & Has.IPV4 and not offset[row] and not more[row]):
            return ""
        return str(int(value[row]) * factor)

    return cell


CELLS: dict[str, Callable[[Columns, int, int], str]] = {
    "frame.number": _number("frame_number", 0),
    "frame.time_epoch": _time,
    "frame.len": _number("len", 0),
    "frame.cap_len": _number("cap_len", 0),
    "frame.interface_id": _number("iface_id", Has.IFACE_ID),
    "frame.encap_type": _number("encap_type", 0),
    "vlan.ids": lambda columns, row, layers: "",  # filled in from the list column, see `ours`
    "inner.ipver": _version,
    "inner.src": _address("src"),
    "inner.dst": _address("dst"),
    "inner.proto": _number("proto", Has.IP),
    "inner.ttl": _number("ttl", Has.IP),
    "inner.sport": _any("src_port", Has.TCP, Has.UDP, Has.SCTP),
    "inner.dport": _any("dst_port", Has.TCP, Has.UDP, Has.SCTP),
    "inner.tcp.flags": _number("tcp_flags", Has.TCP_FLAGS, lambda value: f"0x{value:04x}"),
    "inner.tcp.seq_raw": _number("tcp_seq", Has.TCP_SEQ),
    "inner.tcp.ack_raw": _number("tcp_ack", Has.TCP_ACK),
    "inner.tcp.window_size_value": _number("tcp_window", Has.TCP_WINDOW),
    "inner.tcp.len": _number("tcp_len", Has.TCP_LEN),
    "inner.udp.length": _number("udp_length", Has.UDP_LENGTH),
    "inner.icmp.type": _any("icmp_type", Has.ICMP, Has.ICMPV6),
    "inner.icmp.code": _any("icmp_code", Has.ICMP_CODE, Has.ICMPV6_CODE),
    "inner.frag": _fragment("frag_offset", 8),
    "inner.mf": _fragment("frag_more", 1),
}


def ours(path: Path) -> Iterator[dict[str, str]]:
    """Our rows of a capture, as the oracle writes them."""
    source = FileSource([path])
    source.open()
    decoder, number = Decoder(source.interfaces), 1
    while not source.done:
        block = source.next_block(0)
        if block is None:
            continue
        columns = decoder.block(block, number)
        number += len(block)
        yield from _rows(columns, len(block))
    source.close()


def _rows(columns: Columns, count: int) -> Iterator[dict[str, str]]:
    bits: Any = columns["layers"]
    tags = columns["vlan_id"]
    assert isinstance(tags, Lists)
    at = 0
    for row in range(count):
        cells = {name: cell(columns, row, int(bits[row])) for name, cell in CELLS.items()}
        length = int(tags.lengths[row])
        cells["vlan.ids"] = "|".join(str(tag) for tag in tags.values[at : at + length])
        at += length
        yield cells


# -- comparing -----------------------------------------------------------------------------------------------------


def is_plain(protocols: str) -> bool:
    """Ethernet, VLAN, IP, TCP, UDP, ICMP: no tunnel, no other link layer."""
    words = set(protocols.split(":"))
    return bool(words & {"eth"}) and not words & TUNNELLED and bool(words & PLAIN - {"eth", "ethertype"})


def compare(path: Path) -> Iterator[tuple[bool, str, bool, Cell]]:
    """Every cell that counts: plain frame or not, column, equal or not, the cell."""
    mine, others = list(ours(path)), theirs(path)
    for row in range(max(len(mine), len(others))):
        left = mine[row] if row < len(mine) else {}
        right = others[row] if row < len(others) else {}
        protocols = right.get("frame.protocols", "")
        for name in CELLS:
            a, b = left.get(name, ""), right.get(name) or ""
            if a or b:
                yield is_plain(protocols), name, a == b, Cell(path.name, row + 1, name, a, b, protocols)


class Result(NamedTuple):
    """Scores per column over all frames and over plain ones, and the cells that differ."""

    all: dict[str, Score]
    plain: dict[str, Score]
    differences: list[Cell]
    files: int
    frames: int


def total(scores: dict[str, Score]) -> Score:
    """The sum over all columns."""
    return Score(sum(s.cells for s in scores.values()), sum(s.equal for s in scores.values()))


def measure(paths: list[Path]) -> Result:
    """Compare every cell of the captures."""
    everything: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    plain: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    differences, frames = [], 0
    for path in paths:
        for is_simple, name, equal, cell in compare(path):
            for counts in (everything, plain) if is_simple else (everything,):
                counts[name][0] += 1
                counts[name][1] += equal
            frames += name == "frame.number"
            if not equal:
                differences.append(cell)
    scores = [{name: Score(*counts[name]) for name in CELLS} for counts in (everything, plain)]
    return Result(scores[0], scores[1], differences, len(paths), frames)


def table(result: Result) -> list[str]:
    """The shares per column, as a Markdown table."""
    lines = ["| column | cells | equal | share | plain cells | equal | share |", "|---|---:|---:|---:|---:|---:|---:|"]
    rows = [(name, result.all[name], result.plain[name]) for name in CELLS]
    for name, a, p in [*rows, ("**all columns**", total(result.all), total(result.plain))]:
        lines.append(f"| {name} | {a.cells} | {a.equal} | {a.share:.3%} | {p.cells} | {p.equal} | {p.share:.3%} |")
    return lines


def grouped(differences: list[Cell]) -> list[str]:
    """The differences by file, column and reason, as a Markdown table with one example each."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in differences:
        groups[cell.file, cell.column].append(cell)
    lines = ["| file | column | cells | frame | ours | tshark |", "|---|---|---:|---:|---|---|"]
    for (file, column), cells in groups.items():
        first = cells[0]
        example = f"{first.frame} | {first.ours or '-'} | {first.theirs or '-'}"
        lines.append(f"| `{file}` | {column} | {len(cells)} | {example} |")
    return lines


BEGIN, END = "<!-- measured: make fidelity ARGS='--write docs/fidelity.md' -->", "<!-- end -->"


def report(result: Result) -> str:
    """Shares and differences as Markdown."""
    lines = [f"{result.files} files, {result.frames} frames, {total(result.all).cells} cells.", "", *table(result), ""]
    return "\n".join([*lines, *(grouped(result.differences) if result.differences else ["No cell differs."])])


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks of a Markdown file."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> int:
    """Print the shares and the differences; 1 where a target is missed, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(description="Compare our decoder with tshark, cell by cell.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the result into this Markdown file")
    options = parser.parse_args()
    files = options.files or (captures(corpus()) if corpus().is_dir() else [])
    if not files:
        print(f"no captures in {corpus()}: set NODETAP_CORPUS", file=sys.stderr)
        return 2
    if not oracle().is_file():
        print(f"no oracle at {oracle()}: set NODETAP_ORACLE", file=sys.stderr)
        return 2
    result = measure(files)
    print(report(result))
    if options.write:
        write(options.write, report(result))
    met = total(result.plain).share >= TARGET_PLAIN and total(result.all).share >= TARGET_ALL
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
