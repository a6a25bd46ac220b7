"""Who asks, and the log's lines about it: who changed something, who got raw frames to see, who was refused."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from starlette.requests import Request

from hub.fanout.peers import HOP, Caller
from hub.refusals import Refusals

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks. `role` and `token` (its name) are empty where the hub has no tokens."""

    peer: str
    role: str = ""
    token: str = ""
    hop: str = ""
    """For which address a hub asks, where one does, as it says."""

    @property
    def client(self) -> str:
        """Whom limits hold for. People may share a token or an address; those who share both count as one."""
        return f"{self.token}@{self.peer}"

    def to_map(self) -> dict[str, str]:
        """As log lines have it: the address, and with tokens the role and the name of the one shown."""
        return (
            {"asked_by": self.peer}
            | ({"role": self.role, "token": self.token} if self.role else {})
            | ({"asked_for": self.hop[:100]} if self.hop else {})
        )


def peer(request: Request) -> str:
    """The address at the other end of the connection."""
    return request.client.host if request.client else ""


def caller(request: Request) -> Caller:
    """Who asks, for other hubs."""
    headers = request.headers
    return Caller(headers.get("authorization", ""), peer(request), headers.get(HOP, ""))


def who(request: Request) -> Who:
    """Who sent a request, as the gate found out."""
    found: Who | None = getattr(request.state, "who", None)
    return found or Who(peer(request))


def did(asker: Who, what: str, **more: Any) -> None:
    """A line about what somebody did."""
    log.info(what, **asker.to_map(), **more)


def refused(refusals: Refusals, asker: Who, code: str, path: str) -> None:
    """A line about a request that was refused, unless there was one of the same client a short while ago."""
    if times := refusals.count(asker.client, code, monotonic()):
        log.warning("a request was refused", **asker.to_map(), code=code, path=path[:200], times=times)
