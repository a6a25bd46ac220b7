"""Coverage-guided fuzzing of the parsers of `agent.l7`, each alone, with atheris.

    .bench/atheris/bin/python tools/fuzz_parsers.py [PARSER ...] [--seconds 600]

`make fuzz-parsers` installs atheris first. An input is the payloads of one connection: a byte that says which port is
the server's, then for each payload its side (the top bit) and length in two bytes, and its bytes. Seeds are the
corpus's connections and the conversations in the parsers' tests. What is asked of a parser is what its tests ask
(`tests/agent/l7_fuzz.py`): it never raises, answers in the contract's words, and keeps no more than its bounds; an
input may take 5 seconds.

An input that fails is left in .bench/fuzz/PARSER. Prints executions and how far coverage grew; exit status 1 where
something failed.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".bench" / "fuzz"
PORTS = {
    "amqp": 5672, "dhcp": 67, "dns": 53, "dns_tcp": 53, "dtls": 4433, "http1": 80, "http2": 50051, "kafka": 9092,
    "memcached": 11211, "mongodb": 27017, "mqtt": 1883, "mysql": 3306, "ntp": 123, "postgresql": 5432, "quic": 443,
    "redis": 6379, "ssh": 22, "tls": 443,
}  # fmt: skip
"""A port on which each parser expects its server."""
MOST = 8
"""Payloads of one connection that become a seed."""


def pack(turns: list[tuple[int, bytes]], server_first: bool) -> bytes:
    """An input of these payloads (side, bytes)."""
    parts = [bytes([server_first])]
    for side, payload in turns[:MOST]:
        parts.append((side << 15 | len(payload[:32767])).to_bytes(2, "big") + payload[:32767])
    return b"".join(parts)


def unpack(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The payloads of an input (side, bytes)."""
    at = 1
    while at + 2 <= len(data):
        word = int.from_bytes(data[at : at + 2], "big")
        payload = data[at + 2 : at + 2 + (word & 0x7FFF)]
        at += 2 + (word & 0x7FFF)
        if payload:
            yield word >> 15, payload


# -- the process that fuzzes one parser ----------------------------------------------------------------------------


def fuzz(name: str, arguments: list[str]) -> None:
    """Hand a parser to libFuzzer, which ends the process."""
    import atheris

    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "agent")]
    with atheris.instrument_imports(include=["agent.l7"]):
        parser = importlib.import_module(f"agent.l7.{name}").PARSER
    from l7_fuzz import well_formed

    from agent.l7 import PENDING, Conn

    ports = (40000, PORTS[name])

    def one(data: bytes) -> None:
        sport, dport = ports if data[:1] < b"\x80" else ports[::-1]
        conn = Conn()
        for side, payload in unpack(data):
            said = parser.feed(payload, side, *((sport, dport) if side == 0 else (dport, sport)), conn)
            assert max(map(len, conn.pending)) <= PENDING
            if said is not None:
                well_formed(said)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


# -- seeds ---------------------------------------------------------------------------------------------------------


def seeds(name: str, parser: Any, folder: Path) -> int:
    """Write the seeds of one parser; how many."""
    conversations = [*_of_corpus(parser), *_of_tests(name)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, turns in enumerate(conversations):
        (folder / f"seed{number}").write_bytes(pack(turns, False))
    return len(conversations)


def _of_corpus(parser: Any) -> Iterator[list[tuple[int, bytes]]]:
    """Connections of which the parser's probe takes a payload, as it comes."""
    from fidelity import captures, corpus
    from l7_payloads import claims, payloads

    for path in captures(corpus()) if corpus().is_dir() else []:
        connections: dict[Any, list[Any]] = {}
        for payload in payloads(path):
            if payload.transport in parser.transports and payload.data:
                connections.setdefault(payload.key(), []).append(payload)
        for found in connections.values():
            if any(claims(parser, one.data, one.sport, one.dport) for one in found[:3]):
                client = (found[0].src, found[0].sport)
                yield [(int((one.src, one.sport) != client), one.data) for one in found]


def _of_tests(name: str) -> Iterator[list[tuple[int, bytes]]]:
    module: Any = None
    try:
        module = importlib.import_module(f"test_l7_{name}")
    except ImportError:
        return
    for word in ("conversation", "text", "packets"):
        make = getattr(module, word, None)
        for arguments in ((), (4,), (5,)):
            try:
                yield [(int(not client), payload) for client, payload in make(*arguments)]
            except (TypeError, ValueError):
                continue


# -- all of them ---------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What fuzzing one parser came to."""

    seeds: int
    executions: int
    before: int
    after: int
    left: list[str]


def run(name: str, seconds: int) -> Result:
    """Fuzz one parser for so many seconds in a process of its own."""
    folder = WORK / name
    parser = importlib.import_module(f"agent.l7.{name}").PARSER
    count = seeds(name, parser, folder / "corpus")
    known = set(folder.iterdir())
    options = [f"-max_total_time={seconds}", "-timeout=5", "-max_len=8192", "-rss_limit_mb=1500"]
    options += ["-print_final_stats=1", f"-artifact_prefix={folder}/"]
    command = [sys.executable, __file__, "--one", name, str(folder / "corpus"), *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    grown = re.findall(r"\bcov: (\d+)", done.stderr.partition("INITED")[2]) or ["0"]  # its first is the seeds'
    executions = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    left = sorted(str(path) for path in set(folder.iterdir()) - known)
    if done.returncode and not left:
        left = [f"exit status {done.returncode}"]
    if done.returncode:
        (folder / "stderr").write_text(done.stdout + done.stderr)
    return Result(count, int(executions[1]) if executions else 0, int(grown[0]), int(grown[-1]), left)


def main() -> int:
    """Fuzz the parsers one after the other; 1 where something was found."""
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    options = argparse.ArgumentParser(description="Coverage-guided fuzzing of the L7 parsers.")
    options.add_argument("parsers", nargs="*", default=sorted(PORTS), metavar="PARSER")
    options.add_argument("--seconds", type=int, default=600, help="for all of them together")
    given = options.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "agent"), str(ROOT / "tools")]
    print("| parser | seeds | executions | coverage of the seeds | at the end | found |\n|---|---:|---:|---:|---:|---|")
    failed = False
    for name in given.parsers:
        one = run(name, max(1, given.seconds // len(given.parsers)))
        failed |= bool(one.left)
        found = ", ".join(one.left) or "nothing"
        print(f"| {name} | {one.seeds} | {one.executions} | {one.before} | {one.after} | {found} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
