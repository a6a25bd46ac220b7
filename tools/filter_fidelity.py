"""Which frames a filter finds, ours beside tshark's: every filter over every capture of the corpus.

    python -m tools.filter_fidelity [FILE|FOLDER ...] [--filter TEXT ...] [--random N] [--seed N] [--write FILE]

Filters are the lines of `tools/filters.txt`, and random ones of the fields and the values that the captures hold.
tshark runs once per capture: a Lua script hangs a tap with a display filter on every one, which is the engine of `-Y`;
its answers are kept in `.bench/filters`. Ours are the numpy predicate's (`tests/hub/test_filter.py` holds the store to
the same). Both read each segment on its own, with the oracle's preferences; `--reassembly` lets both put segments
together, where tshark shows a message in its last frame and we in its first. Exit status 1 where a difference is not
explained (`REASONS`), 2 where nothing can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.assemble import engine_of
from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.l7.engine import Engine
from agent.l7.registry import parsers
from agent.show import FIELDS, Ndjson
from protocol.columns import Columns
from protocol.filter.errors import FilterError
from protocol.filter.grammar import parse
from protocol.filter.names import fields_named, kind_of
from protocol.filter.predicate import Predicate
from protocol.schema import EITHER
from tools.fidelity import ROOT, captures, corpus, oracle
from tools.l7_fidelity import DECODE_AS, SENT_AGAIN

CACHE = ROOT / ".bench" / "filters"
LIST = Path(__file__).with_name("filters.txt")
Frames = frozenset[int]

TAPS = """
local taps = {}
for line in io.lines(os.getenv("NODETAP_FILTERS")) do
  local frames = {}
  local ok, tap = pcall(Listener.new, "frame", line)
  if ok then
    tap.packet = function(pinfo) frames[#frames + 1] = pinfo.number end
    taps[#taps + 1] = {frames = frames, tap = tap}
  else
    taps[#taps + 1] = {error = tap}
  end
end
taps[1].tap.draw = function()
  local out = io.open(os.getenv("NODETAP_ANSWERS"), "w")
  for _, each in ipairs(taps) do
    out:write(each.error and "!" .. each.error:gsub("%s+", " ") or table.concat(each.frames, " "), "\\n")
  end
  out:close()
end
"""
"""Answers: one line a filter, in order, with the numbers of its frames, or "!" and why tshark refuses it."""


def preferences() -> list[str]:
    """The oracle's preferences for frames that are read on their own."""
    text = oracle().read_text()
    block = re.search(r"if \[ \$mode = no \]; then\s*prefs\+=\((.*?)\)\s*else", text, re.DOTALL)
    assert block is not None
    return ["ip.tso_support:TRUE", "ipv6.tso_support:TRUE", "tcp.analyze_sequence_numbers:TRUE", *block[1].split()]


def refusals(filters: list[str]) -> dict[str, str]:
    """The filters that tshark's engine does not take, and why: sharkd is asked, which has the same."""
    asked = [{"jsonrpc": "2.0", "id": n, "method": "check", "params": {"filter": f}} for n, f in enumerate(filters, 1)]
    text = "".join(json.dumps(each) + "\n" for each in asked)
    run = subprocess.run(["sharkd", "-"], input=text, capture_output=True, text=True, check=False, timeout=60)
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {filters[each["id"] - 1]: each["error"]["message"] for each in answers if "error" in each}


def theirs(path: Path, filters: list[str], whole: bool) -> list[Frames | str]:
    """What tshark says of each filter: the frames, or why it refuses."""
    told = [] if whole else [*preferences(), SENT_AGAIN]
    options = [word for each in told for word in ("-o", each)]
    options += ["-d", DECODE_AS[path.name]] if path.name in DECODE_AS else []
    key = hashlib.sha256("\n".join([*options, *filters, TAPS]).encode() + path.read_bytes()).hexdigest()
    kept = CACHE / f"{path.name}-{key[:16]}.txt"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _tapped(path, ["frame", *filters], options, kept)
    lines = kept.read_text().splitlines()[1:]
    return [line[1:] if line.startswith("!") else frozenset(map(int, line.split())) for line in lines]


def _tapped(path: Path, filters: list[str], options: list[str], answers: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script, lines = Path(folder, "taps.lua"), Path(folder, "asked.txt")  # "filters" would be its own
        script.write_text(TAPS)
        lines.write_text("\n".join(filters))
        home = {
            "HOME": folder,
            "WIRESHARK_CONFIG_DIR": folder,
            "XDG_CONFIG_HOME": folder,
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        }
        more = {"NODETAP_FILTERS": str(lines), "NODETAP_ANSWERS": str(answers) + ".new"}
        command = ["tshark", "-n", "-q", "-X", f"lua_script:{script}", "-r", str(path), *options]
        run = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | home | more, check=False, timeout=120
        )
        if run.returncode not in (0, 2):
            raise SystemExit(run.stderr)
    Path(str(answers) + ".new").rename(answers)


# -- ours ----------------------------------------------------------------------------------------------------------


class Capture(NamedTuple):
    """One capture as we read it: its columns, piece by piece, and its rows as JSON."""

    path: Path
    pieces: list[Columns]
    rows: list[dict[str, Any]]


def read(path: Path, whole: bool) -> Capture:
    """Decode a capture."""
    source, frames = FileSource([path]), 0
    engine: Any = engine_of("fast", True, live=False) if whole else Engine(parsers(), keep_query=True, reassemble=False)
    source.open()
    decoder, lines = Decoder(source.interfaces), Ndjson(list(FIELDS.values())).lines
    pieces, rows = [], []
    while not source.done:
        if (block := source.next_block(0)) is not None:
            columns, payloads = decoder.with_payloads(block, frames + 1)
            engine.add(columns, payloads)
            frames += len(block)
            pieces.append(columns)
            rows += [json.loads(line) for line in lines(columns).splitlines()]
    source.close()
    return Capture(path, pieces, rows)


def ours(capture: Capture, text: str) -> Frames | str:
    """The frames that a filter finds, or why it is refused."""
    try:
        node = parse(text, "packets")
    except FilterError as error:
        return str(error)
    assert node is not None
    predicate, found = Predicate(node, "packets"), set()
    for columns in capture.pieces:
        numbers: Any = columns["frame_number"]
        mask = predicate.matches(columns, {"agent": "node", "epoch": 1})
        found.update(np.asarray(numbers)[mask].tolist())
    return frozenset(found)


# -- random filters ------------------------------------------------------------------------------------------------


NOT_THEIRS = ("nodetap.", "tunnel", "grpc.status_code", "tls.handshake.ja4", "tls.handshake.ciphersuite", "k8s.")
"""Names that tshark does not know, or that mean less with us."""
_ORDERS = ("==", "!=", "<", ">", "<=", ">=", "===", "!==")


def seen(captured: Iterable[Capture]) -> dict[str, list[Any]]:
    """The values that the captures hold, by field."""
    found: dict[str, Counter[Any]] = defaultdict(Counter)
    for capture in captured:
        for row in capture.rows:
            for name, value in row.items():
                if not name.startswith(NOT_THEIRS) and not isinstance(value, dict):
                    found[name].update(value if isinstance(value, list) else [value])
    for name, (one, other) in EITHER.items():
        found[name] = found[one] + found[other]
    return {name: list(values) for name, values in sorted(found.items()) if values}


class Maker:
    """Random filters of fields and values that were seen."""

    def __init__(self, values: dict[str, list[Any]], seed: int) -> None:
        self.values = values
        self.dice = random.Random(seed)

    def filter(self, depth: int = 2) -> str:
        """Tests, put together by and, or, not."""
        if depth == 0 or self.dice.random() < 0.3:
            return self.test()
        left, right = self.filter(depth - 1), self.filter(depth - 1)
        form = self.dice.choice(("{} and {}", "{} or {}", "{} && ({})", "({}) || {}", "not {}", "!({})", "{} && !({})"))
        return form.format(left, right)

    def test(self) -> str:
        """One test of one field."""
        name = self.dice.choice(list(self.values))
        kind = kind_of(fields_named(name, "packets")[0])
        roll = self.dice.random()
        if roll < 0.1:
            return name
        if roll < 0.25:
            return f"{name} {self.dice.choice(('in', 'in', 'not in'))} {{{', '.join(self._items(name, kind))}}}"
        if roll < 0.6 and (made := self._special(name, kind)):
            return made
        word = self.dice.choice(("", "", "", "any ", "all "))
        return f"{word}{name} {self.dice.choice(_ORDERS)} {self._value(name, kind)}"

    def _items(self, name: str, kind: str) -> Iterator[str]:
        for _ in range(self.dice.randint(1, 3)):
            low, high = self._value(name, kind), self._value(name, kind)
            if kind == "uint" and int(low) < int(high):
                yield f"{low} .. {high}"
            else:
                yield low

    def _special(self, name: str, kind: str) -> str:
        """What only values of this kind know."""
        text = str(self.dice.choice(self.values[name]))
        if kind == "text" and len(text) > 4 and text.isascii():
            at = self.dice.randrange(len(text) - 3)
            part = re.sub(r'["\\\\]', "x", text[at : at + 3])
            forms = (f'{name} contains "{part}"', f'{name} matches "{re.escape(part).replace(chr(92), chr(92) * 2)}"')
            more = (
                f'{name}[{at}:3] == "{part}"',
                f"len({name}) > {len(text)}",
                f'lower({name}) contains "{part.lower()}"',
            )
            return self.dice.choice((*forms, *more, f'upper({name}) contains "{part.upper()}"'))
        if kind == "mac":
            return f"{name}[0:3] {self.dice.choice(('==', '!='))} {text[:8]}"
        if kind == "ip":
            return f"{name} {self.dice.choice(_ORDERS)} {text}/{self.dice.choice((8, 16, 20, 24, 31))}"
        if kind == "uint":
            bit = 1 << self.dice.randrange(8)
            return self.dice.choice((f"{name} & {bit}", f"{name} & {bit} == {bit}", f"count({name}) == {bit % 4 + 1}"))
        return ""

    def _value(self, name: str, kind: str) -> str:
        value = self.dice.choice(self.values[name])
        if kind == "text":
            return '"' + re.sub(r'["\\\\]|[^ -~]', "x", value) + '"'
        if kind == "uint" and self.dice.random() < 0.2:
            return str(max(value - 1, 0))
        return str(value)


# -- comparing -----------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """One filter over one capture, the frames that only one side finds, and why; None is unexplained."""

    text: str
    file: str
    ours: Frames
    theirs: Frames
    reasons: dict[int, str | None]


LAYERS = "layers"
SEGMENT = "segment"
REASONS = {
    LAYERS: "tshark asks every layer: the outer ones of a tunnel and the packet quoted in an ICMP error too; our "
    "fields are the innermost packet's (`tunnel.*` are the outermost's)",
    SEGMENT: "`http`, `tls`, `ssh` alone: tshark also means segments amid a message, by port or connection; "
    "ours is where a message or record begins",
    "content": "we go by content, tshark by port and by what it saw before in the connection",
    "malformed": "`_ws.malformed`: ours is set for headers up to TCP and UDP, tshark's for any dissector",
    "vlan": "`vlan.id` has all tags; tshark's has those of 802.1Q alone, `ieee8021ad.id` the others",
    "rarp": "tshark reads RARP as ARP",
    "header": "an IPv4 header of a wrong length has no fields, and is no `ip` to us (`nodetap.malformed`)",
    "vxlan_arp": "ARP in a tunnel: the addresses of the row are those of the packet that carries it",
    "request": "tshark has `http.request` for methods and answers that it knows",
    "nul": "the value has a NUL byte; tshark shows what is before it",
    "quic": "a hello over several QUIC packets: tshark shows it with reassembly only",
    "server_hello": "tshark takes the words for SSLv2's number 4",
}
"""Why a frame is found by one side only."""

_BARE = re.compile(r"(?<![\w.])(http2?|tls|ssh|quic|dtls|pgsql|grpc|amqp|resp|kafka|mysql|mqtt)(?![\w.])")
KNOWN = (
    (re.compile("sll2-"), re.compile(r"\barp\b"), "rarp"),
    (re.compile("8021ad|qinq"), re.compile(r"vlan"), "vlan"),
    (re.compile("fuzzed-"), re.compile(r"\bip\b|\bip\."), "header"),
    (re.compile("fuzzed-"), re.compile(r"http\.(host|request\.uri|user_agent)"), "nul"),
    (re.compile("fuzzed-|mixed-web"), re.compile(r"http\.(request|response)\b"), "request"),
    (re.compile("quic-crypto"), re.compile(r"tls\."), "quic"),
    (re.compile("http2"), re.compile(r"http2"), "content"),
    (re.compile("mixed-web|fuzzed"), re.compile(r"http\."), "request"),
    (re.compile("."), re.compile('"Server Hello"'), "server_hello"),
    (re.compile("."), re.compile("_ws.malformed"), "malformed"),
)
"""Captures, filters, and the reason of a difference between the two."""


def reason(text: str, file: str, protocols: str) -> str | None:
    """Why a frame of those protocols differs, a key of `REASONS`."""
    layers = Counter(protocols.split(":"))
    if layers["ip"] + layers["ipv6"] > 1 or layers["eth"] > 1:
        return LAYERS
    found = next((why for where, what, why in KNOWN if where.search(file) and what.search(text)), None)
    return found or (SEGMENT if _BARE.search(text) else None)


def layers_of(path: Path) -> list[str]:
    """`frame.protocols` of every frame."""
    run = subprocess.run(
        [str(oracle()), "--inner", str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    rows = run.stdout.splitlines()
    column = rows[0].split("\t").index("frame.protocols")
    return [row.split("\t")[column] for row in rows[1:]]


def compare(capture: Capture, filters: list[str], whole: bool) -> Iterator[Pair]:
    """Every filter over a capture."""
    layers: list[str] = []
    for text, told in zip(filters, theirs(capture.path, filters, whole), strict=True):
        mine = ours(capture, text)
        if isinstance(mine, str) or isinstance(told, str):
            raise SystemExit(f"{text!r} is refused: {mine if isinstance(mine, str) else told}")
        if mine != told:
            layers = layers or layers_of(capture.path)
        why = {frame: reason(text, capture.path.name, layers[frame - 1]) for frame in mine ^ told}
        yield Pair(text, capture.path.name, mine, told, why)


# -- report --------------------------------------------------------------------------------------------------------


def table(filters: Iterable[str], pairs: Iterable[Pair]) -> list[str]:
    """Each filter: captures with matches, frames, frames that one side alone finds and why."""
    by_filter: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_filter[pair.text].append(pair)
    lines = [
        "| filter | captures | ours | tshark | only ours | only tshark's | why |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for text in filters:
        found = by_filter[text]
        captures_with = sum(bool(pair.ours or pair.theirs) for pair in found)
        sizes = [sum(len(each(pair)) for pair in found) for each in _COUNTS]
        why = sorted({_why(each) for pair in found for each in pair.reasons.values()})
        code = text.replace("|", "\\|")
        lines.append(f"| `{code}` | {captures_with} | {' | '.join(map(str, sizes))} | {', '.join(why)} |")
    return lines


_COUNTS = (
    lambda pair: pair.ours,
    lambda pair: pair.theirs,
    lambda pair: pair.ours - pair.theirs,
    lambda pair: pair.theirs - pair.ours,
)


def _why(key: str | None) -> str:
    return key or "**not explained**"


def summary(title: str, filters: list[str], pairs: list[Pair]) -> str:
    """One line of figures."""
    equal = sum(pair.ours == pair.theirs for pair in pairs)
    unknown = sum(None in pair.reasons.values() for pair in pairs)
    frames, captures_ = sum(len(pair.theirs) for pair in pairs), len({pair.file for pair in pairs})
    return (
        f"{title}: {len(filters)} filters over {captures_} captures, {len(pairs)} answers with {frames} frames of "
        f"tshark's. {equal} are equal, {len(pairs) - equal - unknown} differ for a known reason, {unknown} are not "
        "explained."
    )


BEGIN, END = "<!-- measured: python -m tools.filter_fidelity --write docs/fidelity-filters.md -->", "<!-- end -->"


def put(path: Path, text: str) -> None:
    """Replace what stands between the marks of a Markdown file."""
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def listed() -> list[str]:
    """The filters of the list."""
    return [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]


def made(captured: list[Capture], count: int, seed: int) -> list[str]:
    """Random filters that both sides take."""
    maker = Maker(seen(captured), seed)
    drawn = [text for text in dict.fromkeys(maker.filter() for _ in range(count)) if text not in listed()]
    refused = refusals(drawn)
    return [text for text in drawn if text not in refused and not isinstance(ours(captured[0], text), str)]


def main() -> int:
    """Print the figures; 1 where a difference is not explained, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(description="Compare the frames that filters find with tshark's.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--random", type=int, default=600, metavar="N", help="random filters beside the list")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--filter", action="append", metavar="TEXT", help="these filters instead of the list")
    parser.add_argument("--reassembly", action="store_true", help="let both put segments together")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the result into this Markdown file")
    options = parser.parse_args()
    files = [f for path in options.paths or [corpus()] for f in (captures(path) if path.is_dir() else [path])]
    if not files or not all(map(Path.is_file, files)) or not oracle().is_file():
        print("no captures or no oracle: set NODETAP_CORPUS and NODETAP_ORACLE", file=sys.stderr)
        return 2
    captured = [read(path, options.reassembly) for path in files]
    filters = options.filter or listed()
    drawn = [] if options.filter else made(captured, options.random, options.seed)
    pairs = [pair for each in captured for pair in compare(each, [*filters, *drawn], options.reassembly)]
    text = report(filters, drawn, pairs)
    print(text)
    if options.write:
        put(options.write, text)
    return 1 if any(None in pair.reasons.values() for pair in pairs) else 0


def report(filters: list[str], drawn: list[str], pairs: list[Pair]) -> str:
    """Everything as Markdown."""
    known = set(filters)
    mine = [pair for pair in pairs if pair.text in known]
    random_ones = [pair for pair in pairs if pair.text not in known]
    lines = [summary("The list", filters, mine), ""]
    if drawn:
        lines += [summary("Random ones", drawn, random_ones), ""]
    used = Counter(_why(why) for pair in pairs for why in pair.reasons.values())
    lines += ["| why | answers' frames | what it is |", "|---|---:|---|"]
    lines += [f"| {why} | {count} | {REASONS.get(why, '')} |" for why, count in used.most_common()]
    open_ = [pair for pair in pairs if None in pair.reasons.values()]
    lines += [
        f"- {p.file}: `{p.text}`: ours {sorted(p.ours - p.theirs)[:9]}, tshark {sorted(p.theirs - p.ours)[:9]}"
        for p in open_
    ]
    return "\n".join([*lines, "", *table(filters, mine)])


if __name__ == "__main__":
    sys.exit(main())
