"""An agent taken off the lists of several hubs: of all that have it on theirs, whatever one of them says."""

from __future__ import annotations

from hub.cli.errors import NEGATIVE, CliError
from hub.cli.regions import said
from hub.cli.regions.hubs import Regions


def forget(regions: Regions, name: str, path: str) -> dict[str, CliError | None]:
    """What came of DELETE at `path` at each hub that knows the agent, None where it is forgotten; and of each that does
    not answer why. Raises CliError where no hub answers, and where those that do have no such agent.
    """
    outcomes = regions.outcomes("/v1/agents", {})
    found: dict[str, CliError | None] = {url: CliError(why) for url, why in outcomes.items() if isinstance(why, str)}
    known = [client for client in regions.each if _knows(outcomes[client.url], name)]
    if not known:
        away = f" that answers (missing: {', '.join(found)})" if found else ""
        raise CliError(f"no hub{away} has an agent {name}: `nodetap agents` lists them", NEGATIVE)
    for client in known:
        try:
            client.delete(path)
            found[client.url] = None
        except CliError as error:
            found[client.url] = error
    return {client.url: found[client.url] for client in regions.each if client.url in found}


def _knows(told: said.Outcome, name: str) -> bool:
    return not isinstance(told, str) and any(agent["agent"] == name for agent in told["agents"])
