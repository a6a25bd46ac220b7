"""Handshake messages of TLS (RFC 8446, 5246, 6066, 7301): what TLS, DTLS and QUIC rows tell of hellos.

Lists hold each occurrence in the order of the wire, GREASE included, as tshark prints them.
"""

from __future__ import annotations

from struct import Struct, error

from agent.l7 import Value
from agent.l7.ja4 import ja4, newest
from agent.l7.text import printed

CLIENT, SERVER = 1, 2
NAMES = 16  # most server names and protocols read of one hello
NAME = 1024  # most bytes told of a server name; host names have 255 at most
EXTENSIONS = 128
VERSIONS = 64

_u2 = Struct(">H").unpack_from
_pair = Struct(">HH").unpack_from

TYPES = {
    0: "Hello Request", 1: "Client Hello", 2: "Server Hello", 3: "Hello Verify Request", 4: "New Session Ticket",
    5: "End of Early Data", 6: "Hello Retry Request", 8: "Encrypted Extensions", 11: "Certificate",
    12: "Server Key Exchange", 13: "Certificate Request", 14: "Server Hello Done", 15: "Certificate Verify",
    16: "Client Key Exchange", 20: "Finished", 21: "Certificate URL", 22: "Certificate Status",
    23: "Supplemental Data", 24: "Key Update", 25: "Compressed Certificate", 67: "Encrypted Extensions",
}  # fmt: skip


class Hellos:
    """What the handshake messages of one payload say."""

    __slots__ = ("alpn", "cipher", "ja4", "info", "protocol", "sni", "supported", "types", "version")  # noqa: RUF023

    def __init__(self, protocol: str) -> None:
        """`protocol` is JA4's letter: t (TLS), q (QUIC), d (DTLS)."""
        self.protocol = protocol
        self.types: list[int] = []
        self.version: list[int] = []
        self.supported: list[int] = []
        self.sni: list[str] = []
        self.alpn: list[str] = []
        self.cipher: list[int] = []
        self.ja4: list[str] = []
        self.info: list[str] = []

    def message(self, kind: int, body: bytes) -> None:
        """One whole handshake message; what is wrong in a hello ends its reading, what came before is kept."""
        self.types.append(kind)
        known = len(self.sni)
        try:
            if kind == CLIENT:
                self._client(body)
            elif kind == SERVER:
                self._server(body)
        except (error, IndexError):
            pass
        told = TYPES.get(kind) or f"Handshake message {kind}"
        self.info.append(f"{told} (SNI={self.sni[known]})" if kind == CLIENT and len(self.sni) > known else told)

    def _client(self, body: bytes) -> None:
        legacy = _u2(body)[0]
        self.version.append(legacy)
        pos = 35 + body[34]
        if self.protocol == "d":
            pos += 1 + body[pos]  # the cookie
        size = _u2(body, pos)[0]
        ciphers = body[pos + 2 : pos + 2 + size]
        pos += 2 + size
        pos += 1 + body[pos]
        at = len(self.supported)
        kinds, alpn, algorithms = self._extensions(body, pos, True) if pos < len(body) else ([], b"", b"")
        version = newest(self.supported[at:], legacy)
        self.ja4.append(ja4(self.protocol, version, ciphers, kinds, alpn, algorithms))

    def _server(self, body: bytes) -> None:
        version = _u2(body)[0]
        self.version.append(version)
        # The drafts of TLS 1.3 up to 21 had no session id and no compression method.
        pos = 34 if 0x7F00 < version < 0x7F16 else 35 + body[34]
        self.cipher.append(_u2(body, pos)[0])
        pos += 2 if 0x7F00 < version < 0x7F16 else 3
        if pos < len(body):
            self._extensions(body, pos, False)

    def _extensions(self, body: bytes, pos: int, client: bool) -> tuple[list[int], bytes, bytes]:
        """The extensions' types in order, the first protocol of ALPN, the signature algorithms."""
        kinds: list[int] = []
        alpn = algorithms = b""
        end = min(pos + 2 + _u2(body, pos)[0], len(body))
        pos += 2
        while pos + 4 <= end and len(kinds) < EXTENSIONS:
            kind, size = _pair(body, pos)
            kinds.append(kind)
            data = body[pos + 4 : pos + 4 + size]
            pos += 4 + size
            if kind == 0 and size > 5:
                self._names(data)
            elif kind == 16 and size > 3:
                alpn = self._protocols(data)
            elif kind == 43:
                self._versions(data, client)
            elif kind == 13:
                algorithms = data[2:]
        return kinds, alpn, algorithms

    def _names(self, data: bytes) -> None:
        """RFC 6066, 3: host names are of type 0."""
        pos = 2
        for _ in range(NAMES):
            if pos + 3 > len(data):
                return
            size = _u2(data, pos + 1)[0]
            if data[pos] == 0:
                self.sni.append(printed(data[pos + 3 : pos + 3 + min(size, NAME)]))
            pos += 3 + size

    def _protocols(self, data: bytes) -> bytes:
        """RFC 7301, 3.1; the first one."""
        first, pos = b"", 2
        for _ in range(NAMES):
            if pos >= len(data):
                break
            name = data[pos + 1 : pos + 1 + data[pos]]
            first = first or name
            self.alpn.append(printed(name))
            pos += 1 + len(name) if name else 1
        return first

    def _versions(self, data: bytes, client: bool) -> None:
        """RFC 8446, 4.2.1: a list from the client, the chosen one from the server."""
        if not client:
            self.supported.append(_u2(data)[0])
            return
        count = min(data[0] // 2, (len(data) - 1) // 2, VERSIONS)
        self.supported.extend(_u2(data, 1 + 2 * i)[0] for i in range(count))

    def is13(self) -> bool:
        """Whether a server's hello here chose TLS 1.3 or one of its drafts."""
        chosen = self.supported or self.version
        return SERVER in self.types and bool(chosen) and (chosen[-1] == 0x0304 or chosen[-1] >> 8 in (0x7F, 0xFB))

    def fields(self) -> dict[str, Value]:
        """The columns that have something."""
        listed = {
            "tls_handshake_type": self.types,
            "tls_version": self.version,
            "tls_supported_version": self.supported,
            "tls_sni": self.sni,
            "tls_alpn": self.alpn,
            "tls_cipher": self.cipher,
            "tls_ja4": self.ja4,
        }
        return {name: value for name, value in listed.items() if value}  # type: ignore[misc]
