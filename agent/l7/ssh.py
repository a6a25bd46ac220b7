"""SSH: the version that each side says first (RFC 4253, 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import TCP, Conn, Heads, Signs, Summary
from agent.l7.text import printed

LINE = 255  # RFC 4253, 4.2: most bytes of the line
_MAGIC = int.from_bytes(b"SSH-")


class SshParser:
    """The line that begins with `SSH-`, on any port; what follows is not looked at."""

    name = "ssh"
    transports = frozenset((TCP,))
    stateful = False
    signs = Signs(b"S")

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By content: `SSH-` and a digit."""
        digit = heads.first[:, 4]
        found: NDArray[np.bool_] = (heads.word(0, 4) == _MAGIC) & (digit >= 48) & (digit <= 57) & (heads.length > 4)
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """The line without its end. `info` says who speaks where a port tells: 22, or the lower one."""
        if not payload.startswith(b"SSH-"):
            return None
        line = payload[:LINE].partition(b"\n")[0].rstrip(b"\r")
        said = printed(line)
        server = sport == 22 or (dport != 22 and sport < dport)
        return Summary("SSH", f"{'Server' if server else 'Client'}: Protocol ({said})", {"ssh_protocol": [said]})


PARSER = SshParser()
