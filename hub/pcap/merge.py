"""Parts of many agents as one pcapng file in order of time. Pure: parts in, bytes out.

A frame may go out once no agent can still send an earlier one, or when whoever puts live frames in order says so
(`release`). Frames of the same nanosecond come in the order of the agents' names. What is missing is marked where it is
missed: as a comment, and where it was counted as a drop count, at the agent's next frame, or at the end of the file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hub.query.window import format_ns
from protocol import pcapng
from protocol.messages import Fetched
from protocol.parts import Part, cut, joined

HELD = 32 << 20
"""Bytes of an agent's frames that may wait for those of others: more come only from one that has no order in them."""
MOST_GAPS = 1000
"""Gaps that are told one by one."""
_ALL = (1 << 63) - 1

REASONS = {
    "disk_slow": "the disk was too slow",
    "disk_failed": "the disk took nothing",
    "overwritten": "they made room for others",
    "agent_restarted": "the agent did not run",
    "damaged": "the file is damaged",
    "unreadable": "the file cannot be read",
    "not_decoded": "there was no time to decode them",
    "agent_busy": "the agent had no time to look at them",
    "kernel_dropped": "the kernel had no room for them",
    "fetched_late": "they were not fetched in time",
    "agent_away": "the agent was not there",
    "hub_away": "the hub was not there",
}
"""Why frames are not in an agent's files, for people."""


class Disorder(Exception):
    """An agent sends more frames than can wait for others."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames of an agent that are missing: between which times, how many (None: nobody counted), and why."""

    agent: str
    first: int
    last: int
    frames: int | None
    reason: str

    @property
    def text(self) -> str:
        """For people."""
        count = "frames" if self.frames is None else f"{self.frames:,} frames"
        why = REASONS.get(self.reason, self.reason)
        return f"{count} of {self.agent} are missing from {format_ns(self.first)} to {format_ns(self.last)}: {why}"


def described(agent: str, interface: str, linktype: int) -> bytes:
    """The block that describes an interface of an agent."""
    said = f"{interface} of {agent}"
    return pcapng.interface(interface, linktype, description=said, comments=[f"agent {agent}"])


@dataclass(slots=True)
class _Face:
    """One interface of one agent in the file."""

    id: int
    agent: str
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class _Agent:
    """What of one agent waits to go out."""

    name: str
    parts: list[Part] = field(default_factory=list)
    reached: int = -_ALL - 1
    ended: bool = False
    unmarked: list[Gap] = field(default_factory=list)
    frames: int = 0

    @property
    def held(self) -> int:
        """Bytes."""
        return sum(len(part.blocks) for part in self.parts)


class Merge:
    """One answer. `most_frames` and `most_bytes` cut it off: `cut` then says which did.

    `describe` makes the blocks of interfaces.
    """

    def __init__(
        self,
        agents: Iterable[str],
        application: str,
        *,
        most_frames: int = _ALL,
        most_bytes: int = _ALL,
        describe: Callable[[str, str, int], bytes] = described,
    ):
        self.frames = self.bytes = 0
        self.cut = ""
        self.gaps: list[Gap] = []
        self.lost: Counter[str] = Counter()
        """Frames that are missing, by reason."""
        self._agents = {name: _Agent(name) for name in sorted(agents)}
        self._application, self._describe = application, describe
        self._left_frames, self._left_bytes = most_frames, most_bytes
        self._faces: dict[tuple[str, str, int], _Face] = {}
        self._head: list[bytes] = []  # what goes out before the next frames
        self._begun = False
        self._comments: list[tuple[str, str]] = []  # agent and text, for the beginning or the end

    # -- what comes in ---------------------------------------------------------------------------------------------

    def join(self, name: str) -> None:
        """There is this agent too."""
        if name not in self._agents:
            self._agents = dict(sorted([*self._agents.items(), (name, _Agent(name))]))

    def add(self, name: str, fetched: Fetched, part: Part) -> None:
        """One part of an agent. Raises Disorder."""
        agent = self._agents[name]
        for first, last, frames, reason in fetched.gaps:
            self.miss(Gap(name, first, last, None if frames < 0 else frames, reason))
        if len(part):
            self._number(name, fetched, part)
            agent.parts.append(part)
        agent.reached = max(agent.reached, fetched.reached)
        agent.ended = bool(fetched.last)
        if agent.held > HELD:
            raise Disorder

    def miss(self, gap: Gap) -> None:
        """Frames of an agent are missing."""
        unmarked = self._agents[gap.agent].unmarked
        self.lost[gap.reason] += gap.frames or 0
        if len(self.gaps) < MOST_GAPS:
            self.gaps.append(gap)
        if len(unmarked) < MOST_GAPS:
            unmarked.append(gap)
            unmarked.sort(key=lambda gap: gap.last)

    def give_up(self, name: str, text: str) -> None:
        """Nothing more comes of an agent; `text` says why, for people."""
        self._agents[name].ended = True
        self.remark(name, text)

    def remark(self, name: str, text: str) -> None:
        """Something to be said of an agent, in the file's header or at its end."""
        self._comments.append((name, text))

    def reached(self, name: str) -> int | None:
        """The time up to which frames of an agent are here; None where none are."""
        agent = self._agents[name]
        return min(agent.reached, _ALL) if agent.frames or agent.parts else None

    @property
    def done(self) -> bool:
        """Whether nothing more goes out but the end."""
        return bool(self.cut) or all(agent.ended and not agent.parts for agent in self._agents.values())

    @property
    def held(self) -> int:
        """Bytes of frames that wait."""
        return sum(agent.held for agent in self._agents.values())

    def hungry(self, room: int) -> list[str]:
        """Whom to ask for the next part: who has less than `room` bytes waiting, or holds up all others."""
        waiting = [agent for agent in self._agents.values() if not agent.ended]
        bound = min((agent.reached for agent in waiting), default=_ALL)
        return [agent.name for agent in waiting if agent.held < room or agent.reached == bound]

    def _number(self, name: str, fetched: Fetched, part: Part) -> None:
        """The interfaces of a part get the numbers they have in the file."""
        words, at = part.blocks.view("<u4"), part.start // 4 + 2
        places = words[at]
        table = np.zeros(len(fetched.interfaces), dtype=np.uint32)
        for place in np.unique(places).tolist():
            interface, linktype = fetched.interfaces[place]
            face = self._face(name, interface, linktype)
            times = part.time[places == place]
            face.first, face.last = min(face.first or _ALL, int(times[0])), max(face.last, int(times[-1]))
            table[place] = face.id
        words[at] = table[places]

    def _face(self, agent: str, interface: str, linktype: int) -> _Face:
        key = (agent, interface, linktype)
        if key not in self._faces:
            self._faces[key] = _Face(len(self._faces), agent)
            self._head.append(self._describe(agent, interface, linktype))
        return self._faces[key]

    # -- what goes out ---------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """All frames that nothing can come before any more, with what has to go before them."""
        return self.release(min((agent.reached for agent in self._agents.values() if not agent.ended), default=None))

    def release(self, bound: int | None, overdue: Collection[str] = ()) -> bytes:
        """All frames before `bound`, of agents that are `overdue` all there are, with what has to go before them."""
        if self.cut:
            return b""
        bounds = {name: None if name in overdue else bound for name in self._agents}
        taken = [
            part for agent in self._agents.values() if (part := self._ready(agent, bounds[agent.name])) is not None
        ]
        if not taken:
            return b""
        return b"".join([*self._beginning(), self._cut_off(joined(taken)).tobytes()])

    def _ready(self, agent: _Agent, bound: int | None) -> Part | None:
        """The frames of an agent before `bound`, marked where others are missing in front of them."""
        ready = []
        while agent.parts:
            part = agent.parts[0]
            count = len(part) if bound is None else int(np.searchsorted(part.time, bound, side="left"))
            if count:
                ready.append(cut(part, 0, count))
            if count < len(part):
                agent.parts[0] = cut(part, count, len(part))
                break
            agent.parts.pop(0)
        if not ready:
            return None
        part = joined(ready)
        agent.frames += len(part)
        return self._marked(agent, part)

    def _marked(self, agent: _Agent, part: Part) -> Part:
        places: dict[int, list[Gap]] = {}
        for gap in agent.unmarked:
            place = int(np.searchsorted(part.time, gap.last, side="left"))
            places.setdefault(place, []).append(gap)
        agent.unmarked = places.pop(len(part), [])
        if not places:
            return part
        pieces, begin, length, starts = [], 0, part.length.copy(), part.start
        for place, gaps in sorted(places.items()):
            end = int(starts[place] + length[place])
            block = _remade(part.blocks[starts[place] : end].tobytes(), gaps)
            pieces += [part.blocks[begin : starts[place]], np.frombuffer(block, dtype=np.uint8)]
            length[place], begin = len(block), end
        return Part(part.time, length, np.concatenate([*pieces, part.blocks[begin:]]))

    def _cut_off(self, part: Part) -> NDArray[np.uint8]:
        """As much of these frames as may go out."""
        ends = np.cumsum(part.length)
        fits = int(np.searchsorted(ends, self._left_bytes, side="right"))
        count = min(len(part), fits, self._left_frames)
        if count < len(part):
            self.cut = "frames" if self._left_frames <= fits else "bytes"
        size = int(ends[count - 1]) if count else 0
        self.frames += count
        self.bytes += size
        self._left_frames -= count
        self._left_bytes -= size
        return part.blocks[:size]

    def begin(self) -> bytes:
        """What the file begins with, where that is to be there before its first frame."""
        return b"".join(self._beginning())

    def _beginning(self) -> list[bytes]:
        parts = []
        if not self._begun:
            self._begun = True
            said, self._comments = [text for _, text in self._comments], []
            parts.append(pcapng.section(self._application, said))
        parts += self._head
        self._head = []
        return parts

    def end(self) -> bytes:
        """What comes after the last frame: for each interface from when to when, and what is still to be said."""
        for agent in self._agents.values():
            self._comments += [(agent.name, gap.text) for gap in agent.unmarked]
        parts = self._beginning()
        faces = list(self._faces.values())
        for face in faces:
            mine = [text for name, text in self._comments if self._place(name) is face]
            parts.append(pcapng.statistics(face.id, face.first, face.last, comments=mine))
        return b"".join(parts)

    def _place(self, agent: str) -> _Face:
        """The interface at which something is said of an agent: its first, else the file's first."""
        faces = list(self._faces.values())
        return next((face for face in faces if face.agent == agent), faces[0])


def _remade(block: bytes, gaps: list[Gap]) -> bytes:
    """A packet block that says what is missing before it."""
    iface, high, low, cap_len, wire_len = struct.unpack_from("<5I", block, 8)
    dropped = sum(gap.frames or 0 for gap in gaps)
    data = block[pcapng.HEAD : pcapng.HEAD + cap_len]
    comments = [gap.text for gap in gaps]
    return pcapng.packet(data, wire_len, high << 32 | low, iface, dropped=dropped, comments=comments)
