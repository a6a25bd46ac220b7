"""Raw frames for the hub, recorded or live, as far as this agent was told that it may give them away."""

from __future__ import annotations

from agent.recorder.serving import Serving
from agent.tap.serving import Live
from protocol.messages import CAPTURE, PCAP, Fetch, Fetched


class Raw:
    """Answers every fetch. An agent without either says so in its hello, and refuses."""

    def __init__(self, recorded: Serving | None = None, live: Live | None = None) -> None:
        self._recorded, self._live = recorded, live

    @property
    def words(self) -> list[str]:
        """What the hub may ask for."""
        given = ((PCAP, self._recorded), (CAPTURE, self._live))
        return [word for word, serving in given if serving is not None]

    async def answer(self, connection: str, fetch: Fetch) -> Fetched:
        """The part asked for, or why there is none. Never raises but when cancelled."""
        serving = self._live if fetch.live else self._recorded
        if serving is None:
            return Fetched(
                fetch.id, fetch.part, last=1, refused="not_allowed", detail="this agent gives no such frames"
            )
        return await serving.answer(connection, fetch)

    def left(self, connection: str) -> None:
        """A connection ended."""
        if self._live is not None:
            self._live.left(connection)
