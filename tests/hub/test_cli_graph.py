"""Drawings of who talks to whom."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.graph import DRAWINGS, Edge, dot, mermaid

EDGES = [
    Edge("10.0.0.1", "10.0.0.2", "TCP 443", "16 flows, 3.2 MiB"),
    Edge("10.0.0.2", "10.0.0.1", "", "1 flow, 60 B"),
]

QUOTED = {"mermaid": r'"[^"]*"', "dot": r'"(\\.|[^"\\])*"'}
"""Text between quotes: in dot a backslash speaks for the next character, in Mermaid it is one."""


def test_mermaid() -> None:
    assert mermaid(EDGES, ["complete: 1 agent, no gaps"]) == (
        "flowchart LR\n"
        '    n0["10.0.0.1"]\n'
        '    n1["10.0.0.2"]\n'
        '    n0 -->|"TCP 443<br/>16 flows, 3.2 MiB"| n1\n'
        '    n1 -->|"1 flow, 60 B"| n0\n'
        "%% complete: 1 agent, no gaps\n"
    )


def test_dot() -> None:
    assert dot(EDGES, ["complete: 1 agent, no gaps"]) == (
        "digraph nodetap {\n"
        "    rankdir=LR;\n"
        "    node [shape=box];\n"
        '    n0 [label="10.0.0.1"];\n'
        '    n1 [label="10.0.0.2"];\n'
        '    n0 -> n1 [label="TCP 443\\n16 flows, 3.2 MiB"];\n'
        '    n1 -> n0 [label="1 flow, 60 B"];\n'
        "}\n"
        "// complete: 1 agent, no gaps\n"
    )


@pytest.mark.parametrize("drawing", DRAWINGS)
@given(st.tuples(*[st.text()] * 5))
def test_no_text_ends_its_quotes_or_its_line(drawing: str, texts: tuple[str, ...]) -> None:
    src, dst, service, figures, note = texts
    lines = DRAWINGS[drawing]([Edge(src, dst, service, figures)], [note]).split("\n")
    plain = DRAWINGS[drawing]([Edge("a", "a" if src == dst else "b", "", "")], [""]).split("\n")
    assert len(lines) == len(plain)
    for line, other in zip(lines[:-2], plain[:-2], strict=True):
        line, other = (re.sub(QUOTED[drawing], '""', each) for each in (line, other))
        assert line == other
