"""Log lines of all programs: one event a line, the same keys everywhere, JSON or for a terminal.

What libraries say through `logging` becomes such lines too. The keys `agent`, `epoch` and `connection` are bound by
whoever knows them and stand on each line that follows.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")


PATIENCE = 0.5
"""Seconds for which a line waits where nobody reads; those behind it do not."""
PIECE = 1024
"""Characters that are written at once: no more than PIPE_BUF bytes, for which poll(2) says that there is room."""


def _has_room(seconds: float = 0.0) -> bool:
    """Whether standard error takes a piece now, or within so many seconds."""
    try:
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
        return bool(poll.poll(seconds * 1000))
    except (OSError, ValueError):  # no file
        return True


class _Lines:
    """Standard error, where it takes anything: a full disk, a closed pipe, or one that nobody reads any more must not
    end or hold up the thread that speaks. `lost` lines were dropped since the last that was written."""

    def __init__(self) -> None:
        self.lost = 0

    def write(self, text: str) -> None:
        with suppress(OSError):
            for at in range(0, len(text), PIECE):
                if not _has_room(0.0 if self.lost else PATIENCE):
                    self.lost += 1
                    return
                sys.stderr.write(text[at : at + PIECE])
                sys.stderr.flush()
            self.lost = 0

    def flush(self) -> None:
        """`write` has."""

    def tell(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """A processor: the next line says how many are missing."""
        return {**event, "lines_lost": self.lost} if self.lost else event


_LINES = _Lines()

_WHO = ("agent", "epoch", "connection", "session", "program")
"""Keys of a line that say who speaks; a person who reads a terminal wants to know what happened first."""


def _for_people(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A processor: the reason first, who speaks last."""
    first = {key: event[key] for key in ("reason",) if key in event}
    return {**first, **{k: v for k, v in event.items() if k not in _WHO}, **{k: event[k] for k in _WHO if k in event}}


def dump_stacks() -> None:
    """The stacks of all threads to standard error, unless nobody reads it: no thread runs while they are written."""
    if _has_room():
        faulthandler.dump_traceback(sys.stderr, all_threads=True)


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
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
    people: list[Any] = [_for_people, structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _LINES.tell,
            *(people if console else [structlog.processors.JSONRenderer()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_LINES),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


def logger(**values: Any) -> Any:
    """A logger that puts `values` on each of its lines."""
    return structlog.get_logger(**values)
