"""What no parser of ours claims: scapy names the protocol and gives its line, by the ports it binds.

Also the way to a parser of one's own from a scapy layer: `ScapyParser` (docs/how-to/add-a-protocol.md).
scapy's modules are imported when a port first asks for them, never `scapy.all`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.l7 import TCP, UDP, Conn, Heads, Summary

MODULES: dict[str, dict[int, tuple[int, ...]]] = {  # scapy's module: transport -> ports that it binds
    "scapy.layers.tftp": {UDP: (69,)},
    "scapy.layers.netbios": {UDP: (137, 138), TCP: (139,)},
    "scapy.layers.smb": {TCP: (445,)},
    "scapy.layers.snmp": {UDP: (161, 162)},
    "scapy.layers.ldap": {UDP: (389,), TCP: (389,)},
    "scapy.layers.kerberos": {UDP: (88,), TCP: (88,)},
    "scapy.layers.radius": {UDP: (1812, 1813)},
    "scapy.layers.rip": {UDP: (520,)},
    "scapy.layers.hsrp": {UDP: (1985, 2029)},
    "scapy.layers.isakmp": {UDP: (500, 4500)},
    "scapy.layers.l2tp": {UDP: (1701,)},
    "scapy.layers.mgcp": {UDP: (2727,)},
    "scapy.layers.skinny": {TCP: (2000,)},
    "scapy.layers.rtp": {UDP: (5004,)},
    "scapy.layers.vxlan": {UDP: (4789,)},
    "scapy.contrib.bfd": {UDP: (3784, 3785, 4784)},
    "scapy.contrib.bgp": {TCP: (179,)},
    "scapy.contrib.coap": {UDP: (5683,)},
    "scapy.contrib.diameter": {TCP: (3868,)},
    "scapy.contrib.ldp": {UDP: (646,), TCP: (646,)},
    "scapy.contrib.modbus": {TCP: (502,)},
    "scapy.contrib.openflow": {TCP: (6653, 6633)},
    "scapy.contrib.rtps": {UDP: tuple(range(7400, 7420))},
    "scapy.contrib.stun": {UDP: (3478,), TCP: (3478,)},
    "scapy.contrib.tacacs": {TCP: (49,)},
}
"""Where scapy has layers over TCP and UDP, beyond what parsers here read."""

_BY_PORT = {(kind, port): name for name, by in MODULES.items() for kind, ports in by.items() for port in ports}
_GUESSES = 65_536
MAX_INFO = 200


class Rest:
    """The dissector of the rest; call it with transport, ports and payload. Never raises."""

    def __init__(self) -> None:
        self._guessed: dict[tuple[int, int, int], Any] = {}

    def __call__(self, transport: int, sport: int, dport: int, payload: bytes) -> Summary | None:
        """Protocol and one line of a payload, None where scapy knows nothing on these ports."""
        key = (transport, sport, dport)
        if key not in self._guessed:
            if len(self._guessed) >= _GUESSES:
                self._guessed.clear()
            self._guessed[key] = _guess(*key)
        layer = self._guessed[key]
        return None if layer is None else _summary(layer, payload)


def _guess(transport: int, sport: int, dport: int) -> Any:
    """scapy's layer for these ports, None where it has none."""
    if transport not in (TCP, UDP):
        return None
    try:
        for port in (dport, sport):
            if (transport, port) in _BY_PORT:
                importlib.import_module(_BY_PORT[transport, port])
        from scapy.layers import inet
        from scapy.packet import NoPayload, Packet, Raw

        base = inet.TCP if transport == TCP else inet.UDP
        layer = base(sport=sport, dport=dport).guess_payload_class(b"\0")
    except Exception:
        return None
    fine = isinstance(layer, type) and issubclass(layer, Packet) and not issubclass(layer, (Raw, NoPayload))
    return layer if fine and layer.__name__ != "Padding" else None


def _summary(layer: Any, payload: bytes) -> Summary | None:
    from scapy.packet import Raw

    try:
        packet = layer(payload)
        if isinstance(packet, Raw):
            return None
        line = str(packet.summary()).partition(" / Raw")[0]
        return Summary(str(packet.name), "" if line == packet.name else line[:MAX_INFO])
    except Exception:  # scapy raises many kinds on damaged payloads
        return None


class ScapyParser:
    """A parser made of a scapy layer and one function.

    `summarise` takes the dissected packet and gives a Summary, or None where the payload is not its protocol. `ports`
    are those on which the layer is tried; `magic` the bytes its payloads begin with, where they do.
    """

    stateful = False

    def __init__(
        self,
        name: str,
        layer: Any,
        summarise: Callable[[Any], Summary | None],
        *,
        ports: Iterable[int] = (),
        magic: bytes = b"",
        transports: Iterable[int] = (TCP, UDP),
    ) -> None:
        self.name = name
        self.transports = frozenset(transports)
        self._layer, self._summarise, self._ports, self._magic = layer, summarise, tuple(ports), magic[:16]
        if not self._ports and not self._magic:
            raise ValueError(f"{name}: ports or magic must say which payloads to try")

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By the beginning, by port, or by both where both are given."""
        claimed = heads.length >= max(1, len(self._magic))
        if self._magic:
            claimed &= (heads.first[:, : len(self._magic)] == np.frombuffer(self._magic, np.uint8)).all(axis=1)
        if self._ports:
            claimed &= heads.port(*self._ports)
        return claimed

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Dissect and summarise; what raises says nothing."""
        try:
            return self._summarise(self._layer(payload))
        except Exception:  # scapy raises many kinds on damaged payloads
            return None
