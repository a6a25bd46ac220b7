"""Who talks to whom as a drawing: Mermaid's flowchart and Graphviz' dot. Pure: edges in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hub.cli.table import clean


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow from `src` to `dst`; the service may be empty."""

    src: str
    dst: str
    service: str
    figures: str

    def lines(self) -> list[str]:
        """What stands beside the arrow."""
        return [self.service, self.figures] if self.service else [self.figures]


def _nodes(edges: Iterable[Edge]) -> dict[str, str]:
    """Every end once, in order of appearance, with its name in the drawing."""
    names = dict.fromkeys(name for edge in edges for name in (edge.src, edge.dst))
    return {name: f"n{number}" for number, name in enumerate(names)}


def mermaid(edges: Sequence[Edge], notes: Iterable[str]) -> str:
    """A flowchart; notes are comments at its end."""
    nodes = _nodes(edges)
    lines = ["flowchart LR"]
    lines += [f'    {node}["{_entities(name)}"]' for name, node in nodes.items()]
    for edge in edges:
        label = "<br/>".join(map(_entities, edge.lines()))
        lines.append(f'    {nodes[edge.src]} -->|"{label}"| {nodes[edge.dst]}')
    return "".join(f"{line}\n" for line in (*lines, *(f"%% {clean(note)}" for note in notes)))


def _entities(text: str) -> str:
    """Text between quotes: Mermaid writes characters that mean something to it as `#` entities."""
    named = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"}
    return "".join(named.get(c, c) for c in clean(text))


def dot(edges: Sequence[Edge], notes: Iterable[str]) -> str:
    """A directed graph; notes are comments at its end."""
    nodes = _nodes(edges)
    lines = ["digraph nodetap {", "    rankdir=LR;", "    node [shape=box];"]
    lines += [f"    {node} [label={_quoted(name)}];" for name, node in nodes.items()]
    for edge in edges:
        label = "\\n".join(_quoted(line)[1:-1] for line in edge.lines())
        lines.append(f'    {nodes[edge.src]} -> {nodes[edge.dst]} [label="{label}"];')
    return "".join(f"{line}\n" for line in (*lines, "}", *(f"// {clean(note)}" for note in notes)))


def _quoted(text: str) -> str:
    escaped = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


DRAWINGS: dict[str, Callable[[Sequence[Edge], Iterable[str]], str]] = {"mermaid": mermaid, "dot": dot}
"""Formats of `nodetap map` beside the table."""
