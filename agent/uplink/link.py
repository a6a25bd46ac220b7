"""The driver of the link: performs what the state machine commands, on asyncio and `websockets`.

One `Uplink` lives as long as the agent. Each attempt is a `Connection` with an id of its own; what an old connection
still has to say after it was given up is not heard.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl as ssl_module
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic, time_ns
from typing import Any

from agent import failpoints
from agent.tap.raw import Raw
from agent.uplink.backoff import Backoff
from agent.uplink.connection import CLOSE_TIMEOUT, Connection
from agent.uplink.desk import Desk
from agent.uplink.hubs import Hubs
from agent.uplink.machine import FIRST, Command, Event, State, step
from agent.uplink.outbox import Outbox
from agent.uplink.quality import Quality
from agent.uplink.settings import Settings
from agent.watchdog import REASONS
from protocol.messages import Ack, Status, Welcome
from protocol.ranges import Ranges

BEAT = 0.25
"""Seconds between two signs of life of the loop."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Who we are, where the hubs are, how patient we are. Times in seconds."""

    hubs: tuple[str, ...]
    agent: str
    node: str
    epoch: int
    source: str = "live"
    token: str | None = None
    tls: ssl_module.SSLContext | None = None
    stall_timeout: float = 10.0
    echo_interval: float = 10.0
    backoff_max: float = 30.0
    drain_timeout: float | None = 20.0  # None: as long as there is progress
    progress_timeout: float | None = None  # give up after so long without an acknowledgement; None: never
    credentials: Callable[[], tuple[str | None, ssl_module.SSLContext | None]] | None = None
    """Token and TLS as they are now: asked before each attempt, as both are renewed while we run."""


@dataclass(slots=True)
class LinkView:
    """What other threads may read of the link at any time: numbers and words, replaced, never changed in place."""

    state: State = State.CONNECTING
    connection: str = ""
    hub: str = ""
    session: int = 0
    beat: float = field(default_factory=monotonic)
    pong: float = 0.0  # when the last pong came on this connection
    acked: float = 0.0  # when something was last acknowledged
    echo_sent: float = 0.0  # when the unanswered echo was sent; 0 where none is
    since: float = field(default_factory=monotonic)
    last_error: str = ""
    certificate_ends: str = ""  # when the hub's certificate does (GMT), as the handshake told
    own: tuple[tuple[str, int], ...] = ()  # addresses and ports of the hub: traffic of our own


class Uplink:
    """The link of one agent run. `run()` returns when the machine says EXIT."""

    def __init__(
        self,
        config: LinkConfig,
        outbox: Outbox,
        log: Any,
        *,
        status: Callable[[], dict[str, Any]],
        stop_capture: Callable[[], None],
        free: Callable[[], None],
        on_transition: Callable[[State, Event, State], None] = lambda a, e, b: None,
        desk: Desk | None = None,
        raw: Raw | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.config = config
        self.outbox = outbox
        self.log = log
        self.view = LinkView()
        self.quality = Quality()
        self.desk = desk or Desk({})
        self.raw = raw or Raw()
        self.settings = settings or Settings()
        self.backoff = Backoff(cap=config.backoff_max)
        self.stopping = False
        self.drained = False
        self.progress = monotonic()
        self.acknowledged = 0
        self._status, self._stop_capture, self._free = status, stop_capture, free
        self._on_transition = on_transition
        self._connection: Connection | None = None
        self._hubs = Hubs(config.hubs)
        self._floor = 0.0
        self._warned = ""  # why there is no link, as a warning has said it; the attempts after it are no news
        self._at_once = False
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None  # set before any other thread calls
        self._perform: dict[Command, Callable[[], None]] = {
            Command.CONNECT: self._connect,
            Command.SEND: self._send,
            Command.ABORT: self._abort,
            Command.CLOSE: self._close,
            Command.FREE: self._give_back,
            Command.BACK_OFF: self._back_off,
            Command.BACK_OFF_LONG: self._back_off_long,
            Command.HURRY: self._hurry,
            Command.STOP_CAPTURE: self._tell_capture,
            Command.EXIT: self._over.set,
        }

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Live until EXIT. True where everything owed was acknowledged."""
        self.loop = asyncio.get_running_loop()
        self._beat()
        state, commands = FIRST
        self.view.state = state
        for command in commands:
            self._perform[command]()
        await self._over.wait()
        for task in list(self._tasks):
            await asyncio.wait({task}, timeout=CLOSE_TIMEOUT + 0.5)
        return self.drained

    def stop(self) -> None:
        """Told to stop: finish what is captured, get it acknowledged, leave. A second time changes nothing."""
        if self.stopping or self.view.state is State.STOPPED:
            return
        self.stopping = True
        if self.config.drain_timeout is not None:
            self.leave_within(self.config.drain_timeout)
        self._happen(Event.STOP)
        self._settle()

    def leave_within(self, seconds: float) -> None:
        """Leave then at the latest, whatever is owed."""
        self._later(seconds, self._deadline)

    def kill(self) -> None:
        """Leave now, whatever is owed."""
        self.stopping = True
        if self.view.state is not State.STOPPED:
            self._happen(Event.KILL)

    def notify(self) -> None:
        """From any thread: the outbox has something new."""
        self.call(self._stir)

    def call(self, work: Callable[..., None], *args: Any) -> None:
        """From any thread: do this in the loop, unless it has ended."""
        if self.loop is not None:
            with suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(work, *args)

    def stalled(self, connection: str, detector: str, evidence: dict[str, Any]) -> None:
        """In the loop: a detector says that this connection has stalled."""
        if self._connection is None or self._connection.id != connection:
            return
        reason = REASONS[detector]
        self.log.warning("link stalled", detector=detector, reason=reason, connection=connection, **evidence)
        self.view.last_error = self._warned = f"stalled ({detector}): {reason}"
        self._at_once = True
        self.quality.gave_up(detector)
        self._happen(Event.STALLED)

    def report(self) -> None:
        """In the loop: tell the hub how we are now, and not in some seconds."""
        if self._connection is not None:
            self._connection.report()

    def _stir(self) -> None:
        if self._connection is not None:
            self._connection.stir()
        self._settle()

    def _settle(self) -> None:
        """Told to stop and nothing owed: that is the end."""
        owes = self.outbox.batches or not self.outbox.finished
        if self.stopping and not owes and self.view.state is State.DRAINING:
            self.drained = True
            self._happen(Event.DRAINED)

    def _deadline(self) -> None:
        if self.view.state is not State.STOPPED:
            self._happen(Event.DEADLINE)

    def _happen(self, event: Event) -> None:
        old = self.view.state
        new, commands = step(old, event)
        self.view.state = new
        if new is not old:
            self.view.since = monotonic()
            left = {"outbox_batches": self.outbox.batches, "outbox_bytes": self.outbox.bytes}
            again = self.backoff.attempts > 1 and {old, new} == {State.CONNECTING, State.BACKOFF}
            say = self.log.debug if again else self.log.info  # `reconnecting` says it, once an attempt
            say("state", state=str(new), was=str(old), event_=str(event), connection=self._id(), **left)
            self._on_transition(old, event, new)
        for command in commands:
            self._perform[command]()
        if event is Event.WELCOMED and self.stopping:
            self._happen(Event.STOP)
            self._settle()

    def _id(self) -> str:
        return self._connection.id if self._connection else ""

    def _later(self, delay: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """`call` after `delay` seconds, unless the life is over by then."""
        assert self.loop is not None
        return self.loop.call_later(delay, lambda: None if self._over.is_set() else call())

    def _beat(self) -> None:
        now = monotonic()
        late = max(0.0, now - self.view.beat - 2 * BEAT)  # nobody is to blame for a loop that did not run
        self.progress = min(now, self.progress + late)
        self.view.beat = now
        failpoints.loop()
        self._give_up(now)
        self._later(BEAT, self._beat)

    def _give_up(self, now: float) -> None:
        patience = self.config.progress_timeout
        if self.view.state in (State.STREAMING, State.DRAINING) and not self.outbox.batches:
            self.progress = now  # the hub owes us nothing: a slow input is not its fault
        if patience is None or now - self.progress < patience:
            return
        if self.outbox.batches or not self.outbox.finished:
            self.view.last_error = self.view.last_error or "no acknowledgement"
            self.kill()

    # -- commands --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self.config.credentials is not None:
            token, tls = self.config.credentials()
            self.config = replace(self.config, token=token, tls=tls)
        connection = Connection(self, self._hubs.url, secrets.token_hex(4))
        self._connection = connection
        self.view.connection, self.view.hub = connection.id, connection.hub
        self.view.pong, self.view.echo_sent = monotonic(), 0.0
        task = asyncio.ensure_future(connection.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self) -> None:
        assert self._connection is not None
        self._connection.start()

    def _abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self.outbox.disconnected()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _give_back(self) -> None:
        item = self.outbox.disconnected(self._connection is not None and self._connection.unread)
        if item is not None:
            self.log.error("batch given up: no hub can read it", seq=item.message.seq, packets=item.message.packets)
        self._free()

    def _back_off(self) -> None:
        floor = self._hubs.failed(monotonic(), self._floor)
        self._wait(self.backoff.next(self._at_once, floor))

    def _back_off_long(self) -> None:
        self._wait(self.backoff.superseded())

    def _wait(self, delay: float) -> None:
        self._connection = None
        self._floor, self._at_once = 0.0, False
        reason = self.view.last_error
        say = self.log.info if reason == self._warned else self.log.warning
        self._warned = reason
        say("reconnecting", wait_s=round(delay, 3), attempt=self.backoff.attempts, reason=reason)
        self._wake = self._later(delay, self._woken)

    def _woken(self) -> None:
        if self.view.state is State.BACKOFF:
            self._happen(Event.WAKE)

    def _hurry(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._later(0.0, self._woken)

    def _tell_capture(self) -> None:
        self._stop_capture()

    # -- what connections say --------------------------------------------------------------------------------------

    def welcomed(self, connection: Connection, welcome: Welcome) -> None:
        """The hub took us: drop what it holds, send the rest."""
        positions = {e: _ranges(p[0], p[1]) for e, p in welcome.positions.items()}
        done = self.outbox.welcome(welcome.store, positions, (welcome.window_batches, welcome.window_bytes))
        self.view.session, self.view.pong = welcome.session, monotonic()  # the handshake's time is not the link's
        self.view.own = tuple((connection.peer[0], port) for port in (connection.peer[1], welcome.api_port) if port)
        self.log.info(
            "welcome", connection=connection.id, session=welcome.session, store=welcome.store, already_stored=len(done)
        )
        if done:
            self._progressed(len(done))
        self._happen(Event.WELCOMED)

    def acknowledged_by(self, ack: Ack) -> None:
        """The hub holds something durably."""
        waited = self.outbox.waiting()
        done = self.outbox.ack(ack.epoch, _ranges(ack.watermark, ack.held), (ack.window_batches, ack.window_bytes))
        if done:
            self.view.acked = monotonic()
            self.quality.progress.answer(waited)
            self._progressed(len(done))

    def _progressed(self, batches: int) -> None:
        self.answered()
        self.progress = monotonic()
        self.acknowledged += batches
        self._settle()

    def answered(self) -> None:
        """Something came back through the queue that writes: the present hub works."""
        self.backoff.acknowledged()
        self._hubs.good()

    def ended(self, connection: Connection, event: Event, reason: str, floor: float = 0.0) -> None:
        """A connection is over. Old ones are not heard."""
        if connection is not self._connection or self.view.state is State.STOPPED:
            return
        self.view.last_error = reason
        self._floor = floor
        if self.view.state is not State.CONNECTING:
            self.log.warning("connection ended", connection=connection.id, hub=connection.hub, reason=reason)
            self._warned = reason
            self.quality.end(str(event))
        self._happen(event)

    def status(self) -> Status:
        """What the hub should know of us now."""
        wall = time_ns()
        self.quality.clock.look(wall, monotonic())
        return Status(
            state=str(self.view.state),
            outbox_bytes=self.outbox.bytes,
            outbox_batches=self.outbox.batches,
            wall=wall,
            link=self.quality.to_map(),
            **self._status(),
        )


def _ranges(watermark: int, held: list[list[int]]) -> Ranges:
    ranges = Ranges((first, last) for first, last in held)
    if watermark:
        ranges.add(1, watermark)
    return ranges
