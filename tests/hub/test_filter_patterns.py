"""Regular expressions: what an agent finds is what the store finds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from threading import Thread

import pytest
from filters import NOW
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hub.query.sql import Params, compile_filter
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.filter.patterns import BadPattern, compiled
from protocol.filter.strings import pattern
from protocol.filter.tree import Compare, Constant

_pieces = str.split
TEXTS = (
    *("", "a", "A", "aaa", "a{,3}", "ab", "a-b", "b]", "[a]", "www.a.b", "12", "a1 b2", "\x0b", "\t", "line\nend"),
    *("end\n", "\\", "_x", "x.y", "(a)", "&|~", "Z", "\x00", "a.b*", "-", "^$", "ü", "Ü", "\u212a", "azure:12"),
)
PIECES = (
    *_pieces("a b Z 1 . - _ ] } { {,3} {2} {1,3} {0} {2,} * + ? *? +? ?? | ( ) ^ $"),
    *_pieces("(?: (?i: (?-i: (?s: (?m: (?m-i: (?P<n> (?=a) (?!a) (?>a) (?#a)"),
    *_pieces(r"\A \z \b \B \d \D \s \S \w \W \n \t \v \x41 \x{61} \0 \012 \. \\ \- \Qa.b\E \Q* \1 \Z \h \pL \u0041"),
    *_pieces(r"[a] [^a] []a] [^]a] [a-z] [[:digit:]] [^[:alpha:]x] [[:^digit:]] [\d.] [\s] [\S] [^\s] [\W\d] [a&&b]"),
    *_pieces(r"[~|-] [a-] [-a] [\]] [\x41-\x{5A}] [[a] [.-_] [[:space:]] [[:punct:]] [[:word:]-]"),
    *_pieces(r"\PN \p{Greek} [\pL\d] \C \a \123 [[:^word:]] (?U: (?<n> (?s-m)"),
    r"\ ",
)
"""What RE2 knows, and what others know."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('patterns')}/store")
    store.open(NOW)
    yield store
    store.close()


def found(store: Store, text: str, field: str = "nodetap.info") -> list[bool]:
    """Which of the texts the store finds."""
    node = parse(f'{field} matches "a"', "packets")
    assert isinstance(node, Compare)
    params = Params()
    test = compile_filter(Compare(node.left, node.operator, Constant("text", text), "any"), params, "packets")
    sql = f"SELECT info = '', {test} FROM (SELECT arrayJoin({{texts:Array(String)}}) AS info)"
    with store.reader() as reader:
        rows = list(reader.rows(sql, {**params.values, "texts": list(TEXTS)}, timeout=20))
    return [bool(test) for _, test in rows]


def agree(store: Store, text: str) -> None:
    search = pattern(text)
    mine = [each != "" and search(each.encode()) for each in TEXTS]  # an empty text is absent
    assert found(store, text) == mine, text


def test_bytes_that_are_no_text(store: Store) -> None:
    """Each byte is a character: ü has two."""
    for text in (*PIECES, "^.$", "^..$", "^[^a]{2}$", r"^[\x80-\xff]+$", r"\xbc$"):
        try:
            search = pattern(text, "bytes")
        except BadPattern:
            continue
        mine = [each != "" and search(each.encode()) for each in TEXTS]
        assert found(store, text, "nodetap.info[0:]") == mine, text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=5))
def test_any_pattern_that_is_taken(store: Store, pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        compiled(text)
    except BadPattern:
        assume(False)
    agree(store, text)


@pytest.mark.parametrize(
    "text",
    ["", *_pieces(r".{1000} [^x]{0,999}b (?P<n>a)(?P<n>b) (?<n>a) a(?i)b \pL (?-i)ü (?i)K (?:a*)*b"),
     *_pieces(r"[[:digit:]] ^\s$ [\S] b\z (?m)e$ (?i-s)A.*D a{,3} \Qa.b\E\* []a] [a&&b] (?m:e$)\n (a{2}){1,3} |")],
)  # fmt: skip
def test_a_pattern_that_others_would_read_otherwise(store: Store, text: str) -> None:
    agree(store, text)


@pytest.mark.parametrize("text", PIECES)
def test_a_piece_alone(store: Store, text: str) -> None:
    try:
        compiled(text)
    except BadPattern:
        return
    agree(store, text)


@pytest.mark.parametrize(
    "text",
    [*_pieces(r"(?=a) (?<=a)b (?!a) (?>a) (a)\1 (?P=n) (?#no) \Z \u0041 a*+ a** a{2}{3} a{1001} (a{100}){11}"),
     *_pieces(r"(?x)a (?a)b [[:nope:]] [ ( ) * a|+ [z-a] \ \x{110000} \pL{1000}"), "\ud800"],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(BadPattern, match="regular expression"):
        compiled(text)


@pytest.mark.parametrize("text", [r"^(\w+\.?)+$", "^(a|a)*$", "^(a*)*$", "(.*a){20}b", "a{0,400}a{400}b"])
def test_no_pattern_takes_for_ever(text: str) -> None:
    assert not pattern(text)(b"a" * 20_000 + b"!")


def test_other_threads_run_while_a_text_is_looked_at() -> None:
    turns, text = 0, bytes(random.Random(1).choices(b"abcd", k=20_000))
    looking = Thread(target=pattern("[ab].{1000}!"), args=(text,))
    looking.start()
    while looking.is_alive():
        turns += 1
    assert turns > 100
