"""Payloads that should hurt: anything, and real ones cut, flipped and glued."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from agent.l7 import PENDING, Conn, Parser, Summary


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """One of the samples with some bytes changed, cut at the end, something behind it."""
    data = bytearray(draw(st.sampled_from(samples)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[at] = value
    return bytes(data[: draw(st.integers(1, len(data)))]) + draw(st.binary(max_size=8))


def payloads(samples: Sequence[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Several payloads of one connection."""
    return st.lists(st.one_of(st.binary(max_size=200), mutated(samples), st.sampled_from(samples)), max_size=5)


def survives(parser: Parser, payloads: Sequence[bytes], sport: int, dport: int) -> None:
    """Whatever comes, either way, is answered in the contract's words and kept within its bounds."""
    conn = Conn()
    for i, payload in enumerate(payloads):
        said = parser.feed(payload, i & 1, sport, dport, conn)
        assert max(map(len, conn.pending)) <= PENDING
        if said is not None:
            well_formed(said)


def well_formed(said: Summary) -> None:
    """Names and values of the kinds that columns and the string map take."""
    assert said.l7
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in said.rest.items())
    for value in said.fields.values():
        assert isinstance(value, list)
        assert value
        assert len({type(item) for item in value}) == 1
        assert all(0 <= item < 2**32 if isinstance(item, int) else item.encode() is not None for item in value)
