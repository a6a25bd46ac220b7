"""The command line from outside: help, environment, errors and exit codes, against ports that are closed or silent."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub.cli.main import COMMANDS, cli
from hub.cli.options import Option

NODETAP = [sys.executable, "-m", "hub.cli.main"]
ASKING = ["agents", "packets", "flows", "calls", "map", "top", "follow", "ledger", "doctor", "fields"]
HEAVY = ("httpx", "rich", "numpy", "structlog", "asyncio")


def run(*arguments: str, timeout: float = 30, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NODETAP_")}
    command = [*NODETAP, *arguments]
    return subprocess.run(
        command,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def closed() -> Iterator[str]:
    """A URL where nobody listens: the port is taken and refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A URL that takes connections and never says a word, as a stopped hub does."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def commands() -> Iterator[tuple[str, click.Command]]:
    for name, (where, _) in COMMANDS.items():
        module, _, attribute = where.partition(":")
        yield name, getattr(importlib.import_module(module), attribute)


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, hub.cli.main as m; m.run(['--help']); print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    for name, command in commands():
        assert command.name == name
        assert COMMANDS[name][1] == command.get_short_help_str(100)


def test_every_option_has_its_environment_variable() -> None:
    for command in (cli, *(command for _, command in commands())):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("version", "help"):
                assert isinstance(parameter, Option), parameter.name
                longest = max(parameter.opts, key=len)
                assert parameter.envvar == "NODETAP_" + longest.lstrip("-").replace("-", "_").upper()


def test_version() -> None:
    assert run("--version").stdout.startswith("nodetap ")


@pytest.mark.parametrize("command", ASKING)
def test_nobody_listens(command: str, closed: str) -> None:
    done = run("--hub-url", closed, command)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"cannot reach the hub at {closed}" in done.stderr
    assert "nodetap up" in done.stderr


def test_the_hub_url_comes_from_the_environment(closed: str) -> None:
    assert closed in run("ledger", NODETAP_HUB_URL=closed).stderr


@pytest.mark.parametrize("command", ["packets", "follow"])
def test_a_hub_that_says_nothing_is_unresponsive(command: str, silent: str) -> None:
    begin = time.monotonic()
    done = run("--hub-url", silent, command)
    assert done.returncode == 3
    assert "hub unresponsive" in done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize(
    "arguments",
    [
        ["packets", "--nope"],
        ["nope"],
        ["packets", "-o", "xml"],
        ["packets", "--limit", "-1"],
        ["packets", "--since", "yesterday"],
        ["--hub-url", "localhost:8480", "packets"],
        *(
            ["--hub-url", url, "packets"]
            for url in ("http://[::1", "http://..", "http://h\u00e4..x", "http://h:99999", "//h")
        ),
        ["--token-file", "/does/not/exist", "packets"],
        ["--hub-url", "https://127.0.0.1:1", "--tls-ca", "/does/not/exist", "packets"],
        ["up", "--read", "/does/not/exist.pcap"],
        ["up", "--read", "/dev/null", "--interface", "lo"],
        ["up", "--api", "nowhere"],
        *(["up", "--agents", place] for place in ("h:0", "h:99999", "a..b:1", ":1")),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_variable_is_checked_as_its_option_is(closed: str) -> None:
    done = run("packets", NODETAP_HUB_URL=closed, NODETAP_LIMIT="many")
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_lists_come_by_comma() -> None:
    from hub.cli.up import up

    os.environ["NODETAP_INTERFACE"] = "eth0, veth*"
    try:
        with up.make_context("up", []) as ctx:
            assert ctx.params["interface"] == ("eth0", "veth*")
    finally:
        del os.environ["NODETAP_INTERFACE"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert "_NODETAP_COMPLETE" in done.stdout


def test_completion_knows_the_commands() -> None:
    done = run(_NODETAP_COMPLETE="bash_complete", COMP_WORDS="nodetap pa", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,packets"]


def test_up_says_where_it_cannot_write(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    folder = tmp_path / "state" / "nodetap"
    (folder / "agent.log").mkdir(parents=True)
    for state in (taken, folder.parent, Path("/proc/self")):
        done = run(
            "up", "--read", "/dev/null", "--api", "127.0.0.1:1", "--agents", "127.0.0.1:2", XDG_STATE_HOME=str(state)
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert done.stderr.startswith(f"nodetap: cannot write to {state}/nodetap: ")


def test_up_refuses_a_taken_port(silent: str, tmp_path: Path) -> None:
    done = run("up", "--api", silent.removeprefix("http://"), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "taken" in done.stderr


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    """SIGKILL leaves no time to clean up: the kernel does it."""
    code = (
        "import sys, time; from pathlib import Path; from hub.cli.children import Child\n"
        f"child = Child([sys.executable, '-c', 'import time; time.sleep(60)'], Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
