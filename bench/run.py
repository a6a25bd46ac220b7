#!/usr/bin/env python3
"""Measure nodetap on this machine, beside its peers: one run, one table."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.capture import Capture  # noqa: E402
from bench.decode import bench_decode  # noqa: E402
from bench.end_to_end import BIN, bench_end_to_end, seconds  # noqa: E402
from bench.questions import bench_questions  # noqa: E402
from bench.table import Figure, machine, table, write_page  # noqa: E402
from bench.wire import bench_wire  # noqa: E402

MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")
BENCHES: dict[str, Callable[[Capture, int], list[Figure]]] = {
    "decode": bench_decode,
    "wire": lambda capture, rounds: bench_wire(capture),
    "end-to-end": lambda capture, rounds: bench_end_to_end(capture),
    "questions": lambda capture, rounds: bench_questions(capture),
    "help": lambda capture, rounds: bench_help(),
}


def bench_help() -> list[Figure]:
    """Wall time of `nodetap --help`, median of 9."""
    median = statistics.median(seconds([BIN / "nodetap", "--help"]) for _ in range(9))
    return [Figure("nodetap --help, seconds", f"{median:.3f}", "< 0.3", median < 0.3)]


def chosen(text: str) -> list[str]:
    """Names of benches, by comma. Raises ArgumentTypeError."""
    names = text.split(",")
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    return names


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description="Measure nodetap on this machine, beside its peers: one run, one table. Exits 1 where a target is "
        "missed. Peers that are not installed are left out, and the table says so."
    )
    parser.add_argument("capture", type=Path, metavar="CAPTURE", help="classic pcap, of bench/make_pcap.py")
    parser.add_argument(
        "--only", type=chosen, default=list(BENCHES), metavar="A,B", help=f"of {', '.join(BENCHES)}; default: all"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often each decoder runs, in turn; default: 5"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write where asked; 1 where a target is missed."""
    given = arguments()
    capture = Capture(given.capture)
    figures = [figure for name in given.only for figure in BENCHES[name](capture, given.rounds)]
    text = (
        f"{machine()}, `{capture.path.name}` ({capture.frames:,} frames), medians of {given.rounds}\n\n{table(figures)}"
    )
    print(text)
    if given.write:
        write_page(text, MARKS)
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
