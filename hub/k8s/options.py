"""Options of `nodetap-hub serve` about Kubernetes. Imports nothing that costs where it is off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hub.k8s.accounts import Accounts
    from hub.k8s.api import Api
    from hub.k8s.names import Names

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--kubernetes", default="auto", show_default=True, metavar="auto|off|URL", envvar="NODETAP_KUBERNETES",
                 help="Name rows by the pods, services and nodes of a cluster: the one the hub runs in, if any; or the"
                      " one with this API server, such as kubectl proxy's."),
    click.option("--kubernetes-token-file", metavar="FILE", envvar="NODETAP_KUBERNETES_TOKEN_FILE",
                 help="Token for the API server, instead of the pod's own."),
    click.option("--kubernetes-ca", metavar="FILE", envvar="NODETAP_KUBERNETES_CA",
                 help="Certificate authority (PEM) of the API server, instead of the pod's own."),
    click.option("--agent-auth", type=click.Choice(["token", "tokenreview"]), default="token", show_default=True,
                 envvar="NODETAP_AGENT_AUTH",
                 help="Agents show the token of --token-file, or tokens of their service accounts, which the API server"
                      " reviews."),
    click.option("--audience", default="nodetap", show_default=True, envvar="NODETAP_AUDIENCE",
                 help="With tokenreview: whom the agents' tokens must be for."),
    click.option("--agent-account", "agent_accounts", multiple=True, metavar="NAMESPACE/NAME",
                 envvar="NODETAP_AGENT_ACCOUNT", help="With tokenreview: the service accounts of agents."),
)  # fmt: skip


def kubernetes_options(command: Command) -> Command:
    """Add the options; the command gets them as a dict, see `check`."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def check(given: Mapping[str, Any]) -> None:
    """Raise click.UsageError for options that do not go together."""
    url, review = given["kubernetes"], given["agent_auth"] == "tokenreview"
    if url not in ("auto", "off") and not url.startswith(("https://", "http://")):
        raise click.BadParameter(f"{url!r} is neither auto nor off nor a URL", param_hint="--kubernetes")
    if review and not given["agent_accounts"]:
        raise click.UsageError(
            "--agent-auth tokenreview needs --agent-account NAMESPACE/NAME: whose tokens are agents'"
        )
    for account in given["agent_accounts"]:
        if account.count("/") != 1 or not all(account.split("/")):
            raise click.BadParameter(f"{account!r} is not NAMESPACE/NAME", param_hint="--agent-account")
    if review and api_of(given) is None:
        raise click.UsageError(
            "--agent-auth tokenreview needs an API server: run in a cluster, or give --kubernetes URL"
        )


def api_of(given: Mapping[str, Any]) -> Api | None:
    """The API server that the options mean, None where Kubernetes is off."""
    url = given.get("kubernetes", "off")
    if url == "off":
        return None
    from hub.k8s.place import Server, in_cluster

    found = in_cluster() if url == "auto" else Server(url.rstrip("/"))
    if found is None:
        return None
    from hub.k8s.api import Api

    token, ca = given["kubernetes_token_file"], given["kubernetes_ca"]
    return Api(Server(found.url, token or found.token_file, ca or found.ca_file))


def names_of(given: Mapping[str, Any], log: Any) -> Names | None:
    """What names rows, None where Kubernetes is off."""
    api = api_of(given)
    if api is None:
        return None
    from hub.k8s.names import Names

    return Names(api, log)


def accounts_of(given: Mapping[str, Any], log: Any) -> Accounts | None:
    """Who lets agents in by their service accounts, None where a token does."""
    if given.get("agent_auth") != "tokenreview" or (api := api_of(given)) is None:
        return None
    from hub.k8s.accounts import Accounts

    return Accounts(api, given["audience"], given["agent_accounts"], log)
