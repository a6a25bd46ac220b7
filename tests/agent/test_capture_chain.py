from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import chain
from agent.capture.chain import Law, find_records, walk

PCAP, PCAPNG = Law("<u4", 8, 16, 16, 1), Law(">u4", 4, 0, 12, 4)


def records(law: Law, lengths: list[int]) -> bytes:
    order = law.dtype[0]
    if law is PCAP:
        return b"".join(struct.pack(order + "IIII", 1, 1, n, n) + bytes(n) for n in lengths)
    return b"".join(struct.pack(order + "II", 6, n + 12) + bytes(n + 3 & ~3) + bytes(4) for n in lengths)


@pytest.mark.parametrize("law", [PCAP, PCAPNG])
@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=200, max_size=600),
    right=st.lists(st.booleans(), min_size=1, max_size=8),
    error=st.integers(-3, 50),
)
def test_guesses_right_or_wrong_give_what_walking_gives(
    law: Law, lengths: list[int], right: list[bool], error: int
) -> None:
    raw = records(law, lengths)
    data = np.frombuffer(raw, dtype=np.uint8)
    end = len(raw) - law.header + 1
    starts, after = walk(raw, law, 0, end)
    asked = 0

    def guess(low: int, high: int) -> int:
        nonlocal asked
        asked += 1
        place = next((start for start in starts if start >= low), -1)
        return place if right[asked % len(right)] else min(max(low, place + error), high - 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "SHORTEST", 1)
        patch.setattr(chain, "LANES", 32)
        found, behind = find_records(raw, data, law, 0, end, guess)
    assert asked > 0
    assert (found.tolist(), behind) == (starts, after)
