"""`kubectl nodetap ...`: `nodetap` for the hub of a cluster, through a port-forward of its own.

The hub is the one Service with the label `nodetap/service=people`; where its token and the CA of its certificate are
stands in its pod, and kubectl fetches them with the rights of whoever asks. kubectl's port-forward ends with the pod it
leads to, with the API server's connection, and after errors; it is started again on the same port, so that what can go
on by itself (`follow`) does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hub.cli.errors import USAGE, CliError
from hub.cli.forward import Forward
from protocol import VERSION

LABEL = "nodetap/service=people"
PATIENCE = 120.0
"""Seconds that one question to the cluster may take; logging in, if there is a need, included."""


@dataclass(frozen=True, slots=True)
class Found:
    """A hub's Service, and what its pod says of getting in."""

    namespace: str
    service: str
    port: int
    token: tuple[str, str] | None  # Secret and key
    ca: tuple[str, str] | None
    tls: bool


class Kubectl:
    """kubectl, with what was said of cluster and user."""

    def __init__(self, options: Sequence[str]) -> None:
        path = shutil.which("kubectl")
        if path is None:
            raise CliError("kubectl is not on PATH: install it", USAGE)
        self.command = [path, *options]

    def ask(self, *words: str) -> str:
        """What kubectl prints; its complaints and how to log in go to stderr as they come. Raises CliError."""
        try:
            done = subprocess.run(
                [*self.command, *words], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise CliError(f"the cluster does not answer: kubectl {words[0]} took over {PATIENCE:g} s") from None
        if done.returncode:
            raise CliError(f"cannot ask the cluster: kubectl {' '.join(words[:2])} failed with {done.returncode}")
        return done.stdout

    def items(self, *words: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = json.loads(self.ask("get", *words, "--output", "json"))["items"]
        return found

    def secret(self, namespace: str, where: tuple[str, str]) -> bytes:
        """A value of a Secret, empty where there is none. Raises CliError."""
        name, key = where
        escaped = key.replace(".", r"\.")
        said = self.ask("get", "secret", name, "--namespace", namespace, "--output", f"jsonpath={{.data.{escaped}}}")
        return base64.b64decode(said)


def find(kubectl: Kubectl, namespace: str | None) -> Found:
    """The hub of a namespace; of kubectl's own, or else the only one of the cluster, where None. Raises CliError."""
    where = ["--namespace", namespace] if namespace else []
    services = kubectl.items("services", "--selector", LABEL, *where)
    if not services and namespace is None:
        services = kubectl.items("services", "--selector", LABEL, "--all-namespaces")
    if not services:
        place = f"in the namespace {namespace}" if namespace else "in the cluster"
        raise CliError(
            f"there is no hub {place} (no Service with the label {LABEL}); name another with -n or --context"
        )
    names = sorted("{namespace}/{name}".format(**service["metadata"]) for service in services)
    if len(names) > 1:
        raise CliError(f"there are several hubs: {', '.join(names)}; choose with -n", USAGE)
    return _described(kubectl, services[0])


def _described(kubectl: Kubectl, service: dict[str, Any]) -> Found:
    meta, spec = service["metadata"], service["spec"]
    selector = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    pods = kubectl.items("pods", "--selector", selector, "--namespace", meta["namespace"])
    if not pods:
        raise CliError(f"the hub {meta['namespace']}/{meta['name']} has no pod; see `kubectl get statefulsets`")
    return found_of(service, pods[0])


def found_of(service: dict[str, Any], pod: dict[str, Any]) -> Found:
    """What the two say together. Pure."""
    meta = service["metadata"]
    secrets = {volume["name"]: volume["secret"] for volume in pod["spec"].get("volumes", ()) if "secret" in volume}
    token, tls = secrets.get("token"), secrets.get("tls")
    return Found(
        namespace=meta["namespace"],
        service=meta["name"],
        port=service["spec"]["ports"][0]["port"],
        token=(token["secretName"], token["items"][0]["key"] if token.get("items") else "token") if token else None,
        ca=(tls["secretName"], "ca.crt") if tls else None,
        tls=tls is not None,
    )


@contextlib.contextmanager
def admitted(kubectl: Kubectl, found: Found, given: Collection[str]) -> Iterator[list[str]]:
    """The options of `nodetap` that let one in, from Secrets of the cluster, in files that are gone afterwards; but for
    those that are given."""
    with tempfile.TemporaryDirectory(prefix="kubectl-nodetap-") as folder:  # for its owner alone
        options = []
        for option, where in (("--token-file", found.token), ("--tls-ca", found.ca)):
            value = kubectl.secret(found.namespace, where) if where and option not in given else b""
            if value:
                path = Path(folder, option.lstrip("-"))
                path.write_bytes(value)
                options += [option, str(path)]
        yield options


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    }
)
@click.option("-n", "--namespace", metavar="NAME", help="The hub's namespace; by default it is looked for.")
@click.option("--context", metavar="NAME", help="The context of kubeconfig to use.")
@click.option("--kubeconfig", type=click.Path(dir_okay=False), help="The kubeconfig to use.")
@click.version_option(VERSION, prog_name="kubectl-nodetap", message="%(prog)s %(version)s")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...", required=True)
def cli(namespace: str | None, context: str | None, kubeconfig: str | None, words: tuple[str, ...]) -> int:
    """Ask the nodetap hub of a cluster: every command of `nodetap`, through a port-forward of its own.

    Needs kubectl with the right to list services and pods, to read the hub's Secrets and to forward ports to its pod.
    Options for kubectl come first; `nodetap --help` lists the commands. A forward that breaks is made anew.
    """
    from hub.cli.main import run

    options = [f"--{name}={value}" for name, value in (("context", context), ("kubeconfig", kubeconfig)) if value]
    kubectl = Kubectl(options)
    found = find(kubectl, namespace)
    command = [*kubectl.command, "port-forward", "--namespace", found.namespace, f"service/{found.service}"]
    given = {word.partition("=")[0] for word in words}
    with admitted(kubectl, found, given) as way_in, Forward(command, found.port) as forward:
        scheme = "https" if found.tls else "http"
        return run(["--hub-url", f"{scheme}://localhost:{forward.port}", *way_in, *words])


def main() -> None:
    """Run the plugin and exit with the exit code of `nodetap`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    try:
        code = cli.main(prog_name="kubectl nodetap", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.UsageError as error:
        click.echo(f"kubectl nodetap: {error.format_message()} See `kubectl nodetap --help`.", err=True)
        code = error.exit_code
    except CliError as error:
        click.echo(f"kubectl nodetap: {error}", err=True)
        code = error.code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
