"""Our flows add up as tshark's conversations do, on captures that nobody here made."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("flow_fidelity", ROOT / "tools" / "flow_fidelity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flow_fidelity"] = module
    spec.loader.exec_module(module)
    return module


def test_totals_and_retransmissions_are_tsharks(corpus: Path, tshark: str, tool: Any) -> None:
    paths = sorted(p for p in corpus.iterdir() if p.suffix in (".pcap", ".pcapng"))
    scores = tool.measure(paths)
    texts = [text for score in scores.values() for text in score.differences]
    assert tool.unexplained(scores) == []
    assert len(texts) <= 8
    assert min(score.count for score in scores.values()) > 0


def test_sizes_are_printed_as_tshark_prints_them(tool: Any) -> None:
    assert [tool.size(n) for n in (0, 9999, 10_000, 3_322_999, 10_000_000)] == [
        *("0 bytes", "9999 bytes"),
        *("10 kB", "3322 kB", "10 MB"),
    ]
