"""The words of a filter.

What a run of characters is depends on where it stands: behind a comparison `and` is a text, `-2` a number and
`10.0.0.0/8` a network; elsewhere they are a word, a sign and a division. So the words are cut here and not by the
parser's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import NamedTuple

from protocol.filter.errors import FilterError
from protocol.filter.values import ALIASES, DEFAULT

FUNCTIONS = ("len", "count", "upper", "lower", "string", "max", "min")


class Word(NamedTuple):
    """One word: a terminal of the grammar, its text, where it begins (from 0)."""

    type: str
    text: str
    start: int


_COMPARE = ("all_eq", "any_ne", "any_eq", "all_ne", "eq", "ne", "gt", "lt", "ge", "le")
_KEYWORDS = {
    **dict.fromkeys(_COMPARE, "OP"),
    "contains": "CONTAINS", "matches": "MATCHES", "in": "_IN", "and": "_AND", "or": "_OR", "xor": "_XOR", "not": "_NOT",
    "bitwise_and": "AMP",
}  # fmt: skip
_QUANTIFIERS = ("any", "all")
_SIGNS = {
    "&&": "_AND", "||": "_OR", "^^": "_XOR", "!": "_NOT", "~": "MATCHES", "..": "_RANGE", "&": "AMP", "+": "PLUS",
    "-": "MINUS", "*": "STAR", "/": "SLASH", "%": "PERCENT", "(": "_LPAR", ")": "_RPAR", "{": "_LBRACE",
    "}": "_RBRACE", ",": "_COMMA",
}  # fmt: skip
_PATTERN = re.compile(
    r"""(?P<blank>\s+)
    |(?P<STRING>r?"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<OP>===|!==|==|!=|~=|>=|<=|>|<)
    |(?P<SLICE>\[[^\[\]]*\])
    |(?P<sign>&&|\|\||\^\^|\.\.|[!~&+*%(){},])
    |(?P<word>\d{4}-\d\d-\d\d[Tt][0-9:.]+[+-]\d\d:\d\d|(?:(?!\.\.)[^\s"'(){},=!<>&|~+*%^\[\]\#])+)""",
    re.VERBOSE | re.DOTALL,
)
_EXPECTS_VALUE = (
    "OP",
    "CONTAINS",
    "MATCHES",
    "_LBRACE",
    "_COMMA",
    "_RANGE",
    "AMP",
    "PLUS",
    "MINUS",
    "STAR",
    "SLASH",
    "PERCENT",
)
_ENDS_VALUE = ("WORD", "STRING", "SLICE", "_RPAR", "_RBRACE")


def words(text: str, is_field: Callable[[str], bool]) -> Iterator[Word]:
    """The words of a filter. Raises FilterError where a character begins none."""
    at, before = 0, ""
    while at < len(text):
        match = _PATTERN.match(text, at)
        if match is None:
            raise _stray(text, at)
        if match.lastgroup != "blank":
            for word in _typed(match, before, is_field):
                yield word
                before = word.type
        at = match.end()


def _typed(match: re.Match[str], before: str, is_field: Callable[[str], bool]) -> Iterator[Word]:
    kind, text, start = str(match.lastgroup), match[0], match.start()
    if kind == "sign":
        yield Word(_SIGNS[text], text, start)
    elif kind != "word":
        yield Word(kind, text, start)
    elif before in _EXPECTS_VALUE:
        yield from _value(match, text, start, is_field)
    elif text in _KEYWORDS:
        yield Word(_KEYWORDS[text], text, start)
    elif text in _QUANTIFIERS and re.match(r"\s+[^\s=!<>~)&|]", match.string[match.end() :]):
        yield Word("QUANTIFIER", text, start)
    else:
        yield from _value(match, text, start, is_field, before in _ENDS_VALUE)


def _value(
    match: re.Match[str], text: str, start: int, is_field: Callable[[str], bool], behind: bool = False
) -> Iterator[Word]:
    """A word where a value may stand: a function's name, a sign and the rest, a field and what is done with it."""
    if text in FUNCTIONS and match.string[match.end() :].lstrip().startswith("("):
        yield Word("FUNCTION", text, start)
        return
    if re.fullmatch(r"[a-z_]+", text) and match.string[match.end() :].startswith("("):
        near = get_close_matches(text, FUNCTIONS, n=1)
        raise FilterError("syntax", start + 1, f"there is no function {text[:80]}", near[0] if near else None)
    if text[0] in "-/" and (behind or text == "-" or not re.match(r"-[0-9.]|/", text)):
        yield Word(_SIGNS[text[0]], text[0], start)
        text, start = text[1:], start + 1
    cut = next((m.start() for m in re.finditer("[-/]", text) if is_field(text[: m.start()])), None)
    if cut and not is_field(text):
        yield Word("WORD", text[:cut], start)
        yield Word(_SIGNS[text[cut]], text[cut], start + cut)
        text, start = text[cut + 1 :], start + cut + 1
    if text:
        yield Word("WORD", text, start)


_TYPOS = {"=": "==", "|": "||", "^": "^^"}


def _stray(text: str, at: int) -> FilterError:
    found = text[at]
    if found in ('"', "'"):
        return FilterError("syntax", at + 1, "the quoted text has no end")
    if found == "[":
        return FilterError("syntax", at + 1, "the [ has no ]")
    if found == "#":
        return FilterError(
            "syntax", at + 1, "there are no layers to count: fields are the innermost packet's, tunnel.* the outer"
        )
    return FilterError("syntax", at + 1, f"{found!r} means nothing here", _TYPOS.get(found))


def operator(text: str) -> str:
    """The operator that a word stands for, one of `DEFAULT` or `SPELLED`."""
    name = ALIASES.get(text, text)
    assert name in DEFAULT or name in ("===", "!==")
    return name
