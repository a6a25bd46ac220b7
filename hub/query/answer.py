"""From a question to the query that answers it: rows as they are, rows in an order, or groups."""

from __future__ import annotations

from hub.query import select
from hub.query.groups import groups
from hub.query.order import sorted_rows


def build(question: select.Question) -> select.Query:
    """The query of a question. Raises WrongQuestion."""
    if question.by:
        return groups(question)
    return sorted_rows(question) if question.sort else select.build(question)
