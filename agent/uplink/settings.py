"""What of a running agent the hub may change: the capture filter, the level of detail, and how much is read of L7.

What the agent was started with holds until the hub says otherwise, and again once it does not. A change is made whole
or not at all: the filter, which alone can be wrong, comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from agent.capture import CaptureError
from agent.pipeline import LEVELS
from protocol.messages import CONFIGURE, Configure, Configured

if TYPE_CHECKING:
    from agent.worker import Worker

L7 = ("off", "fast", "all")
WORDS: dict[str, tuple[str, ...]] = {"filter": (), "detail": LEVELS, "l7": L7}
"""The settings, and what each may be; nothing where that is for others to say."""
PATIENCE = 5.0
"""Seconds that the capture thread has to take another filter."""

MakeEngine: TypeAlias = "Callable[[str], tuple[Any, Any]]"
"""Mode of L7 -> engine and calls, as `Pipeline.look_into` takes them."""


class WrongSetting(Exception):
    """Nothing was changed; `str(error)` says why."""


class Settings:
    """The settings of one run. Without `worker` there are none, and the hub is told so in the hello."""

    def __init__(
        self, base: Mapping[str, str] | None = None, worker: Worker | None = None, pipeline: Any = None,
        make_engine: MakeEngine = lambda mode: (None, None), log: Any = None,
    ) -> None:  # fmt: skip
        self.now: dict[str, str] = dict(base or {})
        """What holds at present."""
        self._base = dict(self.now)
        self._worker, self._pipeline, self._make_engine, self._log = worker, pipeline, make_engine, log
        self._turn = asyncio.Lock()

    @property
    def words(self) -> list[str]:
        """What the hello says of this."""
        return [] if self._worker is None else [CONFIGURE]

    async def answer(self, configure: Configure) -> Configured:
        """Make a change, on a thread; what holds then. Never raises but when cancelled."""
        async with self._turn:
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.change, configure.settings)
            except (WrongSetting, CaptureError) as error:
                return Configured(configure.id, dict(self.now), "wrong_setting", str(error))
            except Exception as error:
                return Configured(configure.id, dict(self.now), "failed", f"{type(error).__name__}: {error}")
        return Configured(configure.id, dict(self.now))

    def change(self, settings: Mapping[str, str]) -> None:
        """Let these hold, and for the others what the agent was started with. Raises WrongSetting, CaptureError."""
        check(settings)
        wanted = {**self._base, **settings}
        if self._worker is None or wanted == self.now:
            return
        made = self._make_engine(wanted["l7"]) if wanted["l7"] != self.now["l7"] else None
        if wanted["filter"] != self.now["filter"]:
            self._filter_by(wanted["filter"])
        if made is not None:
            self._worker.change(lambda: self._pipeline.look_into(*made))
        self._worker.detail = wanted["detail"]
        self.now = wanted
        self._log.info("configured", **wanted)

    def _filter_by(self, text: str) -> None:
        assert self._worker is not None
        filter_by = getattr(self._worker.source, "filter_by", None)
        if filter_by is None:
            raise WrongSetting("this agent's source cannot change its filter while it runs")
        try:
            filter_by(text or None, PATIENCE)
        except TimeoutError:
            raise WrongSetting("the capture thread is busy; try again") from None


def check(settings: Mapping[str, str]) -> None:
    """Raises WrongSetting where there is no such setting, or it cannot be so."""
    for name, value in settings.items():
        if name not in WORDS:
            raise WrongSetting(f"this agent has no setting {name!r}; it has {', '.join(WORDS)}")
        if WORDS[name] and value not in WORDS[name]:
            raise WrongSetting(f"{name} is one of {', '.join(WORDS[name])}, not {value!r}")
