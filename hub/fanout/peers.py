"""The other hubs over the same store: questions to agents that are connected there, passed on with the caller's token.

One hop: a hub that is asked by a hub answers for its own agents alone (HOP), so nothing goes in circles. Hubs over one
store have the same tokens and show the same certificate; by that they know each other, whatever their addresses.
Requests block, on threads of their own; one that takes too long is given up and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlencode

from hub.fanout.plan import Habits
from hub.pcap.fetcher import Fetcher
from protocol.codec import decode, encode
from protocol.messages import Fetch, Fetched

HOP = "nodetap-hop"
"""The header of a request that comes from a hub: for whose address."""
THREADS = 32
CONNECT = 3.0
"""Seconds until a connection is given up."""
RELAY = "/v1/relay/"
OTHERS = 0.8
"""The share of a deadline that another hub is given for its agents; the rest is for the way."""

Agents = Callable[[], Mapping[str, Mapping[str, Any]]]
Told = Mapping[str, Any]


class Silent(Exception):
    """Another hub did not answer; the text says what was wrong."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose question is passed on: their token, as it came, and their address. `hop`: it comes from a hub already."""

    authorization: str = ""
    peer: str = ""
    hop: str = ""

    def headers(self) -> dict[str, str]:
        """Of the request to another hub."""
        return {HOP: self.peer or "-"} | ({"Authorization": self.authorization} if self.authorization else {})


class Peers:
    """`elsewhere` are the agents that other hubs have, with `hub`, the URL of each; `certificate` is the SHA-256 that
    others show, empty without TLS."""

    def __init__(
        self, elsewhere: Agents = dict, certificate: Callable[[], str] = str, fetcher: Fetcher | None = None
    ) -> None:
        self._elsewhere, self._certificate = elsewhere, certificate
        self.fetcher = fetcher or Fetcher()
        self.name = token_hex(8)
        self._habits = Habits()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="peers")
        self._pool: tuple[str, Any] = ("", None)

    @property
    def hubs(self) -> dict[str, list[str]]:
        """The hubs that have agents, with their names."""
        found: dict[str, list[str]] = {}
        for name, told in self._elsewhere().items():
            if told.get("hub"):
                found.setdefault(str(told["hub"]), []).append(name)
        return found

    async def ask(self, caller: Caller, path: str, params: Mapping[str, str], within: float) -> dict[str, Told | str]:
        """The JSON answer of each hub that has agents, or why there is none; nothing where a hub asks."""
        if caller.hop:
            return {}
        urls = list(self.hubs)
        self._habits.keep(urls)
        found = await asyncio.gather(*(self._one(caller, url, path, params, within) for url in urls))
        return dict(zip(urls, found, strict=True))

    async def _one(self, caller: Caller, url: str, path: str, params: Mapping[str, str], full: float) -> Told | str:
        within = self._habits.within(url, full)
        try:
            body = await self._within(within, "GET", f"{url}{path}?{urlencode(params)}", caller.headers())
            told: Told = json.loads(body)
        except (Silent, ValueError) as error:
            self._habits.missed(url)
            return str(error)
        self._habits.answered(url)
        return told

    async def _within(self, within: float, method: str, url: str, headers: dict[str, str], body: bytes = b"") -> bytes:
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._request, method, url, headers, body, within
        )
        try:
            async with asyncio.timeout(within):
                return await work
        except TimeoutError:
            raise Silent(f"no answer within {within:g} s") from None

    def _request(self, method: str, url: str, headers: dict[str, str], body: bytes, within: float) -> bytes:
        import urllib3

        timeout = urllib3.Timeout(connect=min(CONNECT, within), read=within)
        if self._certificate() and not url.startswith("https:"):  # a token is not for who might be anybody
            raise Silent("it shows no certificate: give all hubs over one store the same --tls-cert and --tls-key")
        try:
            answer = self._manager().request(method, url, headers=headers, body=body or None, timeout=timeout)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Silent(" ".join(str(error).split())[:300]) from None
        if answer.status >= 400:
            raise Silent(f"HTTP status {answer.status}: {answer.data[:300].decode(errors='replace')}")
        return bytes(answer.data)

    def _manager(self) -> Any:
        """The connections; new ones where the certificate is a new one."""
        import urllib3

        shown = self._certificate()
        if self._pool[1] is None or self._pool[0] != shown:
            pinned = {"cert_reqs": "CERT_NONE", "assert_fingerprint": shown} if shown else {}
            self._pool = (shown, urllib3.PoolManager(maxsize=THREADS, retries=False, **pinned))  # type: ignore[arg-type]
        return self._pool[1]

    # -- raw frames ------------------------------------------------------------------------------------------------

    def lines(self, caller: Caller) -> Callable[[str], Remote | None]:
        """What stands for the connections of agents elsewhere, the same while the agent's stays."""
        known: dict[tuple[str, str, str], Remote] = {}

        def line(name: str) -> Remote | None:
            told = self._elsewhere().get(name, {})
            if caller.hop or not told.get("hub"):
                return None
            key = name, str(told["hub"]), str(told.get("connection"))
            answers = [str(word) for word in told.get("answers", ())]
            return known.setdefault(key, Remote(name, answers, key[1], key[2], caller, self))

        return line

    async def relay(self, line: Remote, fetch: Fetch) -> None:
        """Put a message to an agent's hub, and hand on what comes back."""
        query = urlencode({"connection": line.connection, "question": f"{self.name}-{fetch.id}"})
        url = f"{line.hub}{RELAY}{quote(line.agent, safe='')}?{query}"
        try:
            body = await self._within(fetch.within + 1.0, "POST", url, line.caller.headers(), encode(fetch))
            if fetch.part:
                fetched, _ = decode(body, "agent")
                assert isinstance(fetched, Fetched)
                self.fetcher.arrived(line, fetched)
        except (Silent, ValueError, AssertionError) as error:
            line.trouble = f"it is connected to the hub at {line.hub}: {error}"
            if fetch.part:
                self.fetcher.left(line)
        finally:
            line.unsent -= 1


@dataclass(eq=False, slots=True)
class Remote:
    """An agent that is connected to another hub: a `hub.pcap.fetcher.Line`."""

    agent: str
    answers: list[str]
    hub: str
    connection: str
    caller: Caller
    peers: Peers
    unsent: int = 0
    trouble: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def post(self, message: Fetch) -> None:
        """Send a message on its way."""
        self.unsent += 1
        task = asyncio.ensure_future(self.peers.relay(self, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
