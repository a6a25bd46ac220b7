"""What a connection that cannot be made means, and what to do, and what a process that did not run may blame. Pure.

The words before the hint are those of Python, OpenSSL and the libraries; what people need not know of them is left out.
"""

from __future__ import annotations

import re
from typing import Any

_NOISE = re.compile(r"\[Errno -?\d+\] |\[SSL: [A-Z0-9_]+\] | ?\(_ssl\.c:\d+\)|certificate verify failed: ")
_REFUSED = re.compile(r"Connect call failed \(.*?\)|Multiple exceptions: Connect call failed.*")

HINTS = (
    ("connection refused", "nothing listens there: see whether the hub runs"),
    ("timed out during opening handshake", "it takes connections and does not answer: see the hub's log"),
    ("certificate has expired", "write a new one to the hub's --tls-cert"),
    ("not yet valid", "set the clock here, or the hub's --tls-cert is of the future"),
    ("self-signed certificate", "name who signed it with --tls-ca"),
    ("self signed certificate", "name who signed it with --tls-ca"),
    ("unable to get local issuer", "name who signed it with --tls-ca"),
    ("certificate is not valid for", "call the hub by a name that is in its certificate"),
    ("wrong version number", "it speaks no TLS: ask it without (ws://, http://)"),
    ("record layer failure", "it speaks no TLS: ask it without (ws://, http://)"),
    ("did not receive a valid HTTP response", "it may want TLS (wss://), or be no hub"),
)
"""A part of what was said -> what it means or what to do."""


def plain(reason: str) -> str:
    """What was said, as words for people alone: `[Errno 111] Connect call failed (...)` is `connection refused`."""
    return _REFUSED.sub("connection refused", _NOISE.sub("", " ".join(reason.split())))


def hint(reason: str) -> str:
    """What to do about it, empty where nobody knows."""
    lowered = plain(reason).lower()
    return next((todo for part, todo in HINTS if part.lower() in lowered), "")


def pause(seconds: float, cpu: float) -> dict[str, Any]:
    """Keys of a line about a process none of whose threads ran for `seconds`, while it used `cpu` seconds."""
    held = "one call kept all its threads waiting"
    why = held if cpu > seconds / 2 else "it was stopped, or had no processor"
    return {
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu, 1),
        "reason": f"{why}: what was late meanwhile is no fault of others",
    }
