"""One agent run: wires source, pipeline, outbox, link, watchdog and metrics by hand, and ends them in reverse."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from agent import failpoints
from agent.capture import Source
from agent.capture.behind import Neighbourhood
from agent.capture.own import OwnTraffic
from agent.doctor import facts_of
from agent.metrics import Metrics, Now, RecorderMetrics, SpoolMetrics
from agent.metrics import serve as serve_metrics
from agent.pipeline import Pipeline
from agent.recorder.folder import RecorderFolder
from agent.recorder.recorder import Recorder
from agent.recorder.serving import Serving
from agent.spool.folder import Folder
from agent.spool.outbox import SpooledOutbox
from agent.spool.spooler import Spooler
from agent.tap.metrics import TapMetrics
from agent.tap.raw import Raw
from agent.tap.serving import Live
from agent.tap.tap import Tap
from agent.uplink.desk import Desk
from agent.uplink.link import LinkConfig, Uplink
from agent.uplink.machine import Event, State
from agent.uplink.outbox import Outbox
from agent.uplink.settings import MakeEngine, Settings
from agent.uplink.threads import DaemonThreads
from agent.watchdog import LOOP_DEAD, REASONS, Limits, Signs, Verdict, Watchdog
from agent.worker import Worker
from protocol import memory
from protocol.logs import dump_stacks
from protocol.trouble import pause

BEAT = 0.5
LAST_WORDS = 0.4
"""Seconds that an agent which leaves with packets owed still has: for its capture thread, and again for its disk."""
UNBOUND_DRAIN = 5.0
"""Seconds that a signal leaves to a replay, which else has as long as there is progress: a file can be read again."""
LINK_DETECTORS = ("progress", "echo", "ping")


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What one run was told. `on_beat` is called in the loop twice a second, for progress bars."""

    link: LinkConfig
    buffer_bytes: int = 64 << 20
    metrics: tuple[str, int] | None = None
    metrics_must: bool = True  # a metrics address that cannot be had is an error
    on_beat: Callable[[], None] | None = None
    spool: Folder | None = None
    spool_bytes: int = 1 << 30
    recorder: RecorderFolder | None = None
    recorder_bytes: int = 1 << 30
    allow_capture: bool = False  # give frames away as they are captured; whoever records does so too
    settings: dict[str, str] | None = None  # what the hub may change, as it is at first; None: nothing
    make_engine: MakeEngine = lambda mode: (None, None)  # for those settings


class Agent:
    """One run of the agent; `run()` gives the exit code."""

    def __init__(
        self, config: AgentConfig, source: Source, pipeline: Pipeline, own: OwnTraffic | None, log: Any
    ) -> None:
        self.config, self.log = config, log
        self.source, self.pipeline = source, pipeline
        self.outbox, self.spooler = self._outbox()
        self._own = own
        self.recorder = self._recorder()
        record = None if self.recorder is None else self.recorder.put
        self.tap = self._tap()
        self.worker = Worker(source, pipeline, self.outbox, log, own, record, self.tap)
        self.uplink = Uplink(
            config.link,
            self.outbox,
            log,
            status=self._status,
            stop_capture=self.worker.stop,
            free=self._free,
            on_transition=self._transition,
            desk=Desk({"doctor": lambda: facts_of(self)}),
            raw=self._raw(),
            settings=self._settings(),
        )
        self.metrics = Metrics(self._now)
        if self.spooler is not None:
            self.metrics.registry.register(SpoolMetrics(self.spooler.look))
        if self.recorder is not None:
            self.metrics.registry.register(RecorderMetrics(self.recorder.look))
        if self.tap is not None:
            self.metrics.registry.register(TapMetrics(self.tap.look))
        self.watchdog = Watchdog(self._signs, self._stall, self._paused)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stalled = self._stall_word = ""  # what has stalled now, and what the hub has yet to be told
        self._told = False
        self._lost_at: float | None = None
        self._neighbourhood = self._find_neighbours() if source.live else None

    def _find_neighbours(self) -> Neighbourhood | None:
        """What learns which pods are behind the node's interfaces; None where the kernel does not tell."""
        try:
            return Neighbourhood(self.pipeline.heed_neighbours)
        except OSError as error:
            self.log.info("does not learn which addresses are behind interfaces", reason=str(error))
            return None

    def _settings(self) -> Settings:
        config = self.config
        if config.settings is None:
            return Settings()
        return Settings(config.settings, self.worker, self.pipeline, config.make_engine, self.log)

    def _outbox(self) -> tuple[Outbox, Spooler | None]:
        config = self.config
        if config.spool is None:
            return Outbox(config.buffer_bytes, self._news), None
        outbox = SpooledOutbox(config.buffer_bytes, config.spool_bytes, self._news)
        return outbox, Spooler(config.spool, outbox, config.link.agent, self.log)

    def _recorder(self) -> Recorder | None:
        config = self.config
        if config.recorder is None:
            return None
        run = f"{config.link.epoch:016x}"
        return Recorder(config.recorder, config.recorder_bytes, self.source.interfaces, run, self.log)

    def _tap(self) -> Tap | None:
        config = self.config
        if not (config.allow_capture or config.recorder):
            return None
        return Tap(self.source.interfaces, f"{config.link.epoch:016x}", self.log)

    def _raw(self) -> Raw:
        """Who answers for raw frames, as far as they may be given away."""
        name = self.config.link.agent
        recorded = None if self.recorder is None else Serving(self.recorder, name)
        if self.tap is None:
            return Raw(recorded)
        return Raw(
            recorded,
            Live(self.tap, self.source.interfaces, name, self.log, lambda: self.pipeline.report.kernel_dropped),
        )

    # -- life ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until the end. 0 where everything captured is acknowledged, 1 after a failed capture, 3 otherwise."""
        drained = asyncio.run(self._main())
        if self.worker.error:
            return 1
        return 0 if drained else 3

    async def _main(self) -> bool:
        self._loop = self.uplink.loop = asyncio.get_running_loop()
        self._loop.set_default_executor(DaemonThreads())
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._told_to_stop)
        server = self._serve_metrics()
        if self.spooler is not None:
            self.spooler.start()
        if self.recorder is not None:
            self.recorder.start()
        self.worker.start()
        if self._neighbourhood is not None:
            self._neighbourhood.start()
        if not failpoints.unwatched():
            self.watchdog.start()
        self._beat()
        try:
            return await self.uplink.run()
        finally:
            self.watchdog.stop()
            if self._neighbourhood is not None:
                self._neighbourhood.stop()
            self.worker.stop()
            self.outbox.close()
            await asyncio.to_thread(self.worker.join, 2.0 if self.uplink.drained else LAST_WORDS)
            if self.spooler is not None:
                await asyncio.to_thread(self.spooler.finish, LAST_WORDS)
            if self.recorder is not None:
                await asyncio.to_thread(self.recorder.finish, LAST_WORDS)
            if server is not None:
                server.shutdown()

    def _serve_metrics(self) -> Any:
        """The metrics' server; None where there is none. Raises OSError where it must be and cannot."""
        if self.config.metrics is None:
            return None
        try:
            return serve_metrics(self.config.metrics, self.metrics.text, self._unhealthy, self._unready)
        except OSError as error:
            if self.config.metrics_must:
                raise
            reason = f"{error.strerror or error}; choose another --metrics"
            self.log.warning("metrics are not shown", address="{}:{}".format(*self.config.metrics), reason=reason)
            return None

    def _beat(self) -> None:
        if self.config.on_beat is not None and self._loop is not None:
            self.config.on_beat()
            self._loop.call_later(BEAT, self._beat)

    def _told_to_stop(self) -> None:
        self.log.info("told to stop", captured=self.pipeline.report.captured, outbox_batches=self.outbox.batches)
        if self._told:
            self.outbox.close()
            self.uplink.kill()
        self._told = True
        self.uplink.stop()
        if self.config.link.drain_timeout is None:
            self.uplink.leave_within(UNBOUND_DRAIN)

    def _news(self) -> None:
        """From the capture thread: the outbox has something new, or is finished."""
        self.uplink.notify()
        if self.outbox.finished:
            self.uplink.call(self.uplink.stop)

    # -- what the link asks ----------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        evidence: dict[str, Any] = {
            "oldest_ns": int(self.outbox.oldest_age() * 1e9),
            "capture_restarts": self.worker.restarts,
        }
        if self.worker.detail != "packets":
            evidence["detail"] = self.worker.detail
        if self._stall_word:
            evidence["stall"] = self._stall_word
            self._stall_word = self._stalled  # said once, even where all is well again
        return {"level": self.pipeline.level, "evidence": evidence, "ledger": self.pipeline.report.to_map()}

    def _transition(self, old: State, event: Event, new: State) -> None:
        self.metrics.transition(old, event, new)
        self.worker.eager = new in (State.BACKOFF, State.CONNECTING)
        if new is State.BACKOFF and self._lost_at is None:
            self._lost_at = monotonic()
        if new is State.STREAMING and self._own is not None:
            self._own.add(self.uplink.view.own)
        if new is State.STREAMING and self._lost_at is not None:
            self.metrics.reconnect_seconds.observe(monotonic() - self._lost_at)
            self._lost_at = None

    def _free(self) -> None:
        """Memory back to the system; the capture thread seals its open rows by itself while the link is down."""
        assert self._loop is not None
        self._loop.run_in_executor(None, _trim)

    # -- what the watchdog sees and says ---------------------------------------------------------------------------

    def _signs(self) -> Signs:
        view, now = self.uplink.view, monotonic()
        streaming = view.state in (State.STREAMING, State.DRAINING)
        return Signs(
            streaming=streaming,
            limits=self._limits(),
            loop_age=now - view.beat,
            waiting=self.outbox.waiting(),
            echo_age=now - view.echo_sent if view.echo_sent else 0.0,
            pong_age=now - view.pong if streaming and view.pong else 0.0,
            capture_age=0.0 if self.worker.finished or not self.source.live else now - self.worker.beat,
            outstanding=self.outbox.outstanding,
            oldest_age=self.outbox.oldest_age(),
            acked_age=now - view.acked,
        )

    def _limits(self) -> Limits:
        least, quality = self.config.link.stall_timeout, self.uplink.quality
        return Limits(
            progress=quality.progress.patience(least),
            echo=quality.echo.patience(least),
            ping=quality.ping.patience(least),
            capture=least,
        )

    def _stall(self, verdict: Verdict | None) -> None:
        """From the watchdog's thread."""
        self._stalled = "" if verdict is None else verdict.detector
        if verdict is None:
            return
        self.metrics.stalls.labels(verdict.detector).inc()
        if verdict.detector in LINK_DETECTORS:
            self._stalled = ""
            self.uplink.call(self.uplink.stalled, self.uplink.view.connection, verdict.detector, verdict.evidence)
            return
        self._stall_word = verdict.detector
        self.uplink.call(self.uplink.report)
        self.log.error("stalled", detector=verdict.detector, reason=REASONS[verdict.detector], **verdict.evidence)
        if verdict.detector == "capture":
            self._restart_capture()

    def _paused(self, seconds: float, cpu: float) -> None:
        """From the watchdog's thread."""
        self.log.warning("the process did not run", **pause(seconds, cpu))

    def _restart_capture(self) -> None:
        if self.worker.replace():
            self.log.warning("capture restarted", restarts=self.worker.restarts)
            return
        dump_stacks()
        self.worker.error = "capture hangs and cannot be restarted (its stack is above); start the agent again"
        self.uplink.call(self.uplink.stop)

    # -- what people see -------------------------------------------------------------------------------------------

    def _now(self) -> Now:
        view = self.uplink.view
        return Now(
            state=view.state,
            report=self.pipeline.report,
            buffer_bytes=self.outbox.bytes,
            buffer_batches=self.outbox.batches,
            capture_buffer_bytes=self.pipeline.buffer_bytes,
            quality=self.uplink.quality,
            oldest_age=self.outbox.oldest_age(),
            degraded=self.pipeline.level != "packets",
            capture_restarts=self.worker.restarts,
            lost=_sum(self.pipeline.report.lost, self.outbox.lost),
            certificate_ends=view.certificate_ends,
        )

    def _unhealthy(self) -> str:
        age = monotonic() - self.uplink.view.beat
        return f"the loop gave no sign for {age:.0f} s" if age > LOOP_DEAD else ""

    def _unready(self) -> str:
        if self.worker.error:
            return self.worker.error
        if self._stalled:
            return f"stalled: {self._stalled}"
        state = self.uplink.view.state
        return "" if state in (State.STREAMING, State.DRAINING) else f"{state}: {self.uplink.view.last_error}"


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in {**one, **other}}


def _trim() -> None:
    """Collect garbage, and give back what is free."""
    gc.collect()
    memory.give_back()
