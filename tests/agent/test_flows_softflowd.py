"""Our totals per direction are softflowd's, on captures that nobody here made."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import softflowd_fidelity as tool


@pytest.mark.skipif(shutil.which("softflowd") is None, reason="softflowd is not installed (apt-get install softflowd)")
def test_packets_and_bytes_are_softflowds(corpus: Path) -> None:
    paths = sorted(path for path in corpus.iterdir() if path.suffix in (".pcap", ".pcapng"))
    compared = {path.name: result for path in paths if (result := tool.compare(path)) is not None}
    assert sum(count for count, _ in compared.values()) > 500
    assert {name for name, (_, differ) in compared.items() if differ} <= set(tool.EXPLAINED)
