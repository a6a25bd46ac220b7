"""The agents' listener: lets connections in, hands their batches to the writer, brings acknowledgements back."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from hub.configure import Configurer
from hub.fanout.asker import Asker
from hub.fanout.plan import Habits
from hub.ingest.admission import Admission
from hub.ingest.agents import Register
from hub.ingest.budget import OVERHEAD, Budget
from hub.ingest.inlet import Inlet
from hub.ingest.session import Session, host_of, peer_of
from hub.ingest.writer import Naming, Outcome, Work, Writer
from hub.metrics import Metrics
from hub.pcap.fetcher import Fetcher
from hub.refusals import Refusals
from hub.store.books import News
from hub.store.errors import StoreError
from hub.store.opening import AnyStore
from hub.tokens import AGENT, Tokens
from protocol.errors import RemoteError
from protocol.limits import MAX_MESSAGE
from protocol.messages import Batch

if TYPE_CHECKING:
    from hub.k8s.accounts import Accounts

MAX_CONNECTIONS = 2_000
BACKLOG = 1_024
"""Connections that the kernel keeps for us: those it drops come again when it suits their kernel, not us."""
BEAT = 0.05
TELL = 3.0
"""Seconds between two tellings of who is connected here, where other hubs have the same store."""
LOOK = 0.5
"""Seconds between two looks at which sessions send."""
LOOK_FOR_SILENCE = 2.0
"""Seconds between two looks at which sessions are silent."""
ACTIVE = 2.0
"""Seconds after its last batch for which an agent counts as one that sends."""


class Ingest:
    """Everything between the agents' sockets and the store, on the hub's loop (the writer has its own thread)."""

    def __init__(
        self, store: AnyStore, register: Register, log: Any, *, tokens: Tokens | None = None, api_port: int = 0,
        names: Naming | None = None, accounts: Accounts | None = None,
    ) -> None:  # fmt: skip
        self.api_port = api_port
        self.store_id = store.id
        self.alone = store.directory is not None  # no other hub can have the store
        self._store = store
        self._told = 0.0
        self.register = register
        self.log = log
        habits = Habits()
        self.asker, self.fetcher = Asker(register, habits=habits), Fetcher(habits)
        self.configurer = Configurer(log)
        self.metrics = Metrics(self._look, lambda: register.agents(time_ns()))
        self.writer = Writer(store, self._done, log, names)
        self.draining = False
        self.budget = Budget()
        self._admission = Admission()
        self._refusals = Refusals()
        self._beating: asyncio.Task[None] | None = None
        self.tokens = tokens
        self._accounts = accounts
        self._sessions: set[Session] = set()
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _look(self) -> dict[str, float]:
        unbalanced, incomplete = self.register.tally()
        return {
            "nodetap_hub_sessions": len(self._sessions),
            "nodetap_hub_queued_works": self.writer.queued,
            "nodetap_hub_writer_stuck_seconds": round(self.writer.stuck_for(), 3),
            "nodetap_hub_store_failing": float(bool(self.writer.failing)),
            "nodetap_hub_commit": self.register.commit,
            "nodetap_hub_held_bytes": self.budget.bytes,
            "nodetap_hub_unbalanced_runs": unbalanced,
            "nodetap_hub_incomplete_runs": incomplete,
        }

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, tls: ssl_module.SSLContext | None) -> int:
        """Listen. Returns the port. Raises OSError where the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._store.listen(self.learn)
        self.writer.start()
        self._beating = asyncio.ensure_future(self._beat())
        self._server = await serve(
            self._serve,
            host,
            port,
            ssl=tls,
            process_request=self._admit,
            max_size=MAX_MESSAGE,
            max_queue=4,
            compression=None,
            ping_interval=None,  # agents report by themselves; silence ends the session
            open_timeout=10.0,
            server_header=None,
            backlog=BACKLOG,
            create_connection=cast(Any, partial(Inlet, self.budget)),
        )
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def stop(self, timeout: float) -> None:
        """Take nothing more, store what was taken, tell everybody, close. Returns within about `timeout` seconds."""
        self.draining = self.fetcher.stopped = True
        if self._server is not None:
            self._server.close(close_connections=False)
        waits = [(session, self._admission.later(monotonic())) for session in self._sessions]
        await asyncio.gather(*(session.drain(wait) for session, wait in waits))
        self.writer.stop()
        await asyncio.to_thread(self.writer.join, timeout)
        await asyncio.sleep(0)  # lets the writer's last outcome reach the sessions
        await self._flush()
        await asyncio.gather(*(session.close() for session in list(self._sessions)))
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        """See how late the loop is, whether memory has come free, and now and then who sends and who is silent."""
        looked = looked_for_silence = 0.0
        while True:
            asleep = self.now()
            await asyncio.sleep(BEAT)
            now = self.now()
            self.metrics.loop_lag.observe(max(0.0, now - asleep - BEAT))
            if now - looked >= LOOK:
                looked = now
                self.budget.active = sum(s.outstanding > 0 or now - s.sent < ACTIVE for s in self._sessions)
            if now - looked_for_silence >= LOOK_FOR_SILENCE:
                looked_for_silence = now
                self._look_for_silence(now)
            self.budget.relieve()

    def _look_for_silence(self, now: float) -> None:  # a frame of its own: `_beat`'s would keep the last session alive
        for session in self._sessions:
            session.look(now)

    async def _flush(self) -> None:
        """Give acknowledgements that are queued a moment to get out."""
        for _ in range(20):
            if not any(session.unsent for session in self._sessions):
                return
            await asyncio.sleep(0.05)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that ends by itself; kept alive until it does."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def now(self) -> float:
        """The loop's clock, seconds."""
        assert self._loop is not None
        return self._loop.time()

    def window(self) -> tuple[int, int]:
        """Batches and bytes that an agent may have outstanding now: a share of one budget."""
        return self.budget.window()

    async def take_over(self, agent: str, epochs: Sequence[int]) -> None:
        """Know what is stored of runs of an agent that comes here: of old ones, and by other hubs, with what these were
        about to. Raises RemoteError."""
        try:
            if folded := self.register.folded(agent, epochs):
                self.register.recall(await asyncio.to_thread(self._store.recall, agent, folded))
            if not self.alone:
                self.register.learn(await asyncio.to_thread(self._store.takeover, agent, time_ns()), 0)
        except StoreError as error:
            raise RemoteError("busy", str(error)) from None

    def learn(self, news: News) -> None:
        """From a thread of the store: what it has to tell of other hubs."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._learned, news)

    def _learned(self, news: News) -> None:
        self.register.learn(news.lines, news.commit)
        self.register.elsewhere = news.elsewhere
        self.spawn(self.configurer.heard(*news.wishes))
        self.spawn(self.register.announce())
        if self.now() - self._told > TELL:
            self._told = self.now()
            self._store.tell(self.register.connected(time_ns()))

    def put(self, work: Work) -> None:
        """Something for the writer."""
        self.budget.queue(work.size + OVERHEAD)
        self.writer.put(work)

    # -- connections -----------------------------------------------------------------------------------------------

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.tokens is not None and self._accounts is None:
            token = self.tokens.holder(request.headers.get("Authorization", ""))
            if token is None or not token.may(AGENT):
                why = f"the role {token.role} sends nothing" if token else "the token is missing or wrong"
                return self._bad_token(connection, why)
        full = self.draining or self.budget.full or len(self._sessions) >= MAX_CONNECTIONS
        wait = self._admission.later(monotonic()) if full else self._admission.ask(monotonic())
        if wait:
            return self._busy(connection, wait, "come again later")
        if self._accounts is not None:  # last: it asks another server
            verdict = await asyncio.to_thread(self._accounts.check, request.headers.get("Authorization", ""))
            if verdict.fate == "unknown":
                return self._busy(connection, self._admission.later(monotonic()), verdict.detail)
            if verdict.fate == "refused":
                return self._bad_token(connection, verdict.detail)
        self.metrics.admitted.inc()
        return None

    def _bad_token(self, connection: ServerConnection, why: str) -> Response:
        host = host_of(connection.remote_address)
        self.turned_away(host, "bad_token", why)
        if times := self._refusals.count(host, "bad_token", monotonic()):
            peer = peer_of(connection.remote_address)
            self.log.warning("agent refused", code="bad_token", reason=why, peer=peer, times=times)
        return connection.respond(HTTPStatus.UNAUTHORIZED, f"bad_token: {why}\n")

    def _busy(self, connection: ServerConnection, wait: int, why: str) -> Response:
        self.turned_away(host_of(connection.remote_address), "busy", why)
        response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"busy: {why}\n")
        response.headers["Retry-After"] = str(wait)
        return response

    def turned_away(self, client: str, code: str, reason: str) -> None:
        """Count a refusal of an agent, by its name or where it gave none by its host."""
        self.metrics.refusals.labels(code).inc()
        self.register.turned_away.add(client, code, reason, self.now())

    async def _serve(self, socket: ServerConnection) -> None:
        session = Session(self, cast(Inlet, socket))  # `start` has them made as such
        self._sessions.add(session)
        self.budget.sessions = len(self._sessions)
        try:
            await session.run()
        except Exception:
            session.log.exception("bug in a session")
            socket.transport.abort()
        finally:
            self._sessions.discard(session)
            self.asker.left(session)
            self.fetcher.left(session)
            self.budget.sessions = len(self._sessions)

    # -- from the writer's thread ----------------------------------------------------------------------------------

    def _done(self, outcome: Outcome) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Outcome) -> None:
        """In the loop: count, free the windows, acknowledge, answer echoes."""
        self.register.committed(outcome.stored, outcome.commit, time_ns())
        self._count(outcome)
        for work in outcome.works:
            self.budget.queue(-work.size - OVERHEAD)
            session = self._session(work.agent)
            if session is not None and session.number == work.session:
                session.done(work)
            if work.echo is not None:
                work.echo()
        for agent, epoch in dict.fromkeys((e.message.agent, e.message.epoch) for e in outcome.stored):
            if session := self._session(agent):
                session.acknowledge(epoch)
        self._refuse(outcome)
        self.budget.relieve()
        if outcome.stored:
            self.spawn(self.register.announce())

    def _session(self, agent: str) -> Session | None:
        """The present session of an agent."""
        live = self.register.live(agent)
        return live if isinstance(live, Session) else None

    def _refuse(self, outcome: Outcome) -> None:
        for work, code, detail in outcome.refused:
            if work.message is None:
                continue
            self.register.receiver(work.message.agent, work.message.epoch).forget([work.message.seq])
            self.metrics.refused.labels(code).inc()
            if session := self._session(work.message.agent):
                session.reject(work.message, code, detail)

    def _count(self, outcome: Outcome) -> None:
        metrics = self.metrics
        for entry in outcome.stored:
            message = entry.message
            if isinstance(message, Batch):
                metrics.rows.labels(message.kind).inc(message.rows)
                metrics.batches.labels(message.kind).inc()
            else:
                metrics.batches.labels("tombstone").inc()
        if outcome.stored:
            metrics.commit_seconds.observe(outcome.seconds)
        metrics.unknown_columns.inc(outcome.dropped_columns)
