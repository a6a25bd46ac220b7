"""Containers as Kubernetes runs them: a pod's security context said to podman and runc, an end by SIGTERM.

What a pod gives by itself is given here too: a read-only root with nothing writable but its volumes, no privileges but
those that are named, the default seccomp profile, and the network namespace of the node or of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from procs import until

IMAGE = "localhost/nodetap-{}:test"
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
"""runc asks for a million files by default, which few build machines allow."""
HUB_USER = 10001
_PATIENCE = 120


def podman(*command: str, timeout: float = _PATIENCE, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One podman command."""
    done = subprocess.run(["podman", *command], capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"podman {' '.join(command)}: {done.stderr.strip()}"
    return done


class Pod:
    """One started container. `volumes`: folder outside -> place inside, a trailing `:ro` for secrets."""

    def __init__(
        self, target: str, netns: str, *args: str, add: Sequence[str] = (), user: int = 0,
        volumes: Mapping[Path, str] | None = None, env: Mapping[str, str] | None = None, options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name = f"nodetap-test-{secrets.token_hex(4)}"
        words = [*ULIMITS, "--runtime", "runc", "--name", self.name, "--network", f"ns:/run/netns/{netns}"]
        words += ["--read-only", "--read-only-tmpfs=false", "--security-opt", "no-new-privileges", "--cap-drop", "all"]
        words += [f"--cap-add={name}" for name in add]
        words += ["--http-proxy=false", "--user", f"{user}:{user}", *options]
        words += [word for outside, inside in (volumes or {}).items() for word in ("--volume", f"{outside}:{inside}")]
        words += [word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")]
        podman("run", "--detach", *words, IMAGE.format(target), *args)

    def log(self) -> str:
        """What it has written so far."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def events(self) -> list[dict[str, Any]]:
        """Its JSON log lines."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command inside, as `kubectl exec` does."""
        return podman("exec", self.name, *command, check=check)

    def running(self) -> bool:
        """Whether it runs."""
        return podman("inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def code(self, timeout: float = _PATIENCE) -> int:
        """The exit code, once it has ended."""
        until("the container has ended", lambda: not self.running(), timeout, pause=0.2)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)

    def signal(self, number: int) -> None:
        """Send process 1 a signal."""
        podman("kill", "--signal", str(int(number)), self.name)

    def terminate(self, grace: float) -> tuple[int, float]:
        """SIGTERM; the exit code and the seconds that it took. Fails where it still runs after the grace period."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.code(grace), time.monotonic() - begin

    def remove(self) -> None:
        """Away with it, whatever it does."""
        podman("rm", "--force", "--time", "0", self.name, check=False)


@contextlib.contextmanager
def removing(*pods: Pod) -> Iterator[None]:
    """Whatever happens, these are gone afterwards; where it fails, their last words are shown."""
    try:
        yield
    except BaseException:
        for pod in pods:
            print(f"-- {pod.name}\n{pod.log()[-4000:]}")
        raise
    finally:
        for pod in pods:
            pod.remove()


def empty_dir(path: Path, user: int = 0) -> Path:
    """A folder as an emptyDir of a pod with `fsGroup: user` is one."""
    path.mkdir()
    path.chmod(0o2777)
    os.chown(path, 0, user)
    return path
