"""Settings of agents of several hubs, changed where the agent is: hub by hub, up to the first that refuses.

An agent's hub keeps what is wanted of it by name, connected or not. So who is meant is asked before: a hub that has
nobody of that name, and wants nothing of one, is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub.cli.errors import NEGATIVE, USAGE, CliError
from hub.cli.regions import said
from hub.cli.regions.hubs import short

if TYPE_CHECKING:
    from hub.cli.regions.hubs import Regions

PATH = "/v1/configure"


def change(regions: Regions, method: str, asked: Mapping[str, Any]) -> said.Answer:
    """The settings everywhere after the change, and in `failed` the hubs where it was not made, or may not have been.

    What is `doubtful` there may have been made, and the settings of that hub are not shown. Raises CliError where no
    hub answers or has the agent, and where the first one refuses: then nothing was changed.
    """
    outcomes = regions.outcomes(PATH, {})
    name = str(asked.get("agent") or "*")
    failed = {url: told for url, told in outcomes.items() if isinstance(told, str)}
    doubtful: set[str] = set()
    mine = [client for client in regions.each if _has(outcomes[client.url], name)]
    if not mine:
        away = f" that answers (missing: {', '.join(failed)})" if failed else ""
        raise CliError(f"no hub{away} has an agent or node {name}: `nodetap agents` lists them", NEGATIVE)
    for place, client in enumerate(mine):
        try:
            outcomes[client.url] = client.change(method, PATH, asked)
        except CliError as error:
            if error.code == USAGE and not place:
                raise
            failed[client.url] = short(error, client.url)
            if error.doubtful:
                outcomes[client.url] = failed[client.url]
                doubtful.add(client.url)
            if error.code == USAGE:
                failed |= {other.url: f"not asked, as {client.url} refused" for other in mine[place + 1 :]}
                break
    told = [{"hub": url, "reason": why, "doubtful": url in doubtful} for url, why in failed.items()]
    return said.configure(outcomes) | {"failed": told}


def _has(told: said.Outcome, name: str) -> bool:
    """Whether a hub has agents of that name, or wants something of them."""
    if isinstance(told, str):
        return False
    return name == "*" or name in told["wishes"] or any(name in (row["agent"], row["node"]) for row in told["agents"])
