"""Which parsers are asked about a payload: all whose probes would take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decode_frames import block_of
from hypothesis import given, settings
from hypothesis import strategies as st
from l7_payloads import _packet, payloads

from agent.capture import Interface
from agent.decode.decoder import Decoder
from agent.l7 import HEAD, TCP, UDP, Heads, Signs, registry
from agent.l7.recognise import Recogniser, gather

PARSERS = registry.parsers()
PORTS = (53, 67, 80, 123, 1883, 3306, 5432, 5672, 6379, 9092, 11211, 27017, 40000, 40001)
PORT = 4711


def heads_of(data: list[bytes], ports: list[tuple[int, int]]) -> Heads:
    first = np.frombuffer(b"".join(one[:HEAD].ljust(HEAD, b"\0") for one in data), dtype=np.uint8).reshape(-1, HEAD)
    sport, dport = (np.array([pair[way] for pair in ports], dtype=np.uint16) for way in (0, 1))
    return Heads(first, np.array(list(map(len, data)), dtype=np.int64), sport, dport)


def missed(heads: Heads) -> list[str]:
    """Parsers that claim a payload without their signs."""
    found = []
    for parser in PARSERS:
        signs = getattr(parser, "signs", Signs(range(256)))
        shown = np.isin(heads.first[:, 0], list(signs.first)) | np.isin(heads.sport, list(signs.ports))
        shown |= np.isin(heads.dport, list(signs.ports))
        found += [parser.name] if (parser.probe(heads) & ~shown).any() else []
    return found


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from(PORTS), st.sampled_from(PORTS))))
def test_what_a_probe_takes_shows_its_signs(said: list[tuple[bytes, int, int]]) -> None:
    assert missed(heads_of([data for data, _, _ in said], [(sport, dport) for _, sport, dport in said])) == []


def test_all_payloads_of_all_beginnings_and_captures(corpus: Path) -> None:
    found = [one for path in sorted(corpus.glob("*.pcap")) for one in payloads(path)]
    assert missed(heads_of([one.data for one in found], [(one.sport, one.dport) for one in found])) == []


class Probe:
    """Takes what begins with a byte, or raises."""

    def __init__(self, byte: int, transport: int = TCP, **more: Any) -> None:
        self.byte, self.transports, self.asked = byte, frozenset((transport,)), 0
        vars(self).update(more)

    def probe(self, heads: Heads) -> Any:
        self.asked += len(heads.length)
        if self.byte < 0:
            raise ValueError
        return heads.first[:, 0] == self.byte


def claims(probes: list[Any], *data: bytes) -> tuple[list[int], int]:
    """The bit sets of payloads, and how many probes failed."""
    failed: list[None] = []
    frames = [_packet(True, PORT, 0x18, [1, 1], one) for one in data]
    columns, found = Decoder([Interface("test0", 101)]).with_payloads(block_of(frames), 1)
    recogniser = Recogniser(probes, lambda: failed.append(None))
    return recogniser.claims(columns, found, np.arange(len(frames))).tolist(), len(failed)


def test_each_parser_is_asked_about_what_shows_its_signs() -> None:
    probes = [Probe(65, signs=Signs(b"A")), Probe(66), Probe(65, UDP), Probe(67, signs=Signs(ports=(PORT,)))]
    probes += [Probe(65, signs=Signs(b"D", (PORT + 1,))), Probe(-1, signs=Signs(b"B"))]
    assert claims(probes, b"A", b"B", b"C", b"D", b"") == ([1, 2, 8, 0, 0], 1)
    assert [probe.asked for probe in probes] == [1, 4, 0, 4, 1, 1]


@pytest.mark.parametrize("count", [1, 9, 33, 63])
def test_any_number_of_parsers(count: int) -> None:
    assert claims([Probe(65 + i % 2) for i in range(count)], b"A") == ([sum(1 << i for i in range(0, count, 2))], 0)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.integers(0, 30))
@settings(deadline=None)
def test_heads_are_the_beginnings_of_payloads(parts: list[bytes], cut: int) -> None:
    seq = [1, 1]
    frames = [_packet(True, PORT, 0x18, seq, part) for part in parts]
    frames[-1] = frames[-1][: max(40, len(frames[-1]) - cut)]  # the last one ends where the block's memory does
    columns, found = Decoder([Interface("test0", 101)]).with_payloads(block_of(frames), 1)
    at = np.flatnonzero(found.length)
    bodies = [frame[40:] for frame in frames if len(frame) > 40]
    heads = gather(columns, found, at)
    assert heads.length.tolist() == [len(body) for body in bodies]
    assert [bytes(first) for first in heads.first] == [body[:16].ljust(16, b"\0") for body in bodies]
    assert heads.word(1, 3).tolist() == [int.from_bytes(body[1:4].ljust(3, b"\0")) for body in bodies]
    assert heads.word(2, 4).tolist() == [int.from_bytes(body[:16].ljust(16, b"\0")[2:6]) for body in bodies]
    assert heads.port(PORT).all()
