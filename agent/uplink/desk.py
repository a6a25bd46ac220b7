"""Where the hub's questions to this agent are answered: one at a time, on a thread, as disks and /proc may hang."""

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
        self._busy = False  # also after the connection that asked is gone: a thread cannot be ended

    @property
    def words(self) -> list[str]:
        """What may be asked about."""
        return list(self._makers)

    async def answer(self, ask: Ask) -> Answer:
        """The answer, or why there is none. Never raises but when cancelled."""
        if ask.about not in self._makers:
            return Answer(ask.id, refused="unknown_question", detail=f"this agent knows {', '.join(self.words)}")
        if self._busy:
            return Answer(ask.id, refused="busy", detail="still at the answer to an earlier question")
        self._busy = True
        try:
            return Answer(ask.id, await self._in_thread(self._makers[ask.about]))
        except Exception as error:
            return Answer(ask.id, refused="failed", detail=f"{type(error).__name__}: {error}"[:MAX_DETAIL])

    async def _in_thread(self, maker: Maker) -> dict[str, Any]:
        """Shielded: a call that is cancelled before its thread runs would leave us busy for ever."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._make, maker))

    def _make(self, maker: Maker) -> dict[str, Any]:
        try:
            failpoints.ask()
            return maker()
        finally:
            self._busy = False
