"""Whether our flows add up as tshark's do: totals of every conversation, and what TCP had to send again.

    python tools/flow_fidelity.py [FILE ...] [--write docs/fidelity.md]

Packets and bytes each way are compared with `tshark -z conv,tcp`, `conv,udp`, `conv,ip` and `conv,ipv6`, our records of
one pair of endpoints added up; retransmissions and segments out of order with the frames that tshark flags
`tcp.analysis.retransmission` and `tcp.analysis.out_of_order`. Nothing is put together (no IP or TCP reassembly).
Captures with tunnels are left out: what is inside is a conversation of its own for tshark too, beside the outer one.

Captures are read from NODETAP_CORPUS. Exit status 1 where a difference is not explained.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from protocol.columns import Columns
from protocol.schema import Has

KINDS = {"tcp": Has.TCP, "udp": Has.UDP, "ip": Has.IPV4, "ipv6": Has.IPV6}
EVENTS = {"retransmission": "retransmissions", "out_of_order": "out_of_order"}
"""Flags of `tcp.analysis`, and our columns."""
LOOSE = ("ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams")
TUNNELS = {"mpls", "ppp", "gre", "pppoes", "vxlan", "geneve", "gtp"}

EXPLAINED = {
    "fuzzed-bigendian-http.pcap": "conversations leave out frames whose TCP header is damaged",
    "ipv6-fragmented-dns.pcap": "conv,ipv6 leaves out the fragments behind the first",
}
"""Captures of which tshark says something else, and why: docs/fidelity.md."""

Endpoint: TypeAlias = "tuple[str, int]"
"""Address and port; 0 where only addresses count."""
Way: TypeAlias = "tuple[Endpoint, Endpoint]"
"""Sender and receiver."""


class Count(NamedTuple):
    """What went one way: packets, and bytes as tshark prints them."""

    packets: int
    bytes: str


class Score(NamedTuple):
    """How many were compared, how many of them are equal, the others in words."""

    count: int
    equal: int
    differences: list[str]


def size(count: int) -> str:
    """Bytes as tshark prints them: cut to thousands from 10 000 on."""
    for unit in ("bytes", "kB", "MB"):
        if count < 10_000:
            return f"{count} {unit}"
        count //= 1_000
    return f"{count} GB"


# -- theirs --------------------------------------------------------------------------------------------------------


def tshark(path: Path, *arguments: str) -> list[str]:
    """The lines that tshark prints of a capture."""
    preferences = [word for name in LOOSE for word in ("-o", f"{name}:FALSE")]
    command = ["tshark", "-n", "-r", str(path), *preferences, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def _endpoint(text: str, with_port: bool) -> Endpoint:
    address, port = text.rsplit(":", 1) if with_port else (text, "0")
    return str(ip_address(address)), int(port)


_LINE = re.compile(r"(\S+)\s+<->\s+(\S+)" + r"\s+(\d+)\s+(\d+ \w+)" * 2 + r"\s")


class Theirs(NamedTuple):
    """What tshark says of a capture.

    Conversations per kind and direction: several counts where the ports of a TCP connection were used again. Flagged
    segments per event and direction.
    """

    tunnel: bool
    conversations: dict[str, dict[Way, list[Count]]]
    flagged: dict[str, Counter[Way]]


def theirs(path: Path) -> Theirs:
    """Ask tshark, twice."""
    lines = tshark(path, "-q", *(word for kind in KINDS for word in ("-z", f"conv,{kind}")))
    tunnel, flagged = _flagged(path)
    return Theirs(tunnel, _conversations(lines), flagged)


def _conversations(lines: list[str]) -> dict[str, dict[Way, list[Count]]]:
    """tshark's columns are from right to left, then from left to right."""
    titles = {"TCP": "tcp", "UDP": "udp", "IPv4": "ip", "IPv6": "ipv6"}
    out: dict[str, dict[Way, list[Count]]] = {kind: defaultdict(list) for kind in KINDS}
    kind = ""
    for line in lines:
        if line.endswith(" Conversations"):
            kind = titles[line.split()[0]]
        elif found := _LINE.match(line):
            a, b = (_endpoint(found[i], kind in ("tcp", "udp")) for i in (1, 2))
            out[kind][b, a].append(Count(int(found[3]), found[4]))
            out[kind][a, b].append(Count(int(found[5]), found[6]))
    return out


def _flagged(path: Path) -> tuple[bool, dict[str, Counter[Way]]]:
    """Whether a frame has a tunnel, or a second IP header that ICMP does not quote; and the segments with flags."""
    names = ("frame.protocols", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport")
    columns = [word for name in (*names, *(f"tcp.analysis.{event}" for event in EVENTS)) for word in ("-e", name)]
    counts: dict[str, Counter[Way]] = {event: Counter() for event in EVENTS}
    tunnel = False
    for line in tshark(path, "-T", "fields", "-E", "occurrence=f", *columns):
        protocols, src, src6, sport, dst, dst6, dport, *flags = line.split("\t")
        words = protocols.split(":icmp")[0].split(":")
        tunnel |= words.count("ip") + words.count("ipv6") > 1 or bool(TUNNELS & set(words))
        for event, flag in zip(EVENTS, flags, strict=True):
            if flag:
                way = (str(ip_address(src or src6)), int(sport)), (str(ip_address(dst or dst6)), int(dport))
                counts[event][way] += 1
    return tunnel, counts


# -- ours ----------------------------------------------------------------------------------------------------------


def flows(path: Path) -> Iterator[Columns]:
    """Our flow records of a capture, as the agent makes them."""
    source = FileSource([path])
    source.open()
    decoder, table, number = Decoder(source.interfaces), FlowTable(), 1
    while not source.done:
        block = source.next_block(0)
        if block is not None:
            table.add(decoder.block(block, number), True)
            number += len(block)
            if table.last_time is not None and (records := table.expire(table.last_time)) is not None:
                yield records
    source.close()
    if (records := table.flush()) is not None:
        yield records


Sums: TypeAlias = "dict[str, Counter[Way]]"
"""Sums of our columns, by kind and column (`tcp packets`)."""


def sums(path: Path) -> Sums:
    """Our records of a capture, added up per kind of conversation and direction."""
    out: Sums = defaultdict(Counter)
    for records in flows(path):
        for row in range(len(records["layers"])):
            _add(out, records, row)
    return out


def _add(out: Sums, records: Any, row: int) -> None:
    for kind, need in KINDS.items():
        if not int(records["layers"][row]) & need:
            continue
        a, b = (_our_endpoint(records, row, side, kind) for side in ("src", "dst"))
        for name in ("packets", "bytes", *EVENTS.values()):
            out[f"{kind} {name}"][a, b] += int(records[name][row])
            out[f"{kind} {name}"][b, a] += int(records[f"{name}_rev"][row])


def _our_endpoint(records: Any, row: int, side: str, kind: str) -> Endpoint:
    address = IPv6Address(records[side][row].tobytes())
    return str(address.ipv4_mapped or address), int(records[f"{side}_port"][row]) if kind in ("tcp", "udp") else 0


# -- comparing -----------------------------------------------------------------------------------------------------


def compare_totals(path: Path, kind: str, theirs: dict[Way, list[Count]], ours: Sums) -> Score:
    """Packets and bytes of every direction of every conversation that tshark or we know.

    Where tshark makes several conversations of the same ports, bytes are left out: rounded sums do not add up.
    """
    differences = []
    ways = set(theirs) | set(ours[f"{kind} packets"])
    for way in ways:
        counts = theirs.get(way, [Count(0, size(0))])
        share = 2 if way[0] == way[1] else 1  # one pair, two directions: tshark prints packets and zero
        packets, size_text = ours[f"{kind} packets"][way], size(ours[f"{kind} bytes"][way])
        same_bytes = len(counts) > 1 or share > 1 or size_text == counts[0].bytes
        if packets != sum(count.packets for count in counts) or not same_bytes:
            differences.append(f"{path.name} conv,{kind} {way}: ours {packets}, {size_text}; tshark {counts}")
    return Score(len(ways), len(ways) - len(differences), differences)


def compare_events(path: Path, event: str, theirs: Counter[Way], ours: Sums) -> Score:
    """Segments with a flag of `tcp.analysis`, per direction; what is counted are segments that either side flags."""
    mine = ours[f"tcp {EVENTS[event]}"]
    differences, count, equal = [], 0, 0
    for way in set(theirs) | set(mine):
        count += max(theirs[way], mine[way])
        equal += min(theirs[way], mine[way])
        if theirs[way] != mine[way]:
            differences.append(f"{path.name} {event} {way}: ours {mine[way]}, tshark {theirs[way]}")
    return Score(count, equal, differences)


def measure(paths: list[Path]) -> dict[str, Score]:
    """The scores of captures without tunnels, per comparison."""
    scores: dict[str, list[Score]] = defaultdict(list)
    for path in paths:
        said = theirs(path)
        if said.tunnel:
            continue
        ours = sums(path)
        for kind in KINDS:
            scores[f"conv,{kind}"].append(compare_totals(path, kind, said.conversations[kind], ours))
        for event in EVENTS:
            scores[f"tcp.analysis.{event}"].append(compare_events(path, event, said.flagged[event], ours))
    return {
        name: Score(sum(p.count for p in parts), sum(p.equal for p in parts), [d for p in parts for d in p.differences])
        for name, parts in scores.items()
    }


def unexplained(scores: dict[str, Score]) -> list[str]:
    """The differences in captures of which nobody has said why."""
    return [text for score in scores.values() for text in score.differences if text.split()[0] not in EXPLAINED]


BEGIN, END = "<!-- measured: tools/flow_fidelity.py --write docs/fidelity.md -->", "<!-- end of flows -->"


def report(scores: dict[str, Score]) -> str:
    """The scores and the differences as Markdown."""
    lines = ["| compared with tshark's | directions or segments | equal |", "|---|---:|---:|"]
    lines += [f"| `{name}` | {score.count} | {score.equal} |" for name, score in scores.items()]
    differences = [text for score in scores.values() for text in score.differences]
    return "\n".join([*lines, "", *([f"- {text}" for text in differences] or ["Nothing differs."])])


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks of a Markdown file."""
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def main() -> int:
    """Print the scores and the differences; 1 where one is not explained, 2 where nothing can be compared."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from fidelity import captures, corpus

    parser = argparse.ArgumentParser(description="Compare our flows with tshark's conversations.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the result into this Markdown file")
    options = parser.parse_args()
    files = options.files or (captures(corpus()) if corpus().is_dir() else [])
    if not files:
        print(f"no captures in {corpus()}: set NODETAP_CORPUS", file=sys.stderr)
        return 2
    scores = measure(files)
    print(report(scores))
    if options.write:
        write(options.write, report(scores))
    return 1 if unexplained(scores) else 0


if __name__ == "__main__":
    sys.exit(main())
