#!/usr/bin/env python3
"""Measure how nodetap scales: many agents at one hub, what storing costs, questions to a hundred million packets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.agents import agents_table, bench_agents  # noqa: E402
from bench.curve import bench_curve, curve_table  # noqa: E402
from bench.hundred import bench_hundred, hundred_table  # noqa: E402
from bench.table import machine, write_page  # noqa: E402

PAGE = ROOT / "docs" / "scale.md"
STAGES: dict[str, tuple[Callable[[Path, bool], Any], Callable[[Any], str]]] = {
    "agents": (bench_agents, agents_table),
    "ingest": (bench_curve, curve_table),
    "store100m": (bench_hundred, hundred_table),
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path, metavar="CAPTURE", help="classic pcap, of bench/make_pcap.py")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="may be repeated; default: all")
    parser.add_argument("--quick", action="store_true", help="small forms, to try: their figures say nothing")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, remember in scale.json beside the capture, write where asked."""
    given = arguments()
    kept = given.capture.parent / ("scale-quick.json" if given.quick else "scale.json")
    for name in given.stage or list(STAGES):
        measure, table = STAGES[name]
        figures = json.loads(kept.read_text()) if kept.exists() else {}
        figures[name] = {"machine": machine(), "figures": measure(given.capture, given.quick)}
        kept.write_text(json.dumps(figures, indent=1))
        text = f"{machine()}\n\n{table(figures[name]['figures'])}"
        print(f"{name}: {text}\n", flush=True)
        if given.write:
            write_page(text, (f"<!-- {name}: begin -->", f"<!-- {name}: end -->"), PAGE)


if __name__ == "__main__":
    main()
