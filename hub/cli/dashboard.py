"""The live table of `nodetap up`: rates between two looks, the books, the agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub.cli.agents import live_table
from hub.cli.options import DEFAULT_HUB_URL

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hub.cli.client import Client

STORED = "nodetap_hub_rows_stored_total"


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

    def look(self, client: Client, now: float, agent_code: int | None) -> RenderableType:
        """Ask the hub and draw. `now` is monotonic. Raises HubLost."""
        books = client.get("/v1/ledger")
        stored = stored_rows(client.text("/metrics"))
        found = client.get("/v1/agents")["agents"]
        return self._draw(found, _totals(books), stored, now, agent_code)

    def _rates(self, now: float, captured: int, flows: float) -> tuple[float, float]:
        before, self._before = self._before, (now, captured, flows)
        if before is None or now <= before[0]:
            return 0.0, 0.0
        seconds = now - before[0]
        return max(captured - before[1], 0) / seconds, max(flows - before[2], 0) / seconds

    def _draw(
        self, found: Any, totals: Mapping[str, int], stored: Mapping[str, float], now: float, code: int | None
    ) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rates = self._rates(now, totals["captured"], stored.get("flows", 0.0))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("packets/s", "flows/s", "captured", "stored", "flow only", "lost", "pending", "kernel dropped"):
            table.add_column(name, justify="right", no_wrap=True)
        numbers = [*rates, *(totals[n] for n in ("captured", "row", "flow_only", "lost", "pending", "kernel_dropped"))]
        table.add_row(*(f"{number:,.0f}" for number in numbers))
        return Group(table, "", live_table(found), "", Text(self._footer(code), "dim"))

    def _footer(self, code: int | None) -> str:
        state = "all is stored" if self._replay and code == 0 else "Ctrl-C drains and stops"
        hub = "" if self._url == DEFAULT_HUB_URL else f" --hub-url {self._url}"
        return f"{state}; ask in a second terminal: nodetap{hub} packets"


def _totals(books: Mapping[str, Any]) -> dict[str, int]:
    """The books of all agents and runs, summed."""
    names = ("captured", "row", "flow_only", "pending", "kernel_dropped")
    totals = {name: sum(row.get(name) or 0 for row in books["agents"]) for name in names}
    totals["lost"] = sum(sum((row.get("lost") or {}).values()) for row in books["agents"])
    return totals
