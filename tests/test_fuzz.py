"""What `make fuzz` finds: a decoder that raises, one that reads outside its frames, one that dies; and nothing else."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import fuzz
import fuzz_frames

from agent.capture import Block
from agent.decode import handlers
from agent.decode.kinds import Kind
from agent.decode.walk import Walk

SEED = 7


@pytest.fixture(scope="module")
def seeds(corpus: Path) -> fuzz_frames.Seeds:
    return fuzz_frames.Seeds.read([corpus / "mixed-web-4600.pcap", corpus / "sll2-icmp-icmp6-arp.pcap"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rounds of few frames, finds in a folder of the test, layers read by numpy alone."""
    monkeypatch.setattr(fuzz, "FRAMES", 256)
    monkeypatch.setattr(fuzz, "FOUND", tmp_path)
    monkeypatch.setenv("NODETAP_KERNEL", "off")


def run(seeds: fuzz_frames.Seeds) -> tuple[int, list[Path]]:
    """The exit status of one round, and the captures it left."""
    _, status = fuzz.run(seeds, SEED, 1, 60.0, "off")
    return status, sorted(fuzz.FOUND.iterdir())


def break_arp(monkeypatch: pytest.MonkeyPatch, instead: Any) -> None:
    monkeypatch.setitem(handlers.HANDLERS, Kind.ARP, instead)


@pytest.mark.usefixtures("small")
def test_rounds_are_the_same_for_the_same_seed_and_fine(seeds: fuzz_frames.Seeds) -> None:
    one, other = (fuzz.blocks_of(seeds, SEED, 3) for _ in range(2))
    assert [block.data.tobytes() for block in one] == [block.data.tobytes() for block in other]
    assert run(seeds) == (0, [])


@pytest.mark.usefixtures("small")
def test_what_raises_is_found_and_made_small(seeds: fuzz_frames.Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    def arp(walk: Walk, rows: Any) -> None:
        raise ValueError("arp")

    break_arp(monkeypatch, arp)
    status, (found,) = run(seeds)
    assert status == 1
    assert len(fuzz_frames.Seeds.read([found]).offset) == 1


@pytest.mark.usefixtures("small")
def test_reading_outside_a_frame_is_found(seeds: fuzz_frames.Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    def tcp(walk: Walk, rows: Any) -> None:
        past = walk.cap[rows]
        inside = past < len(walk.data)
        walk.put("tcp_window", rows[inside], walk.data[past[inside]])

    monkeypatch.setitem(handlers.HANDLERS, Kind.TCP, tcp)
    status, found = run(seeds)
    assert (status, len(found)) == (1, 1)


@pytest.mark.usefixtures("small")
def test_a_killed_process_is_found(seeds: fuzz_frames.Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    break_arp(monkeypatch, lambda walk, rows: signal.raise_signal(signal.SIGKILL))
    status, (found,) = run(seeds)
    assert status == 128 + signal.SIGKILL
    assert "killed" in found.name


def test_gaps_are_what_no_frame_holds(seeds: fuzz_frames.Seeds) -> None:
    block: Block = fuzz.blocks_of(seeds, SEED, 0)[0]
    assert int(fuzz_frames.gaps(block).sum()) == len(block.data) - int(block.cap_len.sum())
