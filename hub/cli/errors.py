"""How a command fails: one line for people and an exit code. `main` prints the line and exits."""

from __future__ import annotations

NEGATIVE = 1
USAGE = 2
UNREACHABLE = 3
INCOMPLETE = 4

AROUND = 150
"""Characters of a filter that are shown before and behind what is wrong with it."""


class CliError(Exception):
    """The command cannot go on. `str(error)` says what happened and what to do; `code` is the exit code.

    `doubtful`: the hub may have done what was asked of it for all that.
    """

    def __init__(self, message: str, code: int = UNREACHABLE, *, doubtful: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.doubtful = doubtful


class HubLost(CliError):
    """The hub cannot be reached, fell silent or broke off: trying again may help."""

    def __init__(self, message: str, *, doubtful: bool = True) -> None:
        super().__init__(message, doubtful=doubtful)


class FilterError(CliError):
    """The filter is wrong: shown with a caret under the column (from 1) where it goes wrong."""

    def __init__(self, text: str, detail: str, column: int | None, suggestion: str | None) -> None:
        lines = [f"the filter is wrong: {detail}"]
        if text and column:
            begin = max(column - 1 - AROUND, 0)
            shown = text[begin : column + AROUND]
            lines += [f"  {shown}", f"  {' ' * (column - 1 - begin)}^"]
        if suggestion:
            lines.append(f"  did you mean {suggestion}?")
        super().__init__("\n".join(lines), USAGE)
