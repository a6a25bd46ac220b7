"""Log lines of all programs: one event a line, the same keys everywhere, JSON or for a terminal.

What libraries say through `logging` becomes such lines too. The keys `agent`, `epoch` and `connection` are bound by
whoever knows them and stand on each line that follows.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")


class _Lines:
    """Standard error, where it takes anything: a full disk or a closed pipe must not end the thread that speaks."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


class _Libraries(logging.Handler):
    """What libraries say, as lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__name__ == "CancelledError":  # uvicorn, of an answer that the hub's end broke off
            return
        more = {"exc_info": error} if error else {}
        structlog.get_logger().log(record.levelno, record.getMessage()[:1000].strip(), library=record.name, **more)


def configure(level: str = "info", fmt: str = "auto") -> None:
    """Set up structlog for this process: lines go to stderr. `auto` is console on a terminal and JSON elsewhere."""
    console = fmt == "console" or (fmt == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Lines()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


def logger(**values: Any) -> Any:
    """A logger that puts `values` on each of its lines."""
    return structlog.get_logger(**values)
