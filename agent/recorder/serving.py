"""Where the hub's fetches are answered: on a thread, each question one part at a time, a few questions at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from agent.recorder.recorder import Recorder
from agent.recorder.search import Search
from protocol.limits import MAX_DETAIL
from protocol.messages import Fetch, Fetched

MOST_OPEN = 3
"""Questions that are answered at once; each may hold one file in memory."""
IDLE = 60.0
"""Seconds after which a question is over that nobody asks the next part of."""


@dataclass(slots=True)
class _Open:
    """One question on its way."""

    part: int = 0
    search: Search | None = None
    busy: bool = False
    asked: float = field(default_factory=monotonic)


class Serving:
    """Answers out of one recorder. On the loop; a question is known by who asks and its number."""

    def __init__(self, recorder: Recorder, agent: str) -> None:
        self._recorder, self._agent = recorder, agent
        self._open: dict[tuple[str, int], _Open] = {}

    async def answer(self, connection: str, fetch: Fetch) -> Fetched:
        """The part, or why there is none. Never raises but when cancelled."""
        key = (connection, fetch.id)
        if fetch.part == 0:
            self._open.pop(key, None)
            return Fetched(fetch.id, 0, last=1)
        if not self._recorder.ready:
            failing = self._recorder.look().failing
            return _refused(fetch, "failed" if failing else "busy", failing or "the recorder still looks at its files")
        question, refused = self._find(key, fetch)
        if question is None:
            return refused
        try:
            fetched = await asyncio.shield(self._start(question, fetch))
        except Exception as error:
            self._open.pop(key, None)
            code = "bad_filter" if isinstance(error, ValueError) else "failed"
            return _refused(fetch, code, f"{error}" if code == "bad_filter" else f"{type(error).__name__}: {error}")
        if fetched.last:
            self._open.pop(key, None)
        return fetched

    def _find(self, key: tuple[str, int], fetch: Fetch) -> tuple[_Open | None, Fetched]:
        """The question that a fetch belongs to, or why it has to be refused."""
        now = monotonic()
        for other, question in list(self._open.items()):
            gone = other[0] != key[0]  # the connection that asked it has ended
            if not question.busy and (gone or now - question.asked > IDLE):
                del self._open[other]
        if fetch.part == 1 and key not in self._open:
            if len(self._open) >= MOST_OPEN:
                return None, _refused(fetch, "busy", f"{MOST_OPEN} questions are being answered; ask again later")
            self._open[key] = _Open()
        found = self._open.get(key)
        if found is None or found.busy or fetch.part != found.part + 1:
            return None, _refused(fetch, "out_of_turn", f"part {fetch.part} of a question that is not there or busy")
        found.part, found.asked = fetch.part, now
        return found, _refused(fetch, "", "")

    def _start(self, question: _Open, fetch: Fetch) -> asyncio.Future[Fetched]:
        """Make the part on a thread; the question is busy until it is made, also where nobody waits any more."""

        def make() -> Fetched:
            if question.search is None:
                question.search = Search(self._recorder, fetch, self._agent)
            return question.search.part(fetch)

        def made(future: asyncio.Future[Fetched]) -> None:
            question.busy = False
            if not future.cancelled():
                future.exception()  # looked at, should nobody else

        question.busy = True
        making = asyncio.get_running_loop().run_in_executor(None, make)
        making.add_done_callback(made)
        return making


def _refused(fetch: Fetch, code: str, detail: str) -> Fetched:
    return Fetched(fetch.id, fetch.part, last=1, refused=code, detail=detail[:MAX_DETAIL])
