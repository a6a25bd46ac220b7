"""The filter grammar: text to a typed tree, LALR(1) through lark.

lark is imported where the first filter is read, so that programs that never filter do not pay for it. The callbacks
build the nodes while the parser runs: there is no parse tree, and nothing recurses deeper than `MAX_DEPTH`.

Precedence is Wireshark's 4.0: `not`, `and`, `xor` (4.0 has none), `or`; within a value `* / %`, `+ -`, `&`. Round
brackets hold tests, braces hold values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

from protocol.filter import check
from protocol.filter.check import Raw
from protocol.filter.errors import FilterError
from protocol.filter.lexer import operator, words
from protocol.filter.names import fields_named
from protocol.filter.patterns import grown
from protocol.filter.tree import And, Node, Not, Or, Value, Xor, depth, patterns, terms
from protocol.filter.values import DEFAULT, SPELLED, unquote

MAX_LENGTH = 8192
"""Bytes of a filter."""
MAX_DEPTH = 64
"""Levels of and, or, not, and of arithmetic."""
MAX_TERMS = 500
"""Comparisons, presences and members of sets."""
MAX_GROWN = 2_000
"""Steps that repeats add to all regular expressions together, each of which a byte of a text may cost a nanosecond."""

GRAMMAR = """
?start: any
?any: odd (_OR odd)*
?odd: all (_XOR all)*
?all: unary (_AND unary)*
?unary: _NOT unary -> negate
      | _LPAR any _RPAR
      | QUANTIFIER relation -> quantified
      | relation
      | bits -> bare
?relation: bits (OP bits)+ -> compare
         | bits CONTAINS bits -> compare
         | bits MATCHES bits -> compare
         | bits _IN _LBRACE _items _RBRACE -> member
         | bits _NOT _IN _LBRACE _items _RBRACE -> not_member
_items: item (_COMMA item)*
item: bits (_RANGE bits)?
?bits: sum
     | bits AMP sum -> arithmetic
?sum: product
    | sum PLUS product -> arithmetic
    | sum MINUS product -> arithmetic
?product: factor
        | product STAR factor -> arithmetic
        | product SLASH factor -> arithmetic
        | product PERCENT factor -> arithmetic
?factor: entity
       | MINUS entity -> negative
       | PLUS entity -> positive
       | _LBRACE bits _RBRACE
?entity: WORD -> word
       | STRING -> word
       | FUNCTION _LPAR bits (_COMMA bits)* _RPAR -> call
       | entity SLICE -> slice
%declare _AND _OR _XOR _NOT _LPAR _RPAR _LBRACE _RBRACE _COMMA _RANGE _IN QUANTIFIER OP CONTAINS MATCHES
%declare AMP PLUS MINUS STAR SLASH PERCENT WORD STRING FUNCTION SLICE
"""

_EXPECTED = (  # the first terminal the parser would have taken decides the words
    ("OP", "an operator such as == or in, or and, or"),
    ("_NOT", "a field"),
    ("WORD", "a value"),
    ("_LBRACE", "{"),
    ("_IN", "in"),
    ("_COMMA", ", or }"),
    ("_RPAR", ")"),
    ("_AND", "and, or"),
    ("$END", "the end"),
)


def parse(text: str, table: str) -> Node | None:
    """The tree of a filter over `table` (a key of `TABLES`), None for an empty one. Raises FilterError."""
    if len(text.encode("utf-8", "replace")) > MAX_LENGTH:
        raise FilterError("too_large", 1, f"the filter is longer than {MAX_LENGTH} bytes")
    if not text.strip():
        return None
    import lark

    try:
        node: Node = _parser(table).parse(text)
    except lark.exceptions.UnexpectedToken as error:
        raise _syntax_error(text, error) from None
    if terms(node) > MAX_TERMS:
        raise FilterError("too_large", 1, f"the filter has more than {MAX_TERMS} comparisons")
    if sum(map(grown, patterns(node))) > MAX_GROWN:
        raise FilterError("too_large", 1, "the regular expressions repeat too much; how long a text is, len() says")
    return node


@cache
def _parser(table: str) -> Any:
    import lark

    class Lexer(lark.lexer.Lexer):  # type: ignore[misc]
        def __init__(self, conf: object) -> None:
            pass

        def lex(self, text: str) -> Iterator[Any]:
            for word in words(text, lambda name: bool(fields_named(name, table))):
                yield lark.Token(word.type, word.text, word.start)

    return lark.Lark(GRAMMAR, parser="lalr", lexer=Lexer, transformer=_builder(table))


def _syntax_error(text: str, error: Any) -> FilterError:
    token, allowed = error.token, set(error.accepts or error.expected)
    words = next((words for terminal, words in _EXPECTED if terminal in allowed), "something else")
    if token.type == "$END":
        return FilterError("syntax", len(text.rstrip()) + 1, f"the filter ends where {words} is expected")
    at, shown = token.start_pos, str(token)
    if token.type == "_RANGE":
        return FilterError("syntax", at + 1, "a range stands in a set: in {80..90}")
    if token.type in ("WORD", "STRING") and "_AND" in allowed:
        return FilterError("syntax", at + 1, f"{words} is expected, not {shown[:80]!r}; quote a text of several words")
    return FilterError("syntax", at + 1, f"{words} is expected, not {shown[:80]!r}")


_Part = TypeVar("_Part", bound="Node | Value | Raw")


def _shallow(node: _Part) -> _Part:
    if not isinstance(node, Raw) and depth(node) > MAX_DEPTH:
        raise FilterError("too_large", 1, f"and, or, not are nested deeper than {MAX_DEPTH} levels")
    return node


def _column(token: Any) -> int:
    return int(token.start_pos) + 1


def _builder(table: str) -> Any:
    """The parser's callbacks: tokens in, nodes out."""
    import lark

    class Builder(lark.Transformer[Any, Node]):  # type: ignore[misc]
        def any(self, items: list[Node]) -> Node:
            return _shallow(Or(tuple(items)))

        def odd(self, items: list[Node]) -> Node:
            return _shallow(Xor(tuple(items)))

        def all(self, items: list[Node]) -> Node:
            return _shallow(And(tuple(items)))

        def negate(self, items: list[Node]) -> Node:
            return _shallow(Not(items[0]))

        def quantified(self, items: list[Any]) -> Node:
            return check.quantified(items[1], str(items[0]))

        def bare(self, items: list[Any]) -> Node:
            return check.bare(items[0], table)

        def compare(self, items: list[Any]) -> Node:
            pairs = zip(items[::2], items[1::2], items[2::2], strict=False)
            tests = tuple(_compare(left, token, right, table) for left, token, right in pairs)
            return tests[0] if len(tests) == 1 else _shallow(And(tests))

        def item(self, items: list[Any]) -> tuple[Any, Any]:
            return items[0], items[1] if len(items) > 1 else None

        def member(self, items: list[Any]) -> Node:
            return check.member(items[0], items[1:], table)

        def not_member(self, items: list[Any]) -> Node:
            return Not(self.member(items))

        def arithmetic(self, items: list[Any]) -> Any:
            left, token, right = items
            return _shallow(
                check.arithmetic("&" if token.type == "AMP" else str(token), left, right, table, _column(token))
            )

        def negative(self, items: list[Any]) -> Any:
            return check.negative(items[1], _column(items[0]))

        def positive(self, items: list[Any]) -> Any:
            return items[1]

        def call(self, items: list[Any]) -> Any:
            return _shallow(check.call(str(items[0]), items[1:], table, _column(items[0])))

        def slice(self, items: list[Any]) -> Any:
            return _shallow(check.slice_of(items[0], str(items[1]), table, _column(items[1])))

        def word(self, items: list[Any]) -> Any:
            (token,) = items
            if token.type == "STRING":
                return Raw(unquote(str(token)), True, _column(token))
            return check.operand(str(token), table) or Raw(str(token), False, _column(token))

    return Builder()


def _compare(left: Any, token: Any, right: Any, table: str) -> Node:
    sign = operator(str(token))
    sign, quantifier = SPELLED.get(sign, (sign, ""))
    return check.compare(left, sign, right, quantifier or DEFAULT[sign], table, _column(token))
