"""Several hubs, to commands the same as one `Client`: asked at once, each with its deadline, and put together.

A hub that does not answer, or breaks off, is named in the completeness, and costs nothing but its own rows. Only where
no hub answers is that an error.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hub.cli.client import Client, Head, explain
from hub.cli.errors import UNREACHABLE, USAGE, CliError, HubLost
from hub.cli.regions import formats, said
from hub.cli.regions.feed import Feed, Spooled
from hub.cli.regions.order import ORDER, Order, blocks, lines, merged, order, read
from hub.cli.regions.said import Outcome
from hub.cli.regions.sums import FIGURES, Groups, as_lines
from hub.cli.stream import Rows, parsed
from hub.fanout.plan import Habits
from protocol.schema import fields_of

TABLES = {"/v1/packets": "packets", "/v1/flows": "flows", "/v1/calls": "calls"}
TOGETHER: dict[str, Callable[[said.Outcomes], said.Answer]] = {
    "/v1/agents": said.agents,
    "/v1/ledger": said.ledger,
    "/v1/doctor": said.doctor,
    "/v1/configure": said.configure,
}
"""Paths whose answers are put together from whole ones."""
FRAMES = ("/v1/pcap", "/v1/capture")
"""Paths whose answers are captures."""
ANY = ("/v1/fields",)
"""Paths where one hub's answer is as good as another's."""


class Regions(Client):
    """Several hubs. What commands ask of it is asked of each."""

    def __init__(self, clients: Sequence[Client], deadline: float) -> None:
        self._clients = list(clients)
        self.url = ", ".join(client.url for client in clients)
        self.most = ""
        self.broken: dict[str, str] = {}
        """Why hubs are missing from the last answer that had rows."""
        self._deadline = deadline
        self._habits = Habits()

    @property
    def each(self) -> list[Client]:
        """The hubs that are asked, one by one."""
        return self._clients

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    @contextlib.contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any] | None = None, method: str = "GET", silence: float | None = None
    ) -> Iterator[tuple[Head, Iterator[bytes]]]:
        """As of one hub. Raises CliError where none answers, or several cannot be asked this."""
        asked = {name: value for name, value in (params or {}).items() if value is not None}
        if method != "GET" or not (path in TABLES or path in TOGETHER or path in FRAMES or path in ANY):
            raise CliError("several hubs cannot be asked this at once: give one --hub-url", USAGE)
        with contextlib.ExitStack() as stack:
            yield self._answer(path, asked, silence, stack)

    def change(self, method: str, path: str, params: Mapping[str, Any]) -> Any:
        """As of one hub, where several can be asked it: settings of agents. Raises CliError."""
        from hub.cli.regions import settings

        return settings.change(self, method, params) if path == settings.PATH else super().change(method, path, params)

    def outcomes(self, path: str, asked: Mapping[str, Any], silence: float | None = None) -> dict[str, Outcome]:
        """What each hub says, whole, or why it says nothing. Raises CliError where none answers."""
        feeds = self._feeds(path, asked, silence)
        self._begun(feeds)
        outcomes = {feed.url: _outcome(client, feed, path) for client, feed in zip(self._clients, feeds, strict=True)}
        if all(isinstance(told, str) for told in outcomes.values()):
            raise none_of(feeds)
        return outcomes

    # -- inside ----------------------------------------------------------------------------------------------------

    def _answer(
        self, path: str, asked: dict[str, Any], silence: float | None, stack: contextlib.ExitStack
    ) -> tuple[Head, Iterator[bytes]]:
        table = TABLES.get(path)
        if path in FRAMES:
            return self._frames(path, asked, silence, stack)
        if path in TOGETHER:
            return self._whole(path, asked, silence, TOGETHER[path])
        if table is None or asked.get("explain") == "yes":
            return self._any(path, asked, silence)
        if asked.get("completeness") == "only":
            return self._whole(path, asked, silence, self._completeness)
        return self._table(table, asked, stack)

    def _feeds(
        self, path: str, asked: Mapping[str, Any], silence: float | None = None, kind: Callable[..., Feed] = Feed
    ) -> list[Feed]:
        for client in self._clients:
            client.deadline = self._habits.within(client.url, self._deadline)
        return [kind(client, path, asked, silence) for client in self._clients]

    def _begun(self, feeds: Iterable[Feed]) -> list[Feed]:
        """Those that answer. Raises CliError where none does."""
        feeds = list(feeds)
        found = [feed for feed in feeds if feed.begun()]
        for feed in feeds:
            if feed.trouble is None:
                self._habits.answered(feed.url)
            elif isinstance(feed.trouble, HubLost):
                self._habits.missed(feed.url)
        if not found:
            raise none_of(feeds)
        return found

    def _any(self, path: str, asked: Mapping[str, Any], silence: float | None) -> tuple[Head, Iterator[bytes]]:
        feeds = self._feeds(path, asked, silence)
        first, *others = self._begun(feeds)
        for feed in others:
            feed.stop()
        assert first.head is not None
        return first.head, first.chunks()

    def _whole(
        self, path: str, asked: Mapping[str, Any], silence: float | None, together: Callable[[said.Outcomes], Any]
    ) -> tuple[Head, Iterator[bytes]]:
        """Whole JSON answers, put together."""
        return Head(200, {}), iter([json.dumps(together(self.outcomes(path, asked, silence))).encode()])

    def _completeness(self, outcomes: said.Outcomes) -> said.Answer:
        """What broke off an answer is missing from it, whatever the hub says by now."""
        return said.completeness({**outcomes, **self.broken})

    def _frames(
        self, path: str, asked: dict[str, Any], silence: float | None, stack: contextlib.ExitStack
    ) -> tuple[Head, Iterator[bytes]]:
        if path == "/v1/capture":
            return self._live(path, asked, silence, stack)
        from hub.cli.regions.frames import Recorded

        feeds = self._feeds(path, asked, silence, Spooled)
        for feed in feeds:
            stack.callback(feed.stop)
        self._begun(feeds)
        return Head(200, {}), Recorded(feeds, asked).chunks()

    def _live(
        self, path: str, asked: dict[str, Any], silence: float | None, stack: contextlib.ExitStack
    ) -> tuple[Head, Iterator[bytes]]:
        from hub.cli.regions.live import Captured

        came, clients = threading.Event(), {client.url: client for client in self._clients}
        captured = Captured(
            self._feeds(path, asked, silence, partial(Feed, came=came)), asked, came,
            lambda url, asked, pause: Feed(clients[url], path, asked, silence, came, pause),
        )  # fmt: skip
        stack.callback(captured.stop)
        captured.begun()
        return Head(200, {}), captured.chunks()

    # -- rows ------------------------------------------------------------------------------------------------------

    def _table(self, table: str, asked: dict[str, Any], stack: contextlib.ExitStack) -> tuple[Head, Iterator[bytes]]:
        question = _Question(table, asked)
        feeds = self._feeds(f"/v1/{table}", question.of_each)
        for feed in feeds:
            stack.callback(feed.stop)
        found = self._begun(feeds)
        answer = _Answer(feeds, str(asked.get("filter") or ""))
        rows = question.together([answer.rows(feed) for feed in found])
        assert found[0].head is not None
        return found[0].head, self._formatted(question, rows, answer)

    def _formatted(self, question: _Question, rows: Iterator[bytes], answer: _Answer) -> Iterator[bytes]:
        output = question.asked.get("format", "ndjson")
        if output == "csv":
            yield from formats.csv(rows, question.columns)
        elif output in ("arrow", "parquet"):
            yield from self._arrow(question, rows, output)
        else:
            yield from rows
        told = answer.end()
        self.broken = {url: why for url, why in told.items() if isinstance(why, str)}
        if output == "ndjson":
            yield json.dumps({"nodetap.completeness": said.completeness(told)}).encode() + b"\n"

    def _arrow(self, question: _Question, rows: Iterator[bytes], output: str) -> Iterator[bytes]:
        from hub.query.arrow import arrow_stream, parquet_file

        nothing = {**question.asked, "format": "arrow", "since": "0", "until": "1", "limit": 1}
        _, chunks = self._any(f"/v1/{question.table}", nothing, None)
        made = formats.arrow(rows, b"".join(chunks))
        yield from (arrow_stream if output == "arrow" else parquet_file)(made)


class _Question:
    """Rows of a table, or figures of groups of them: what each hub is asked for, and what becomes of it."""

    def __init__(self, table: str, asked: dict[str, Any]) -> None:
        self.table, self.asked = table, asked
        self._by = _names(asked.get("by"))
        self._sort = read(asked.get("sort"))
        self._order: Order = order(table, self._sort, ORDER[table])
        shown = _names(asked.get("fields"))
        self._hidden = [name for name in self._order.names if shown and name not in shown]
        self._shown = shown
        of_rows = {"fields": ",".join([*shown, *self._hidden]) or None}
        of_groups = {"top": 0, "sort": None, "sketch": "yes" if table == "calls" else None}
        self.of_each: dict[str, Any] = {**asked, "format": "ndjson", **(of_groups if self._by else of_rows)}

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and kinds of what is shown."""
        known = fields_of(self.table)
        names = [*self._by, *FIGURES[self.table]] if self._by else self._shown or list(known)
        return [(name, known[name].kind if name in known else "uint") for name in names]

    def together(self, answers: Sequence[Iterable[bytes]]) -> Iterator[bytes]:
        """Blocks of the rows that are shown. Without `limit` rows go on as they come; the newest wait for the last."""
        if self._by:
            return blocks(as_lines(self._groups(answers)))
        found = merged([lines(answer, self._order, self._hidden) for answer in answers])
        limit = int(self.asked.get("limit") or 0)
        if limit and not self._sort:
            return blocks(_last(found, limit))
        return blocks(_first(found, limit))

    def _groups(self, answers: Iterable[Iterable[bytes]]) -> Iterator[Mapping[str, Any]]:
        groups = Groups(self.table, self._by)
        for answer in answers:
            for row in parsed(answer):
                groups.add(row)
        top = self.asked.get("top")
        yield from groups.rows(self._sort, 10 if top is None else int(top))


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _first(found: Iterable[bytes], limit: int) -> Iterator[bytes]:
    for count, line in enumerate(found, 1):
        yield line
        if count == limit:
            return


def _last(found: Iterable[bytes], limit: int) -> Iterator[bytes]:
    yield from deque(found, maxlen=limit)


class _Answer:
    """Rows of several hubs on their way, and what each says at its end."""

    def __init__(self, feeds: Sequence[Feed], text: str) -> None:
        self._feeds, self._text = feeds, text
        self._ends: dict[str, Outcome] = {}

    def rows(self, feed: Feed) -> Iterator[bytes]:
        """The rows of one hub, as far as they come."""
        rows = Rows(feed.chunks())
        try:
            yield from rows
        except HubLost as error:
            feed.trouble = feed.trouble or error
            return
        if "nodetap.error" in rows.end:
            feed.trouble = explain(rows.end["nodetap.error"], self._text, feed.url)
        else:
            self._ends[feed.url] = rows.end["nodetap.completeness"]

    def end(self) -> dict[str, Outcome]:
        """How each hub ended; those that were not needed to their end are asked for it. Raises CliError."""
        for feed in self._feeds:
            if feed.trouble is None and feed.url not in self._ends:
                for _ in self.rows(feed):
                    pass
        if not self._ends:
            raise none_of(self._feeds)
        return {feed.url: self._ends.get(feed.url) or reason(feed) for feed in self._feeds}


def _outcome(client: Client, feed: Feed, path: str) -> Outcome:
    """A hub's whole answer, or why it is missing."""
    body = b"".join(feed.chunks()) if feed.begun() else b""
    try:
        return reason(feed) if feed.trouble else client.read(path, body)
    except CliError as error:
        feed.trouble = error
        return reason(feed)


def reason(feed: Feed) -> str:
    """Why a hub is missing."""
    return short(feed.trouble, feed.url)


def short(error: Exception | None, url: str) -> str:
    """An error in words that need not name the hub, nor say what to do."""
    text = str(error).partition("\n")[0].partition("; ")[0]
    return text.replace(f" at {url}", "").replace(url, "it")


def none_of(feeds: Sequence[Feed]) -> CliError:
    """No hub answers: the one error that is not about getting there, else all of them."""
    troubles = [feed.trouble for feed in feeds if feed.trouble is not None]
    for trouble in troubles:
        if trouble.code != UNREACHABLE:
            return trouble
    lost = HubLost if all(isinstance(trouble, HubLost) for trouble in troubles) else CliError
    return lost("no hub answers: " + "; ".join(f"{feed.url}: {reason(feed)}" for feed in feeds if feed.trouble))
