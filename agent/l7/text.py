"""Bytes of the wire as text that can be shown."""

from __future__ import annotations

import unicodedata

_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
_HIDDEN = frozenset(("Cc", "Cf", "Cn", "Cs", "Co"))


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x20 or code == 0x7F:
        return _ESCAPES.get(code, f"\\{code:03o}")
    if unicodedata.category(char) in _HIDDEN:
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return char


def printed(raw: bytes) -> str:
    """UTF-8 as tshark prints it: what cannot be shown as C escapes, octal or \\u; what is no UTF-8 as U+FFFD.

    A backslash stays as it is (also as tshark does), so this is for reading, not for parsing back.
    """
    text = raw.decode("utf-8", "replace")
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))
