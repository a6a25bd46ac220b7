"""Other people's captures, and stacks of our own: cell by cell what tshark says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from decode_frames import stacks

from tools import fidelity


def test_the_corpus_meets_its_targets(corpus: Path, tshark: str):
    if not fidelity.oracle().is_file():
        pytest.skip(f"no oracle in {fidelity.oracle()} (set NODETAP_ORACLE)")
    result = fidelity.measure(fidelity.captures(corpus))
    assert result.frames > 0
    assert fidelity.total(result.plain).share >= fidelity.TARGET_PLAIN
    assert fidelity.total(result.all).share >= fidelity.TARGET_ALL


def test_every_stack_is_tsharks(tmp_path: Path, tshark: str):
    if not fidelity.oracle().is_file():
        pytest.skip(f"no oracle in {fidelity.oracle()} (set NODETAP_ORACLE)")
    names, path = list(stacks()), tmp_path / "stacks.pcap"
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for frame in stacks().values():
            file.write(struct.pack("<IIII", 1, 0, len(frame), len(frame)) + frame)
    result = fidelity.measure([path])
    assert result.frames == len(names)
    assert [(names[cell.frame - 1], cell) for cell in result.differences] == []
