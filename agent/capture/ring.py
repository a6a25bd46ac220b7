"""Frames from the kernel: AF_PACKET rings on Linux, one ring per link type.

A ring's filter fits one link type only. Where the source can only ever have one interface the ring is bound to that;
else to all, with a test of the interface's index in front of the user's filter, so that what was not chosen never
reaches the ring. The kernel tells when interfaces come, go or change their names, and the test is replaced: attaching
a filter takes the place of the one before at once, no frame passes in between unseen (sk_attach_filter).
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from agent.capture import Block, CaptureError, Counters, Interface
from agent.capture.bpf import REJECT, accept, compile_filter, fits, only_interfaces
from agent.capture.interfaces import InterfaceInfo, choose, matching, of_link
from agent.capture.members import Members, sort_out
from agent.capture.netlink import Links
from agent.capture.pressure import Pressure
from agent.capture.tpacket import RETIRE_MS, Frames, Ring

LINKTYPE_ETHERNET = 1
MAX_NAMES = 60_000
"""Interfaces that get a place of their own; a block has 16 bits for it. Later ones share one, called `OTHERS`."""
OTHERS = "(others)"

_MOST_FRAMES = 32768
_RETIRED = 2 * RETIRE_MS / 1000
"""Seconds after which a block that nothing is added to was surely handed over: the timer looks at it twice."""
_GIVE_UP = 1.0
"""Seconds after which a drain ends, whatever is missing."""
_MOST_DEVICES = 3  # interfaces that libpcap is shown for a filter: any one that is up will do


class _Service:
    """One ring and the interfaces of one link type that it serves."""

    def __init__(self, linktype: int, members: Members, bpf: str | None, snaplen: int, single: bool) -> None:
        self.linktype, self.members = linktype, members
        self.ring: Ring
        self._bpf, self._snaplen, self._single = bpf, snaplen, single
        self._chosen = b""  # the user's filter
        self._for_live = False  # ... was compiled for an interface that was up

    def open(self, ring_bytes: int, fanout: int | None) -> None:
        """Make the ring. Raises CaptureError."""
        program = self._program()
        if fanout is None:
            self.ring = Ring(self._target(), program, ring_bytes)
            return
        self.ring = Ring(self._target(), REJECT, ring_bytes)
        self.ring.share(fanout ^ self.linktype)  # a group for each link type
        self.ring.attach(program)  # not before: what others take would be taken here too

    def follow(self) -> None:
        """Serve the members that are there now."""
        try:
            self.ring.attach(self._program())
        except OSError:  # too much for net.core.optmem_max
            self._attach_plain()
        if self._single and self.members.present:
            with contextlib.suppress(OSError):  # it is gone again; the kernel will tell
                self.ring.bind(self._target())

    def filter_by(self, bpf: str | None) -> None:
        """Let this through from now on. Raises CaptureError, the old program still there, where it is wrong."""
        before = self._bpf, self._chosen, self._for_live
        self._bpf, self._for_live = bpf, False
        try:
            self._compile()
            self.follow()
        except CaptureError:
            self._bpf, self._chosen, self._for_live = before
            raise

    def _attach_plain(self) -> None:
        """Without the test of the interface: what was not chosen is left out, and counted, in `sort_out`."""
        try:
            self.ring.attach(self._chosen)
        except OSError as error:
            raise CaptureError(f"the kernel refuses the filter: {error.strerror}; choose a shorter one") from None

    @property
    def wants_device(self) -> bool:
        """Whether the filter was compiled while no interface was up: `vlan` primitives do not match then."""
        return not self._for_live and any(member.up for member in self.members.present)

    def _target(self) -> int:
        return self.members.present[0].index if self._single else 0

    def _program(self) -> bytes:
        if not self.members.present:
            return REJECT
        if not self._for_live:
            self._compile()
        if self._single:
            return self._chosen
        program = only_interfaces((member.index for member in self.members.present), self._chosen)
        return program if fits(program) else self._chosen  # as in _attach_plain

    def _compile(self) -> None:
        if not self._bpf:
            self._chosen, self._for_live = accept(self._snaplen), True
            return
        devices = [member.name for member in self.members.present if member.up][:_MOST_DEVICES]
        for device in devices:
            with contextlib.suppress(CaptureError):  # it is gone again, or the filter is wrong, as is told below
                self._chosen = compile_filter(self._bpf, self.linktype, snaplen=self._snaplen, device=device)
                self._for_live = True
                return
        self._chosen = compile_filter(self._bpf, self.linktype, snaplen=self._snaplen)
        if not fits(self._chosen):
            raise CaptureError(f"the filter {self._bpf!r} is too long for the kernel: choose a shorter one")


class RingSource:
    """Live frames of the interfaces that match the globs `include` and not `exclude`, as they come and go.

    `ring_bytes` is the kernel memory of each ring. `vlan` primitives in the filter work: where the kernel took the
    tag off, the compiled program asks the kernel for it. An interface that comes back under its name keeps its place
    in `interfaces`. Sources with the same `fanout`, 16 bits, share the packets by flow. `on_change(came, went)` is
    told the names of the interfaces that came and went after `open`.
    """

    live = True

    def __init__(
        self,
        include: Sequence[str],
        exclude: Sequence[str] = (),
        *,
        bpf: str | None = None,
        snaplen: int = 262144,
        ring_bytes: int = 64 << 20,
        promisc: bool = False,
        fanout: int | None = None,
    ) -> None:
        self.interfaces: list[Interface] = []
        self.done = False
        self.on_change: Callable[[list[str], list[str]], None] = lambda came, went: None
        self._bpf = bpf
        self.again = lambda: self._again(
            RingSource(
                include, exclude, bpf=self._bpf, snaplen=snaplen, ring_bytes=ring_bytes, promisc=promisc, fanout=fanout
            )
        )
        """Gives a source like this one, not open, that goes on with the same list of interfaces."""
        self._include, self._exclude = include, exclude
        self._snaplen, self._ring_bytes, self._promisc = snaplen, ring_bytes, promisc
        self._fanout = fanout
        literal = len(set(include)) == 1 and not set(include[0]) & set("*?[")
        self._single = literal and fanout is None  # who shares cannot be bound anew
        self._links: Links | None = None
        self._services: list[_Service] = []
        self._places: dict[tuple[str, int], int] = {}
        self._turn = 0
        self._pressure = Pressure()
        self._epoll = select.epoll()
        self._stopping = 0.0  # when it began
        self._wanted: tuple[str | None, Future[None]] | None = None
        self._lock = threading.Lock()  # counters are asked from other threads
        self._discarded: dict[str, int] = {}

    def _again(self, other: RingSource) -> RingSource:
        other.interfaces, other._places, other.on_change = self.interfaces, self._places, self.on_change
        return other

    @property
    def pressed(self) -> bool:
        """Whether packets come faster than they are read, so that each should cost less."""
        return self._pressure.high

    @property
    def linktypes(self) -> set[int]:
        """Link types of the chosen interfaces."""
        return {interface.linktype for interface in self.interfaces}

    def open(self) -> None:
        """Start to capture. Raises NoRights, or CaptureError: no interface matches, or the filter is wrong."""
        try:
            self._links = Links()
            links = [of_link(link) for link in self._links.ask()]
            self._serve(choose(links, self._include, self._exclude))
        except CaptureError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise CaptureError(f"cannot follow the interfaces: {error}") from None
        self._epoll.register(self._links, select.EPOLLIN)

    def filter_by(self, bpf: str | None, timeout: float) -> None:
        """From another thread: take another filter. What passed the one before and lies in the ring is still read.

        Raises CaptureError where it is wrong, TimeoutError where nobody reads; then the one before stays.
        """
        future: Future[None] = Future()
        self._wanted = bpf, future
        try:
            future.result(timeout)
        except TimeoutError:
            if future.cancel():
                raise
            future.result()  # it was begun a moment ago

    def _filter_anew(self) -> None:
        """What `filter_by` asks for, in the thread that reads."""
        if self._wanted is None or self.done or self._stopping:
            return
        (bpf, future), self._wanted = self._wanted, None
        if not future.set_running_or_notify_cancel():
            return
        before, self._bpf = self._bpf, bpf
        try:
            if bpf and not self._services:
                compile_filter(bpf, LINKTYPE_ETHERNET)  # for want of an interface to ask
            for service in self._services:
                service.filter_by(bpf)
        except CaptureError as error:
            self._bpf = before
            for service in self._services:
                service.filter_by(before)
            future.set_exception(error)
        else:
            future.set_result(None)

    # -- interfaces ------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Where interfaces came or went, serve those that are there now."""
        if self._links is None or not self._links.changed():
            return
        before = self._names()
        self._serve(matching(map(of_link, self._links.ask()), self._include, self._exclude))
        after = self._names()
        if before != after:
            self.on_change(sorted(after - before), sorted(before - after))

    def _unfollow(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    def _names(self) -> set[str]:
        return {member.name for service in self._services for member in service.members.present}

    def _serve(self, chosen: Sequence[InterfaceInfo]) -> None:
        by_linktype: dict[int, list[InterfaceInfo]] = {service.linktype: [] for service in self._services}
        for interface in chosen:
            if interface.linktype is not None:
                by_linktype.setdefault(interface.linktype, []).append(interface)
        services = {service.linktype: service for service in self._services}
        for linktype, present in by_linktype.items():
            if linktype in services:
                self._update(services[linktype], present)
            else:
                self._open_service(linktype, present)

    def _open_service(self, linktype: int, present: Sequence[InterfaceInfo]) -> None:
        members = Members(lambda name: self._place(name, linktype))
        members.update(present, time.monotonic())
        service = _Service(linktype, members, self._bpf, self._snaplen, self._single)
        service.open(self._ring_bytes, self._fanout)
        with self._lock:
            self._services.append(service)
        self._epoll.register(service.ring.socket, select.EPOLLIN | select.EPOLLERR)
        self._listen_to_all(service)

    def _update(self, service: _Service, present: Sequence[InterfaceInfo]) -> None:
        if service.members.update(present, time.monotonic()) or service.wants_device:
            service.follow()
            self._listen_to_all(service)

    def _listen_to_all(self, service: _Service) -> None:
        for member in service.members.present if self._promisc else ():
            with contextlib.suppress(OSError):  # it is gone again
                service.ring.promiscuous(member.index)

    def _place(self, name: str, linktype: int) -> int:
        """An interface's place in the list, a new one where it has none."""
        if len(self.interfaces) >= MAX_NAMES and (name, linktype) not in self._places:
            name = OTHERS
        if (name, linktype) not in self._places:
            self._places[name, linktype] = len(self.interfaces)
            self.interfaces.append(Interface(name, linktype))
        return self._places[name, linktype]

    # -- frames ----------------------------------------------------------------------------------------------------

    def next_block(self, timeout: float) -> Block | None:
        """The frames that are there, of one ring. None where none came in time or the source is done."""
        now = time.monotonic()
        deadline = now + timeout
        for service in self._services:
            service.ring.give_back()
        self._pressure.look(max((service.ring.waiting() for service in self._services), default=0.0), now)
        while not self.done:
            self._follow()
            self._filter_anew()
            block = self._take()
            if block is not None:
                if len(block):
                    return block
                continue
            if self._stopping and self._drained():
                self.done = True
                break
            if not self._wait(deadline - time.monotonic()):
                break
        return None

    def fileno(self) -> int:
        """For poll: readable while `next_block` has something to do."""
        return self._epoll.fileno()

    def _take(self) -> Block | None:
        """What one of the rings holds, the rings in turn."""
        for _ in self._services:
            self._turn = (self._turn + 1) % len(self._services)
            service = self._services[self._turn]
            frames = service.ring.take(service.ring.blocks // 4, _MOST_FRAMES)
            if frames is not None:
                return self._block(service, frames)
        return None

    def _block(self, service: _Service, frames: Frames) -> Block:
        frames, iface, discarded = sort_out(frames, service.members.known)
        with self._lock:
            for reason, count in discarded.items():
                self._discarded[reason] = self._discarded.get(reason, 0) + count
        if not len(iface):
            service.ring.give_back()
        return Block(
            service.ring.data, frames.offset, frames.cap_len, frames.wire_len, frames.time, iface, vlan=frames.vlan
        )

    def _wait(self, seconds: float) -> bool:
        """Until a ring may have something, at most so long; False where the time is over."""
        if seconds <= 0:
            return False
        if self._stopping:
            seconds = min(seconds, RETIRE_MS / 1000)
        for fd, events in self._epoll.poll(seconds):
            if events & select.EPOLLERR:
                self._heed_error(fd)
        return True

    def _heed_error(self, fd: int) -> None:
        """An interface that goes leaves an error on a socket bound to it; frames come again once it is back."""
        for service in self._services:
            if service.ring.socket.fileno() == fd:
                error = service.ring.clear_error()
                if error not in ("", "ENETDOWN"):
                    raise CaptureError(f"capture failed: {error}")

    # -- counts and the end ----------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """The kernel's counts and ours, since the source was opened."""
        with self._lock:
            self._count()
            rings = [service.ring for service in self._services]
            return Counters(
                sum(ring.packets for ring in rings), sum(ring.dropped for ring in rings), dict(self._discarded)
            )

    def _count(self) -> None:
        for service in self._services:
            if service.ring.socket.fileno() >= 0:
                service.ring.count()

    def stop(self) -> None:
        """Reject everything from now on; what is in the rings can still be read."""
        for service in self._services:
            service.ring.attach(REJECT)
        self._unfollow()
        self._stopping = time.monotonic()
        self.done = self.done or not self._services

    def _drained(self) -> bool:
        """Whether every packet the kernel put into a ring was taken out, or it is too late to wait for it.

        For as long as a block takes to be handed over it is too early to say: a packet may have passed the old filter
        on another processor and not be counted yet. Reading the kernel's counts resets them, so they are added up.
        """
        waited = time.monotonic() - self._stopping
        if waited < _RETIRED:
            return False
        with self._lock:
            self._count()
            rings = [service.ring for service in self._services]
            balanced = all(ring.packets - ring.dropped == ring.taken for ring in rings)
        return balanced or waited > _GIVE_UP

    def close(self) -> None:
        """Close the rings. Their counters can still be asked."""
        with self._lock:
            self._count()
            for service in self._services:
                service.ring.close()
        self._unfollow()
        self._epoll.close()
        self.done = True
