"""The live table of `nodetap up`: rates between two looks, the books, the agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hub.cli.agents import live_table
from hub.cli.options import DEFAULT_HUB_URL
from hub.cli.screen import drawn
from hub.cli.table import Column, Row

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hub.cli.client import Client

STORED = "nodetap_hub_rows_stored_total"


def _number(header: str, name: str, drop: int = 0) -> Column:
    return Column(header, lambda row: f"{row[name]:,.0f}", right=True, drop=drop)


COLUMNS = (
    _number("packets/s", "packets/s"),
    _number("flows/s", "flows/s", drop=4),
    _number("captured", "captured"),
    _number("stored", "row"),
    _number("flow only", "flow_only", drop=3),
    _number("lost", "lost", drop=2),
    _number("pending", "pending", drop=5),
    _number("kernel dropped", "kernel_dropped", drop=1),
)


def stored_rows(metrics: str) -> dict[str, float]:
    """Rows stored since the hub's start by kind, out of the text of `/metrics`."""
    found: dict[str, float] = {}
    for line in metrics.splitlines():
        name, _, number = line.rpartition(" ")
        if name.startswith(STORED + '{kind="'):
            found[name[len(STORED) + 7 : -2]] = float(number)
    return found


class Dashboard:
    """What was seen last, for rates. `look` is called about once a second."""

    def __init__(self, url: str, replay: bool) -> None:
        self._url = url
        self._replay = replay
        self._before: tuple[float, int, float] | None = None

    def look(self, client: Client, now: float, agent_code: int | None, width: int) -> RenderableType:
        """Ask the hub and draw, so many characters wide. `now` is monotonic. Raises HubLost."""
        totals = _totals(client.get("/v1/ledger"))
        stored = stored_rows(client.text("/metrics"))
        found = client.get("/v1/agents")["agents"]
        rates = self._rates(now, totals["captured"], stored.get("flows", 0.0))
        return _drawn(found, rates | totals, self._footer(agent_code), width)

    def _rates(self, now: float, captured: int, flows: float) -> dict[str, float]:
        before, self._before = self._before, (now, captured, flows)
        seconds = now - before[0] if before is not None else 0.0
        if before is None or seconds <= 0:
            return {"packets/s": 0.0, "flows/s": 0.0}
        return {"packets/s": max(captured - before[1], 0) / seconds, "flows/s": max(flows - before[2], 0) / seconds}

    def _footer(self, code: int | None) -> str:
        state = "all is stored" if self._replay and code == 0 else "Ctrl-C drains and stops"
        hub = "" if self._url == DEFAULT_HUB_URL else f" --hub-url {self._url}"
        old = " --since all" if self._replay else ""
        return f"{state}; ask in a second terminal: nodetap{hub} packets{old}"


def _drawn(found: Sequence[Row], numbers: Mapping[str, float], footer: str, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(*drawn(COLUMNS, [numbers], width), "", live_table(found, width), "", Text(footer, "dim"))


def _totals(books: Mapping[str, Any]) -> dict[str, int]:
    """The books of all agents and runs, summed."""
    names = ("captured", "row", "flow_only", "pending", "kernel_dropped")
    totals = {name: sum(row.get(name) or 0 for row in books["agents"]) for name in names}
    totals["lost"] = sum(sum((row.get("lost") or {}).values()) for row in books["agents"])
    return totals
