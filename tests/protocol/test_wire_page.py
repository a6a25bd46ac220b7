"""docs/reference/wire.md says what the code does.

Its tables stand between `<!-- NAME -->` and `<!-- end -->` and come from the code; its examples are bytes that the
code makes. `PYTHONPATH=. python tests/protocol/test_wire_page.py` writes the tables anew.
"""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path

import msgpack
import numpy as np
import pytest

from protocol import limits
from protocol.arrays import Way, pack_array
from protocol.codec import WINDOW_LOG, encode
from protocol.columns import MAX_DICT, MAX_ITEMS, MAX_TEXT, Dict, Lists, maps_of, text_of, texts_of
from protocol.errors import CODES
from protocol.groups import Groups
from protocol.ledger import DISCARDED, LOST
from protocol.messages import MESSAGES, Echo
from protocol.packing import pack_column
from protocol.schema import TABLES, Column

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "wire.md"


def _rows(head: str, rows: list[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [head, " | ".join("---" for _ in columns), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _default(field: Field[object]) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`".replace("'", '"')
    return "required" if field.default_factory is MISSING else f"`{field.default_factory()!r}`"


def _wire_type(field: Field[object]) -> str:
    return {"Held": "list", "Positions": "dict"}.get(str(field.type), str(field.type).split("[")[0])


def _messages() -> str:
    rows = [
        [f"`{word}`", sender, f"`{f.name}`", _wire_type(f), _default(f)]
        for word, (cls, sender) in MESSAGES.items()
        for f in fields(cls)
    ]
    return _rows("type word | sender | key | type | where absent", rows)


def _limits() -> str:
    """Names, values and meanings as limits.py has them: an assignment and the string below it."""
    body = ast.parse((ROOT / "protocol" / "limits.py").read_text()).body
    rows = [
        [f"`{name.id}`", f"{getattr(limits, name.id):,}", " ".join(ast.literal_eval(doc.value).split())]
        for assign, doc in zip(body, body[1:], strict=False)  # noqa: RUF007
        if isinstance(assign, ast.Assign) and isinstance(doc, ast.Expr)
        for name in assign.targets
        if isinstance(name, ast.Name) and name.id.startswith("MAX_")
    ]
    rows += [
        ["`MAX_TEXT`", f"{MAX_TEXT:,}", "One string of a column, bytes."],
        ["`MAX_DICT`", f"{MAX_DICT:,}", "Strings of one dict column in one batch."],
        ["`MAX_ITEMS`", f"{MAX_ITEMS:,}", "Strings of one list_text column, pairs of one map column, in one batch."],
        ["`WINDOW_LOG`", str(WINDOW_LOG), "Largest zstd window, as a power of two."],
    ]
    return _rows("limit | value | of what", rows)


def _words(head: str, words: dict[str, str]) -> str:
    return _rows(head, [[f"`{word}`", doc] for word, doc in words.items()])


def _columns(table: str) -> str:
    rows = [[f"`{c.name}`", f"`{c.wire}`", c.doc.replace("|", "\\|")] for c in TABLES[table].columns]
    return _rows("column | wire | meaning", rows)


SECTIONS = {
    "messages": _messages(),
    "limits": _limits(),
    "errors": _words("code | meaning", CODES),
    "lost": _words("reason | meaning", LOST),
    "discarded": _words("reason | meaning", DISCARDED),
    **{name: _columns(name) for name in TABLES},
}


def _section(page: str, name: str) -> re.Match[str]:
    found = re.search(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", page, re.DOTALL)
    assert found, f"wire.md has no section {name}"
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_a_table_says_what_the_code_says(name: str) -> None:
    found = _section(PAGE.read_text(), name)
    assert found[0] == found[1] + SECTIONS[name] + found[2], "write it anew with this file as a script"


def _column(wire: str) -> Column:
    return Column("c", wire, "", "")


_GROUPS = Groups(np.array([0, 1, 0], "<u4"), 2)
_LEN = np.array([60, 1500, 100], "<u4")
EXAMPLES = {
    "echo": encode(Echo(7)),
    "const": msgpack.packb(pack_column(_column("u2"), np.array([443, 443, 443], "<u2"))),
    "delta": msgpack.packb(
        pack_array(np.array([1_000_000, 1_010_000, 1_005_000], "<u8"), Way(steps=True, time=True), None, {})
    ),
    "planes": msgpack.packb(pack_array(np.array([1, 2, 515], "<u4"), Way(planes=True), None, {})),
    "group": msgpack.packb(pack_array(np.array([80, 443, 80], "<u2"), Way(), _GROUPS, {})),
    "sorted": msgpack.packb(pack_array(np.array([64, 57, 63], "u1"), Way(), _GROUPS, {})),
    "from": msgpack.packb(
        pack_array(_LEN - np.uint32(14), Way(plus=("len",)), None, {"len": _LEN}),
    ),
    "dict": msgpack.packb(pack_column(_column("dict"), Dict(np.array([0, 1, 0], "<u4"), ("eth0", "lo")))),
    "text": msgpack.packb(pack_column(_column("text"), text_of(["hi", "", "é"]))),
    "list": msgpack.packb(
        pack_column(_column("list_u2"), Lists(np.array([0, 2, 1], "u1"), np.array([5, 7, 9], "<u2")))
    ),
    "texts": msgpack.packb(pack_column(_column("list_text"), texts_of([["hi", "é"], []]))),
    "map": msgpack.packb(pack_column(_column("map"), maps_of([{"q": "GET"}, {}]))),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_makes(name: str) -> None:
    found = re.search(rf"```text {name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"wire.md has no example {name}"
    shown = "".join(line[: line.find("  ")] if "  " in line else line for line in found[1].splitlines())
    assert bytes.fromhex(shown) == EXAMPLES[name], EXAMPLES[name].hex(" ")


if __name__ == "__main__":
    text = PAGE.read_text()
    for section, table in SECTIONS.items():
        match = _section(text, section)
        text = text[: match.start()] + match[1] + table + match[2] + text[match.end() :]
    PAGE.write_text(text)
