"""Where the hub's questions to this agent are answered: one of a kind at a time, on a thread, as disks and /proc may
hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agent import failpoints
from protocol.limits import MAX_DETAIL
from protocol.messages import Answer, Ask

Maker: TypeAlias = "Callable[[], dict[str, Any]]"
"""Makes an answer's body; blocks as long as it likes, in a thread."""


class Desk:
    """`makers`: what may be asked about, and who answers."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = makers
        # also after the connection that asked is gone: a thread cannot be ended
        self._making: dict[str, asyncio.Future[dict[str, Any]]] = {}

    @property
    def words(self) -> list[str]:
        """What may be asked about."""
        return list(self._makers)

    async def answer(self, ask: Ask) -> Answer:
        """The answer, or why there is none. Never raises but when cancelled.

        Who asks while the answer to the same is being made gets that one, if it comes within half of the time.
        """
        if ask.about not in self._makers:
            return Answer(ask.id, refused="unknown_question", detail=f"this agent knows {', '.join(self.words)}")
        making = self._making.get(ask.about)
        if making is None:
            making = self._make(ask.about)
        elif not (await asyncio.wait({making}, timeout=ask.within / 2))[0]:
            return Answer(ask.id, refused="busy", detail="still at the answer to an earlier question")
        try:
            return Answer(ask.id, await asyncio.shield(making))
        except Exception as error:
            return Answer(ask.id, refused="failed", detail=f"{type(error).__name__}: {error}"[:MAX_DETAIL])

    def _make(self, about: str) -> asyncio.Future[dict[str, Any]]:
        """Start a thread; its future stays in `_making` until it is done, also where nobody waits any more."""

        def work() -> dict[str, Any]:
            failpoints.ask()
            return self._makers[about]()

        def made(future: asyncio.Future[dict[str, Any]]) -> None:
            del self._making[about]
            future.exception()  # looked at, should nobody else

        making = self._making[about] = asyncio.get_running_loop().run_in_executor(None, work)
        making.add_done_callback(made)
        return making
