"""Regular expressions: those of RE2, which the store has too, so that agents find what the store finds.

RE2 takes time in proportion to a text, whatever the pattern, and other threads run meanwhile. Python's `re` may take
for ever, and stops the whole process for as long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

MEMORY = 2 << 20
"""Bytes of one pattern: of its program, and of what it learns of texts to be fast."""
MOST_KEPT = 8
"""Patterns that are kept after they were asked for."""
_REMEDIES = {
    "invalid perl operator": "it has no look-around: join two tests with and, and say not",
    "invalid escape sequence": "it has no back references, and for \\Z it has $",
    "bad repetition operator": "a repeat is not repeated",
    "invalid repetition size": "1000 times at most, repeats of repeats multiplied",
    "pattern too large - compile failed": "repeat less",
}


class BadPattern(ValueError):
    """A pattern that is none to RE2; the text says what is expected."""


@lru_cache(MOST_KEPT)
def compiled(pattern: str) -> Any:
    """The pattern to be searched for in UTF-8: case does not count, `.` is no line end, `$` the very end.

    Raises BadPattern.
    """
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.max_mem = MEMORY
    try:
        made = re2.compile(pattern, options)
    except re2.error as error:
        raise BadPattern(_said(error.args[0].decode("utf-8", "replace"))) from None
    except UnicodeEncodeError:
        raise BadPattern("a regular expression of characters that there are") from None
    re2.purge()  # else 128 are kept, with all their memory
    return made


def grown(pattern: str) -> int:
    """Steps of its program beyond one for each byte written: what repeats have made of it. Raises BadPattern.

    At worst RE2 takes all steps of a program for each byte of a text.
    """
    return max(0, int(compiled(pattern).programsize) - len(pattern.encode()))


def _said(error: str) -> str:
    """RE2's words, `what: where`, on one line, and what to do."""
    what, _, where = error.partition(": ")
    shown = "".join(letter if letter.isprintable() else " " for letter in where[:80])
    said = f"{what}: '{shown}'" if shown else what
    return f"a regular expression of RE2 ({said})" + (f"; {_REMEDIES[what]}" if what in _REMEDIES else "")
