"""What the handlers are given, and who may call them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from hub.api.allowance import Allowance
from hub.api.runner import Runner
from hub.configure import Configurer
from hub.fanout.asker import Asker
from hub.fanout.peers import Peers
from hub.ingest.turned import TurnedAway
from hub.pcap.fetcher import Fetcher
from hub.refusals import Refusals
from hub.store.periods import Rolled
from hub.store.reader import Reader
from hub.tokens import Tokens


class Store(Protocol):
    """The part of `hub.store.store.Store` that the API asks."""

    @property
    def id(self) -> str:
        """The store's name."""

    def committed(self) -> int:
        """The newest commit that may be shown."""

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""

    def reader(self) -> AbstractContextManager[Reader]:
        """A reader for a `with` block."""

    def statistics(self) -> dict[str, Any]:
        """Per table: rows, bytes, parts."""


class Register(Protocol):
    """The part of `hub.ingest.agents.Register` that the API asks. Called on the hub's loop only."""

    def agents(self, now_ns: int) -> list[dict[str, Any]]:
        """Each agent, as `nodetap agents -o json` prints it."""

    def ledger(self) -> dict[str, Any]:
        """The books of every run."""

    def tally(self) -> tuple[int, int]:
        """Runs whose books do not balance, and runs that are not complete."""

    def unreported(self) -> list[dict[str, Any]]:
        """Runs that ended without their last word."""

    elsewhere: dict[str, dict[str, Any]]
    turned_away: TurnedAway

    def live(self, name: str) -> Any:
        """The present connection of an agent."""

    def silent_for(self, name: str, now_ns: int) -> float:
        """Seconds since anything came from an agent."""

    def forget(self, name: str) -> bool:
        """Take an agent that is not connected off the list."""

    async def wait_commit(self, after: int, timeout: float) -> int:
        """The newest commit, as soon as it is beyond `after` or the timeout is over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What people may ask of the hub. Seconds and bytes.

    `queries` stream at once: one fewer than the store has readers, so that short questions always find one; others wait
    up to `wait` seconds. An answer has at most `rows` and `bytes` and takes at most `timeout`. A client makes `rate`
    requests a second.
    """

    queries: int = 3
    wait: float = 10.0
    rate: float = 50.0
    rows: int = 100_000_000
    bytes: int = 1 << 37
    followers: int = 64
    timeout: float = 300.0
    page_timeout: float = 30.0
    max_memory: int = 1 << 30


@dataclass(slots=True)
class Hub:
    """Everything a handler needs."""

    store: Store
    register: Register
    runner: Runner
    tokens: Tokens | None
    ready: Callable[[], tuple[bool, str]]
    metrics: Callable[[], bytes]
    version: str
    now_ns: Callable[[], int]
    limits: Limits
    asker: Asker
    facts: Callable[[], dict[str, Any]]
    fetcher: Fetcher = field(default_factory=Fetcher)
    configurer: Configurer = field(default_factory=Configurer)
    peers: Peers = field(default_factory=Peers)
    allowance: Allowance = field(init=False)
    refusals: Refusals = field(default_factory=Refusals)
    followers: int = 0
    captures: int = 0
    live: int = 0
    relayed: dict[tuple[Any, ...], tuple[int, float]] = field(default_factory=dict)
    openapi: dict[bool, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.allowance = Allowance(self.limits.rate)


Handler: TypeAlias = "Callable[[Hub, Request], Awaitable[Response]]"
