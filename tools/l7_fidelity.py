"""How many cells of the application protocols equal tshark's, which has reassembly off.

    python -m tools.l7_fidelity [FILE|FOLDER ...] [--write docs/fidelity-l7.md]

Compared in two ways (`WAYS`): parser with parser, both reading each TCP segment on its own; and what `nodetap-agent
decode --l7 fast --url-query keep` prints, which puts messages together and reads once what was sent again. Every column
of the oracle's header that is a DNS, TLS, QUIC, HTTP or SSH field is compared in every frame. A cell counts where
either side has a value, and is equal where both have the same values in the same order. Captures are found as
`tools/fidelity.py` finds them. Exit status 1 where a group misses its target, or where a difference is not explained; 2
where nothing can be compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.l7.engine import Engine
from agent.l7.registry import parsers
from agent.show import FIELDS, Ndjson
from tools.fidelity import ROOT, Score, captures, corpus, oracle, total

TARGET = 0.99
GROUPS = {
    "DNS": ("dns.",),
    "TLS": ("tls.", "dtls.", "quic."),
    "HTTP": ("http.", "http2."),
    "SSH": ("ssh.",),
}
"""Groups by the beginnings of their columns' names."""

DECODE_AS = {"null-grpc-server-streaming.pcapng": "tcp.port==50051,http2"}
"""What tshark has to be told of a capture: it goes by ports where we go by content."""

AGAIN = "sent again, and read the first time; tshark reads fast and spurious retransmissions twice, others once"

EXPLAINED: dict[tuple[str, tuple[int, ...]], tuple[str, str]] = {
    ("fuzzed-bigendian-http.pcap", (19, 107)): ("ours", "the value has a NUL byte; tshark shows what is before it"),
    ("fuzzed-bigendian-http.pcap", (113,)): ("either", "the status line ends in a damaged byte, in place of its LF"),
    ("tcp-retransmissions-http.pcap", (30, 42, 69, 70, 86, 89, 90)): ("ours", AGAIN),
    ("tunnel-pppoe-over-qinq-tls.pcap", (25, 39, 52, 55, 73)): ("ours", AGAIN),
    ("null-http2-h2c-continuation.pcap", (18,)): (
        "tshark",
        "where a frame begins is known from the segment before; read with it, as `decode` does, we say the same",
    ),
    ("tunnel-gre.pcap", (34, 36)): ("ours", "a query quoted in an ICMP error is no query; rows describe what was sent"),
}
"""Frames with differences that tshark's reassembly does not account for: who is right, and why."""

OPTIONS = ("-o", "ndjson", "--l7", "fast", "--url-query", "keep", "--fields")

Row = dict[str, list[str]]
"""The values of a frame by column; no key without a value."""


class Way(NamedTuple):
    """A way of comparing."""

    title: str
    ours: Callable[[Path, list[str]], Iterator[Row]]
    preferences: tuple[str, ...]
    """What tshark is told beyond the oracle's preferences."""


class Cell(NamedTuple):
    """A cell that differs: `whole` where tshark says the same as we do once it puts segments together."""

    file: str
    frame: int
    column: str
    ours: list[str]
    theirs: list[str]
    whole: bool = False


def columns() -> list[str]:
    """The columns of the oracle's header that are compared."""
    header = subprocess.run([str(oracle()), "--header"], capture_output=True, text=True, check=True).stdout
    starts = tuple(start for group in GROUPS.values() for start in group)
    return [name for name in header.split() if name.startswith(starts)]


def group_of(column: str) -> str:
    """The group that a column belongs to."""
    return next(name for name, starts in GROUPS.items() if column.startswith(starts))


def _number(value: str) -> str:
    return str(int(value, 16)) if value.startswith("0x") else value


def theirs(path: Path, names: list[str], *modes: str, preferences: Iterable[str] = ()) -> Iterator[Row]:
    """tshark's rows; numbers in decimal. `modes` are options of the oracle."""
    more = [word for preference in preferences for word in ("-o", preference)]
    more += ["-d", DECODE_AS[path.name]] if path.name in DECODE_AS else []
    run = subprocess.run([str(oracle()), *modes, str(path), "--", *more], capture_output=True, text=True, check=False)
    for row in csv.DictReader(run.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        yield {name: [_number(v) for v in row[name].split("|")] for name in names if row.get(name)}


def printed(path: Path, names: list[str]) -> Iterator[Row]:
    """Our rows, as the program prints them."""
    command = [sys.executable, "-c", "from agent.cli import main; main()", "decode", str(path.resolve()), *OPTIONS]
    run = subprocess.run([*command, ",".join(names)], capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode > 1 or (run.returncode and not run.stdout):
        raise SystemExit(run.stderr)
    yield from _rows(run.stdout)


def alone(path: Path, names: list[str]) -> Iterator[Row]:
    """Our rows, each TCP segment read on its own."""
    source, engine = FileSource([path]), Engine(parsers(), keep_query=True, reassemble=False)
    source.open()
    decoder, lines, frames = Decoder(source.interfaces), Ndjson([FIELDS[name] for name in names]).lines, 0
    while not source.done:
        if (block := source.next_block(0)) is not None:
            columns, payloads = decoder.with_payloads(block, frames + 1)
            engine.add(columns, payloads)
            frames += len(block)
            yield from _rows(lines(columns))
    source.close()


SENT_AGAIN = "tcp.no_subdissector_on_error:FALSE"
"""Read segments that were sent again, as all others."""
IN_ORDER = "quic.reassemble_crypto_out_of_order:TRUE"
"""Put the CRYPTO frames of a QUIC hello together by their offsets; else tshark does so in the order they came in."""

WAYS = (
    Way("Parser with parser: each segment on its own", alone, (SENT_AGAIN, IN_ORDER)),
    Way("As it runs: messages put together, what was sent again read once", printed, ()),
)


def _rows(lines: str) -> Iterator[Row]:
    for line in lines.splitlines():
        yield {name: list(map(_escaped, values)) for name, values in json.loads(line).items()}


def _escaped(value: object) -> str:
    """A value as the oracle writes it."""
    return str(value).replace("|", "\\x7c")


def compare(path: Path, names: list[str], way: Way) -> Iterator[tuple[str, bool, Cell]]:
    """Every cell that counts: its column, whether it is equal, the cell."""
    both = way.ours(path, names), theirs(path, names, preferences=way.preferences)
    rows = list(zip_longest(*both, fillvalue={}))
    whole: list[Row] = []
    if any(a != b for a, b in rows):
        whole = list(theirs(path, names, "--reassembly"))
    for frame, (a, b) in enumerate(rows, 1):
        for name in names:
            left, right = a.get(name, []), b.get(name, [])
            if any(left) or any(right):  # of empty ones the oracle shows nothing
                same = bool(left) and frame <= len(whole) and whole[frame - 1].get(name) == left
                yield name, left == right, Cell(path.name, frame, name, left, right, same)


class Result(NamedTuple):
    """Scores by column, and the cells that differ."""

    way: Way
    scores: dict[str, Score]
    differences: list[Cell]
    files: int

    @property
    def groups(self) -> dict[str, Score]:
        """The sums of the groups."""
        return {
            group: total({name: score for name, score in self.scores.items() if group_of(name) == group})
            for group in GROUPS
        }

    def met(self) -> bool:
        """Whether every difference is explained and, parser with parser, every group meets its target."""
        enough = all(score.share >= TARGET for score in self.groups.values())
        return (enough or self.way is not WAYS[0]) and all(explained(cell) != ("", "") for cell in self.differences)


def measure(paths: Iterable[Path], way: Way) -> Result:
    """Compare every cell of the captures."""
    names = columns()
    counts: dict[str, list[int]] = {name: [0, 0] for name in names}
    differences, files = [], 0
    for path in paths:
        files += 1
        for name, equal, cell in compare(path, names, way):
            counts[name][0] += 1
            counts[name][1] += equal
            if not equal:
                differences.append(cell)
    return Result(way, {name: Score(*count) for name, count in counts.items()}, differences, files)


def table(result: Result) -> list[str]:
    """The shares per column and group, as a Markdown table."""
    lines = ["| column | cells | equal | share |", "|---|---:|---:|---:|"]
    for group, score in result.groups.items():
        for name, column in result.scores.items():
            if group_of(name) == group and column.cells:
                lines.append(f"| {name} | {column.cells} | {column.equal} | {column.share:.2%} |")
        lines.append(f"| **{group}** | **{score.cells}** | **{score.equal}** | **{score.share:.2%}** |")
    return lines


def _said(values: list[str]) -> str:
    text = ", ".join(values)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`" if values else "-"


def explained(cell: Cell) -> tuple[str, str]:
    """Who is right about a cell, and why; empty where nobody has said it."""
    if cell.whole:
        return "both", "tshark says the same in this frame with reassembly on"
    found = (told for (file, frames), told in EXPLAINED.items() if file == cell.file and cell.frame in frames)
    return next(found, ("", ""))


def listed(differences: list[Cell]) -> list[str]:
    """The differences, as a Markdown table: one line for frames of a capture that differ alike."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in differences:
        groups[cell.file, cell.column, _said(cell.ours), _said(cell.theirs), *explained(cell)].append(cell)
    lines = ["| capture | frames | column | ours | tshark | who is right | why |", "|---|---|---|---|---|---|---|"]
    for (file, column, left, right, who, why), cells in groups.items():
        frames = ", ".join(str(cell.frame) for cell in cells)
        lines.append(f"| `{file}` | {frames} | {column} | {left} | {right} | {who} | {why or '**not explained**'} |")
    return lines


def report(result: Result) -> str:
    """Shares and differences as Markdown."""
    known = sum(explained(cell) != ("", "") for cell in result.differences)
    count = f"{result.files} captures, {total(result.scores).cells} cells, {len(result.differences)} differ"
    count += f", of which {known} are explained." if result.differences else "."
    lines = [f"### {result.way.title}", "", count, "", *table(result)]
    return "\n".join([*lines, *(["", *listed(result.differences)] if result.differences else [])])


BEGIN, END = "<!-- measured: python -m tools.l7_fidelity --write docs/fidelity-l7.md -->", "<!-- end -->"


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks of a Markdown file."""
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def main() -> int:
    """Print shares and differences; 1 where a group misses its target, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(description="Compare our application fields with tshark's, cell by cell.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the result into this Markdown file")
    options = parser.parse_args()
    paths = options.paths or [corpus()]
    files = [file for path in paths for file in (captures(path) if path.is_dir() else [path])]
    if not files or not all(file.is_file() for file in files):
        print(f"no captures in {', '.join(map(str, paths))}: set NODETAP_CORPUS", file=sys.stderr)
        return 2
    if not oracle().is_file():
        print(f"no oracle at {oracle()}: set NODETAP_ORACLE", file=sys.stderr)
        return 2
    results = [measure(files, way) for way in WAYS]
    text = "\n\n".join(map(report, results))
    print(text)
    if options.write:
        write(options.write, text)
    return 0 if all(result.met() for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
