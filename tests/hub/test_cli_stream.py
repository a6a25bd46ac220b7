"""Rows out of chunks, the end of an answer, the words for its completeness."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.completeness import sentence
from hub.cli.errors import UNREACHABLE, HubLost
from hub.cli.stream import Rows, array, first, pieces

END = b'{"nodetap.completeness":{"complete":true}}\n'


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@given(st.lists(st.dictionaries(st.text(), st.integers()), max_size=20), st.lists(st.integers(0, 10**4), max_size=20))
def test_however_it_is_cut_the_rows_are_the_same(objects: list[dict[str, int]], places: list[int]) -> None:
    body = b"".join(json.dumps(o).encode() + b"\n" for o in objects)
    rows = Rows(cut(body + END, places))
    assert b"".join(rows) == body
    assert rows.end == {"nodetap.completeness": {"complete": True}}
    assert json.loads(b"".join(array(Rows(cut(body + END, places))))) == objects
    assert b"".join(pieces(cut(body, places))) == body
    assert b"".join(first(pieces(cut(body, places)), 3)) == b"".join(body.splitlines(keepends=True)[:3])


@pytest.mark.parametrize("body", [b"", b'{"a":1}\n', END[:-1], b'{"a":1}\n' + END[:20], b'{"a":1}\n[]\n'])
def test_an_answer_without_its_end_is_an_error(body: bytes) -> None:
    with pytest.raises(HubLost) as caught:
        list(Rows([body]))
    assert caught.value.code == UNREACHABLE


def test_a_line_without_an_end_is_not_a_line() -> None:
    assert list(pieces([b'{"a":1}\n{"b"'])) == [b'{"a":1}\n']


def test_what_is_said_about_rows_comes_by_itself() -> None:
    row = b'{"nodetap.cursor":"x","a":"\\n{\\"nodetap.lost\\":"}\n'
    beat, lost = b'{"nodetap.heartbeat":{}}\n', b'{"nodetap.lost":{}}\n'
    body = row + row + beat + lost + row + beat
    assert list(pieces([body])) == [row + row, beat, lost, row, beat]
    assert b"".join(pieces([body[at : at + 1] for at in range(len(body))])) == body


def test_the_first_rows_are_not_waited_for_in_vain() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"1\n2\n"
        raise AssertionError("it asks for more than it was told to")

    assert list(first(blocks(), 2)) == [b"1\n2\n"]
    assert list(first(blocks(), 1)) == [b"1\n"]


def test_complete() -> None:
    assert sentence({"agents": ["a", "b", "c"], "complete": True}) == "complete: 3 agents, no gaps"
    assert sentence({"agents": ["a"], "complete": True, "flow_only": 4000}) == (
        "complete: 1 agent, no gaps; 4,000 packets in flows only"
    )


def test_incomplete_says_what_and_why() -> None:
    text = sentence(
        {
            "agents": ["a"],
            "missing": [{"agent": "b", "reason": "stalled: no acknowledgement for 12 s"}],
            "gaps": [{"agent": "a", "epoch": "00", "first": 7, "last": 9}],
            "lost": {"shed": 120, "in_doubt": 0},
            "complete": False,
        }
    )
    assert text == (
        "INCOMPLETE: b missing (stalled: no acknowledgement for 12 s); 3 batches of a not here; "
        "120 packets lost (shed 120) (1 agent)"
    )
