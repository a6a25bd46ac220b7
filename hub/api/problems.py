"""Errors of the API: problem+json (RFC 9457). `PROBLEMS` is the vocabulary: code, status, title."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from hub.fanout.asker import TooMany
from hub.query.follow import WrongCursor
from hub.query.select import Contradiction, WrongQuestion
from hub.store.errors import QueryError, QueryTimeout, StoreBusy, StoreError
from protocol.filter.errors import FilterError

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_filter": (400, "The filter is wrong"),
    "bad_parameter": (400, "A parameter is wrong"),
    "bad_setting": (400, "An agent refuses the setting"),
    "bad_token": (401, "The token is missing or wrong"),
    "not_allowed": (403, "The token has not the role that this takes"),
    "not_found": (404, "There is no such path"),
    "no_such_agent": (404, "There is no such agent"),
    "method_not_allowed": (405, "The path does not take this method"),
    "contradiction": (409, "The parameters do not go together"),
    "bad_cursor": (409, "The cursor cannot be used"),
    "wrong_store": (409, "The cursor belongs to another store"),
    "agent_connected": (409, "The agent is connected"),
    "too_many": (429, "More than one client may ask"),
    "query_failed": (500, "The store could not answer"),
    "internal": (500, "The hub made a mistake"),
    "busy": (503, "Too many questions at once"),
    "store_error": (503, "The store does not answer"),
    "query_timeout": (504, "The question took too long"),
}
"""Code -> (HTTP status, title)."""

RETRY_AFTER = 2
"""Seconds until a busy hub may be asked again, where nothing better is known."""
_BAD_PATTERN = 427  # ClickHouse: CANNOT_COMPILE_REGEXP
_TOO_MUCH = {  # ClickHouse: MEMORY_LIMIT_EXCEEDED, TOO_MANY_ROWS_OR_BYTES
    241: "the question takes more memory than one may: narrow since, until or the filter, or ask for fewer fields",
    396: "the answer has more rows than this hub sends: ask for less",
}


class Problem(Exception):
    """An answer that is an error. `retry`: seconds until to ask again, where that helps; `more`: further members of
    the problem object."""

    def __init__(self, code: str, detail: str, *, retry: int = RETRY_AFTER, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry = retry
        self.more = more

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.code][0]

    def to_map(self) -> dict[str, Any]:
        """The problem object."""
        status, title = PROBLEMS[self.code]
        return {
            "type": f"urn:nodetap:problem:{self.code}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
            **self.more,
        }

    def response(self) -> Response:
        """The whole answer."""
        retry = {"Retry-After": str(self.retry)}
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: retry, 503: retry}.get(self.status, {})
        return Response(json.dumps(self.to_map()), self.status, headers, "application/problem+json")


def problem_of(error: BaseException) -> Problem:
    """The problem an exception is; what nobody expected is `internal`, and its text stays inside."""
    match error:
        case Problem():
            return error
        case FilterError():
            return Problem("bad_filter", error.message, column=error.column, suggestion=error.suggestion)
        case WrongCursor():
            return Problem(error.code, str(error))
        case Contradiction():
            return Problem("contradiction", str(error))
        case WrongQuestion():
            return Problem("bad_parameter", str(error))
        case QueryTimeout():
            return Problem("query_timeout", "the question took too long: narrow since, until or the filter")
        case QueryError(code=code) if code == _BAD_PATTERN:
            return Problem(
                "bad_filter", "the store does not take a regular expression (RE2)", column=1, suggestion=None
            )
        case QueryError(code=code) if code in _TOO_MUCH:
            return Problem("query_failed", _TOO_MUCH[code])
        case QueryError():
            return Problem("query_failed", str(error)[:500])
        case StoreBusy():
            return Problem("busy", "all readers of the store are taken: ask again in a moment")
        case TooMany():
            return Problem("busy", "as many questions are put to the agents as may be: ask again in a moment")
        case StoreError():
            return Problem("store_error", str(error)[:500])
    return Problem("internal", f"an error nobody expected ({type(error).__name__}): see the hub's log")
