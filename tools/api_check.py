"""schemathesis against the API of a hub with data: without tokens, and with those of two roles.

    python tools/api_check.py [--schemathesis PROGRAM] [ARGUMENTS OF schemathesis run ...]

Exits 1 where it finds a fault. Answers that do not end by themselves (follow, capture) are asked for one second.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.make_pcap import generated, write  # noqa: E402
from tests.procs import Agent, Hub, ending  # noqa: E402

TOKENS = {"admin": "check-admin", "read": "check-read"}
ENDLESS = ("/v1/follow", "/v1/capture")
FRAMES = 2_000


@contextlib.contextmanager
def hub(folder: Path, *args: str, token: Path | None = None) -> Iterator[Hub]:
    """A hub with packets, flows and calls; faster than it lets people ask, so that little is refused for that."""
    folder.mkdir()
    one = Hub(folder, "--client-rate", "10000", *args)
    with ending(one):
        one.ready()
        capture = folder / "capture.pcap"
        write(capture, [generated()], FRAMES)
        shown = ("--token-file", str(token)) if token else ()
        agent = Agent(folder, "replay", str(capture), "--hub", one.ws, "--l7", "fast", *shown)
        with ending(agent):
            assert agent.wait(120) == 0, agent.text
        yield one


def check(program: str, one: Hub, folder: Path, more: list[str], token: str = "") -> int:
    """One run; its exit code."""
    config = folder / "schemathesis.toml"
    config.write_text(
        "".join(f'[[operations]]\ninclude-path = "{path}"\nparameters = {{ seconds = 1 }}\n\n' for path in ENDLESS)
    )
    header = ("--header", f"Authorization: Bearer {token}") if token else ()
    command = (
        program, "--config-file", str(config), "run", f"{one.api}/openapi.json", "--checks", "all",
        "--request-timeout", "30", "--continue-on-failure", *header, *more,
    )  # fmt: skip
    return subprocess.run(command, check=False, cwd=folder).returncode


def main() -> int:
    """All runs; 1 where one found something."""
    parser = argparse.ArgumentParser(description="look for faults of the API with schemathesis")
    parser.add_argument("--schemathesis", default=".bench/schemathesis/bin/schemathesis")
    given, more = parser.parse_known_args()
    program = str(Path(given.schemathesis).absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with hub(folder / "open") as one:
            codes = [check(program, one, folder / "open", more)]
        tokens, admin = folder / "tokens", folder / "admin"
        tokens.write_text("".join(f"{role} {token} {role}\n" for role, token in TOKENS.items()))
        admin.write_text(TOKENS["admin"])
        with hub(folder / "guarded", "--token-file", str(tokens), token=admin) as one:
            codes += [check(program, one, folder / "guarded", more, token) for token in TOKENS.values()]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
