"""How a filter is refused."""

from __future__ import annotations


class FilterError(ValueError):
    """A filter that cannot be taken. `code` is a word, `column` counts characters from 1, `suggestion` may be None."""

    def __init__(self, code: str, column: int, message: str, suggestion: str | None = None) -> None:
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        super().__init__(f"filter, column {column}: {message}{hint}")
        self.code = code
        self.column = column
        self.message = message
        self.suggestion = suggestion
