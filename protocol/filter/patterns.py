"""Regular expressions that the store's RE2 and Python's `re` read the same way, and how `re` is told to.

Only what both know is taken (https://github.com/google/re2/wiki/Syntax): a pattern that one of them reads otherwise, as
`[[:digit:]]`, `{,3}`, `\\z` or `\\s`, is written anew for `re`. The rest is refused: look-around, back references,
possessive and nested repeats that RE2 would refuse when the store is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_REPEATS = 1000
"""How often RE2 repeats at most, repeats of repeats multiplied."""

_TOKEN = re.compile(
    r"""\\Q(?P<quoted>.*?)(?:\\E|\Z)
    |\\x(?P<hex>[0-9a-fA-F]{2}|\{[0-9a-fA-F]{1,6}\})
    |(?P<escape>\\(?:0[0-7]{0,2}|[nrtfva]|[!-/:-@\[-^`{-~]))
    |(?P<class>\\[dDsSwW])
    |(?P<edge>\\[AbBz]|[\^$])
    |\(\?(?P<flags>[ims]+(?:-[ims]+)?|-[ims]+)\)
    |\((?P<open>\?P<[A-Za-z_]\w*>|\?[ims]*(?:-[ims]+)?:|(?!\?))
    |(?P<close>\))
    |(?P<repeat>[*+?]|\{(?P<least>[0-9]+)(?:,(?P<most>[0-9]*))?\})(?P<lazy>\??)
    |(?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\])
    |(?P<char>[^\\(\[])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_MEMBER = re.compile(
    r"""\[:(?P<posix>\^?\w+):\]
    |\\x(?P<hex>[0-9a-fA-F]{2}|\{[0-9a-fA-F]{1,6}\})
    |(?P<escape>\\(?:0[0-7]{0,2}|[nrtfva]|[!-/:-@\[-^`{-~]))
    |(?P<class>\\[dDsSwW])
    |(?P<char>[^\\])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t\x20", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": r"\x20-~", "punct": r"!-/:-@\[-`{-~",
    "space": r"\t-\r\x20", "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_INSIDE = {r"\s": r"\t\n\f\r\x20", r"\S": r"\S\v"}
"""White space without the vertical tab, as RE2 has it; in a set."""


class BadPattern(ValueError):
    """A pattern that is none, or that the store does not know; the text says what is expected."""


def translated(pattern: str) -> str:
    """The pattern as `re` with IGNORECASE and ASCII reads it. Raises BadPattern."""
    text = "".join(_Reading(pattern).words())
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"a regular expression ({re.sub(' at position.*', '', str(error))})") from None
    return text


class _Reading:
    """One pattern, read once. Per open group: whether `$` is the end of a line, and the repeats inside it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.lines = [False]
        self.inside = [1]
        self.repeats = 0
        """Those of what was read last; 0 where nothing can be repeated."""

    def words(self) -> Iterator[str]:
        """The translation, piece by piece."""
        at, flags = 0, ""
        while at < len(self.pattern):
            match = _TOKEN.match(self.pattern, at)
            if match is None or (match["flags"] is not None and at):
                raise BadPattern(f"a regular expression of RE2, which has no {self.pattern[at : at + 4]!r} there")
            if match["flags"]:
                flags, self.lines = f"(?{match['flags']}:", [_multi(match["flags"], False)]
                yield flags
            elif match["flags"] is None:
                yield self._word(match)
            at = match.end()
        yield ")" if flags else ""

    def _word(self, match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        if match["repeat"]:
            return self._repeated(match)
        if match["open"] is not None:
            self.lines.append(_multi(match["open"], self.lines[-1]))
            self.inside.append(1)
            self.repeats = 0
            return f"({match['open']}"
        if match["close"]:
            return self._closed()
        self.repeats = 1
        return self._changed(kind, match[kind])

    def _closed(self) -> str:
        if len(self.inside) == 1:
            raise BadPattern("a regular expression (unbalanced parenthesis)")
        self.lines.pop()
        self.repeats = self.inside.pop()
        self.inside[-1] = max(self.inside[-1], self.repeats)
        return ")"

    def _repeated(self, match: re.Match[str]) -> str:
        """A repeat; of a repeat it is refused, as both do where the second is not `?`."""
        if not self.repeats:
            raise BadPattern("a regular expression (nothing to repeat)")
        count = max(int(match["least"] or 1), int(match["most"] or 1))
        if self.repeats * count > MOST_REPEATS:
            raise BadPattern(f"a regular expression that repeats {MOST_REPEATS} times at most")
        self.inside[-1] = max(self.inside[-1], self.repeats * count)
        self.repeats = 0
        return match[0]

    def _changed(self, kind: str, text: str) -> str:
        """A piece that stands for characters or a place."""
        if kind == "quoted":
            return re.escape(text)
        if kind == "hex":
            return _character(text)
        if kind == "set":
            return _set(text)
        if kind == "class":
            return f"[{_INSIDE[text]}]" if text in _INSIDE else text
        if text == "$" and not self.lines[-1]:
            return r"\Z"
        if text in ("|", "{"):
            self.repeats = int(text == "{")
            return "|" if text == "|" else r"\{"
        return r"\Z" if text == r"\z" else text


def _multi(flags: str, before: bool) -> bool:
    """Whether `$` is the end of a line behind what opens a group, `?i-m:`, `?P<name>` or nothing."""
    if "<" in flags:
        return before
    on, _, off = flags.partition("-")
    return "m" not in off and (before or "m" in on)


def _character(digits: str) -> str:
    code = int(digits.strip("{}"), 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise BadPattern("a regular expression (no such character)")
    return f"\\U{code:08x}"


def _set(text: str) -> str:
    """`[...]` anew: what `re` would read otherwise is written out."""
    begin = "[^" if text.startswith("[^") else "["
    inside, at, words = text[len(begin) : -1], 0, [begin]
    while at < len(inside):
        match = _MEMBER.match(inside, at)
        if match is None:
            raise BadPattern(f"a regular expression of RE2, whose sets have no {inside[at : at + 2]!r}")
        words.append(_member(match))
        at = match.end()
    return "".join([*words, "]"])


def _member(match: re.Match[str]) -> str:
    if name := match["posix"]:
        if name not in _POSIX:
            raise BadPattern(f"a regular expression (there is no class [:{name}:])")
        return _POSIX[name]
    if match["hex"]:
        return _character(match["hex"])
    text = match[0]
    return rf"\{text}" if text in "[]&|~" else _INSIDE.get(text, text)
