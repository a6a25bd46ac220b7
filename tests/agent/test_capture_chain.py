from __future__ import annotations

import struct
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture import chain
from agent.capture.chain import Law, find_records
from protocol.built import VARIABLE

PCAP, PCAPNG = Law("<u4", 8, 16, 16, 1), Law(">u4", 4, 0, 12, 4)


def records(law: Law, lengths: list[int]) -> list[bytes]:
    order = law.dtype[0]
    if law is PCAP:
        return [struct.pack(order + "IIII", 1, 1, n, n) + bytes(n) for n in lengths]
    return [struct.pack(order + "II", 6, n + 12) + bytes(n + 3 & ~3) + bytes(4) for n in lengths]


@pytest.mark.parametrize("way", ["on", "off"])
@pytest.mark.parametrize("law", [PCAP, PCAPNG])
@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(0, 300), max_size=60), room=st.integers(1, 80))
def test_records_are_found_where_they_were_put(law: Law, way: str, lengths: list[int], room: int) -> None:
    parts = records(law, lengths)
    raw, places = b"".join(parts), list(accumulate((len(part) for part in parts), initial=0))
    data, end = np.frombuffer(raw, dtype=np.uint8), len(raw) - law.header + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, way)
        patch.setattr(chain, "ROOM", room)
        assert find_records(raw, data, law, 0, end).tolist() == places[:-1][:room]
