"""The fallback: link types that no handler knows are dissected by scapy, one frame at a time, within a CPU budget.

scapy is asked only where the network layer begins. From there the frame walks on like any other, so that its columns
mean the same whichever way it came.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.decode.kinds import Kind

MODULES = {
    105: ("scapy.layers.dot11",),
    119: ("scapy.layers.dot11",),
    127: ("scapy.layers.dot11",),
    163: ("scapy.layers.dot11", "scapy.contrib.avs"),
    192: ("scapy.layers.ppi", "scapy.layers.dot11"),
    204: ("scapy.layers.ppp",),
    274: ("scapy.layers.l2",),
}
"""Link types worth dissecting, and the scapy modules that register them. Those that carry no IP are not here."""

ENTRIES = {"Ether": Kind.ETHERNET, "Dot3": Kind.ETHERNET, "IP": Kind.IPV4, "IPv6": Kind.IPV6, "ARP": Kind.ARP}
"""scapy's layers from which the walk goes on."""

ETHERTYPES = {Kind.IPV4: 0x0800, Kind.IPV6: 0x86DD, Kind.ARP: 0x0806}


@dataclass(slots=True)
class Budget:
    """CPU seconds per second of wall time; `share` None is unlimited. At most one second's worth is saved up.

    `clock` gives seconds that only rise; it is the driver's.
    """

    share: float | None = None
    clock: Callable[[], float] | None = None
    _saved: float = field(default=0.0, init=False)
    _seen: float | None = field(default=None, init=False)

    def open(self) -> bool:
        """Whether there is time for one more frame."""
        if self.share is None or self.clock is None:
            return True
        now = self.clock()
        elapsed = 1.0 if self._seen is None else now - self._seen
        self._seen = now
        self._saved = min(self.share, self._saved + elapsed * self.share)
        return self._saved > 0

    def spend(self) -> None:
        """Charge what has passed since `open` said yes."""
        if self.share is not None and self.clock is not None and self._seen is not None:
            self._saved -= self.clock() - self._seen


_classes: dict[int, Any] = {}


def layer_class(linktype: int) -> Any:
    """scapy's class of a link type, None where there is none. Imports what it needs on first use."""
    if linktype not in _classes:
        _classes[linktype] = _load(linktype) if linktype in MODULES else None
    return _classes[linktype]


def _load(linktype: int) -> Any:
    for module in ("scapy.layers.inet", "scapy.layers.inet6", *MODULES[linktype]):
        importlib.import_module(module)
    from scapy.config import conf

    return conf.l2types.num2layer.get(linktype)


def locate(linktype: int, frame: bytes) -> tuple[Kind, int] | None:
    """Where the walk can go on: a kind and an offset in the frame; None where scapy finds no such layer.

    Raises nothing: what scapy fails on is None.
    """
    try:
        packet = layer_class(linktype)(frame)
        for layer in packet.iterpayloads():
            kind = ENTRIES.get(type(layer).__name__)
            if kind is not None:
                offset = frame.find(bytes(layer.original)[:20])
                return (kind, offset) if offset >= 0 else None
    except Exception:  # scapy raises many kinds on damaged frames
        return None
    return None
