"""The filter grammar: text to a typed tree, LALR(1) through lark.

lark is imported where the first filter is read, so that programs that never filter do not pay for it. The callbacks
build the nodes while the parser runs: there is no parse tree, and nothing recurses deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hub.query.filter import (
    PROTOCOLS,
    And,
    Compare,
    FilterError,
    Member,
    Node,
    Not,
    Operand,
    Or,
    Present,
    check_range,
    compare,
    depth,
    literal,
    operand,
    terms,
    unknown,
)
from hub.query.values import ALIASES, Literal, unquote

MAX_LENGTH = 8192
"""Bytes of a filter."""
MAX_DEPTH = 64
"""Levels of and, or, not."""
MAX_TERMS = 500
"""Comparisons, presences and members of sets."""

GRAMMAR = r"""
?start: any
?any: all (_OR all)*
?all: unary (_AND unary)*
?unary: _NOT unary -> negate
      | "(" any ")"
      | WORD -> present
      | WORD OP _literal -> compare
      | WORD _IN "{" _items "}" -> member
      | WORD _NOT _IN "{" _items "}" -> not_member
_items: item ("," item)*
item: _literal (_RANGE _literal)?
_literal: WORD | STRING

OP.3: /===|!==|==|!=|>=|<=|>|<|~/
    | /(all_eq|any_ne|any_eq|all_ne|eq|ne|gt|lt|ge|le|contains|matches)(?=[\s"'{(]|$)/
_AND.3: /&&|and(?=[\s"'()!]|$)/
_OR.3: /\|\||or(?=[\s"'()!]|$)/
_NOT.2: /!|not(?=[\s"'()!]|$)/
_IN.3: /in(?=[\s{]|$)/
_RANGE.3: ".."
STRING.2: /r?"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
WORD.1: /((?!\.\.)[^\s"'(){},=!<>&|~])+/
%ignore /\s+/
"""

_EXPECTED = (  # the first terminal the parser would have taken decides the words
    ("STRING", "a value"),
    ("OP", "an operator such as == or in, or and, or"),
    ("WORD", "a field"),
    ("LBRACE", "{"),
    ("_IN", "in"),
    ("_AND", "and, or"),
    ("RPAR", ")"),
    ("$END", "the end"),
)
_TYPOS = {"=": "==", "&": "&&", "|": "||"}


def parse(text: str, table: str) -> Node | None:
    """The tree of a filter over `table` (`packets` or `flows`), None for an empty one. Raises FilterError."""
    if len(text.encode("utf-8", "replace")) > MAX_LENGTH:
        raise FilterError("too_large", 1, f"the filter is longer than {MAX_LENGTH} bytes")
    if not text.strip():
        return None
    import lark

    try:
        node: Node = _parser(table).parse(text)
    except lark.exceptions.UnexpectedInput as error:
        raise _syntax_error(text, error) from None
    if terms(node) > MAX_TERMS:
        raise FilterError("too_large", 1, f"the filter has more than {MAX_TERMS} comparisons")
    return node


@cache
def _parser(table: str) -> Any:
    import lark

    return lark.Lark(GRAMMAR, parser="lalr", transformer=_builder(table), regex=False)


def _syntax_error(text: str, error: Any) -> FilterError:
    at = len(text.rstrip()) if error.pos_in_stream in (None, -1) else error.pos_in_stream
    found = text[at : at + 1]
    if found in ('"', "'"):
        return FilterError("syntax", at + 1, "the quoted text has no end")
    allowed = {*(getattr(error, "expected", None) or ()), *(getattr(error, "allowed", None) or ())}
    words = next((words for terminal, words in _EXPECTED if terminal in allowed), "something else")
    if "COMMA" in allowed and text.rfind("{", 0, at) > text.rfind("}", 0, at):
        words = ", or }"  # LALR shares the states of a literal: where it stands is said by the braces
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return FilterError("syntax", len(text.rstrip()) + 1, f"the filter ends where {words} is expected")
    shown = str(token) if token is not None else found
    if getattr(token, "type", "") == "WORD" and words.startswith("and"):
        return FilterError("syntax", at + 1, f"{words} is expected, not {shown[:80]!r}; quote a text of several words")
    return FilterError("syntax", at + 1, f"{words} is expected, not {shown[:80]!r}", _TYPOS.get(found))


def _builder(table: str) -> Any:
    """The parser's callbacks: tokens in, nodes out."""
    import lark

    class Builder(lark.Transformer[Any, Node]):  # type: ignore[misc]
        def any(self, items: list[Node]) -> Node:
            return _shallow(Or(tuple(items)))

        def all(self, items: list[Node]) -> Node:
            return _shallow(And(tuple(items)))

        def negate(self, items: list[Node]) -> Node:
            return _shallow(Not(items[0]))

        def present(self, items: list[Any]) -> Node:
            (word,) = items
            target = operand(str(word), table)
            if target is None and word not in PROTOCOLS:
                raise unknown(word, table, _column(word))
            return Present(str(word), target)

        def compare(self, items: list[Any]) -> Compare:
            name, operator, value = items
            word = ALIASES.get(str(operator), str(operator))
            return compare(_operand(name, table), word, _text(value), (_column(operator), _column(value)))

        def item(self, items: list[Any]) -> list[Any]:
            return items

        def member(self, items: list[Any]) -> Member:
            target = _operand(items[0], table)
            return Member(target, tuple(_member(target, *item) for item in items[1:]))

        def not_member(self, items: list[Any]) -> Node:
            return Not(self.member(items))

    return Builder()


def _column(token: Any) -> int:
    return int(token.start_pos) + 1


def _text(token: Any) -> str:
    return unquote(str(token)) if token.type == "STRING" else str(token)


def _shallow(node: Node) -> Node:
    if depth(node) > MAX_DEPTH:
        raise FilterError("too_large", 1, f"and, or, not are nested deeper than {MAX_DEPTH} levels")
    return node


def _operand(token: Any, table: str) -> Operand:
    target = operand(str(token), table)
    if target is not None:
        return target
    if token in PROTOCOLS:
        raise FilterError("bad_operator", _column(token), f"{token} is a protocol: it is there or not, it has no value")
    raise unknown(str(token), table, _column(token))


def _member(target: Operand, low: Any, high: Any = None) -> tuple[Literal, Literal | None]:
    first = literal(target, _text(low), _column(low))
    if high is None:
        return first, None
    last = literal(target, _text(high), _column(high))
    check_range(target, first, last, _column(low))
    return first, last
