"""What is in the images and, above all, what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pods import HUB_USER, IMAGE, ULIMITS, podman

ROOT = Path(__file__).resolve().parents[2]
IMPORT_ALL = """
import importlib, pkgutil, sys
for top in sys.argv[1:]:
    for found in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if not found.name.endswith("._kernel"):  # for ctypes
            importlib.import_module(found.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
INSTALLED = """
from importlib.metadata import distributions
for found in distributions():
    print(found.metadata["Name"].lower().replace("_", "-").replace(".", "-"), found.version)
"""
PARQUET = """
import chdb, io, pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), buffer := io.BytesIO(), compression="zstd")
print(pyarrow.parquet.read_table(io.BytesIO(buffer.getvalue()), use_threads=False).num_rows)
"""


def inside(target: str, *command: str) -> str:
    """The output of a command in a fresh container without any network."""
    words = (*ULIMITS, "--runtime", "runc", "--rm", "--read-only", "--network", "none", "--user", "0",
             "--entrypoint", command[0])  # fmt: skip
    return podman("run", *words, IMAGE.format(target), *command[1:]).stdout


@pytest.mark.parametrize("target", ["agent", "hub"])
def test_there_is_no_compiler_and_nothing_that_installs(target: str) -> None:
    words = (
        "-type f -name gcc",
        "-o -type f -name cc1",
        "-o -path /opt/nodetap/*/pip",
        "-o -path /opt/nodetap/*/tests",
    )
    assert inside(target, "find", "/", "-xdev", *" ".join(words).split()) == ""


def test_the_agent_works_without_the_hub_and_its_database() -> None:
    loaded = set(inside("agent", "python3", "-c", IMPORT_ALL, "agent", "protocol").split())
    assert "scapy" in loaded
    installed = inside("agent", "python3", "-c", INSTALLED)
    for gone in ("hub", "chdb", "clickhouse-connect", "pyarrow", "pandas", "uvicorn"):
        assert gone not in loaded
        assert not re.search(rf"^{gone} ", installed, re.MULTILINE)


def test_the_hub_works_without_the_agent() -> None:
    loaded = set(inside("hub", "python3", "-c", IMPORT_ALL, "hub", "protocol").split())
    assert not loaded & {"agent", "scapy"}
    assert inside("hub", "python3", "-c", PARQUET) == "1\n"


@pytest.mark.parametrize("target", ["agent", "hub"])
def test_versions_are_those_of_the_constraints(target: str) -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    installed = {tuple(line.split()) for line in inside(target, "python3", "-c", INSTALLED).splitlines()}
    assert {name for name, _ in installed - pinned} == {"nodetap"}


@pytest.mark.parametrize(("target", "module"), [("agent", "agent.kernel"), ("hub", "protocol.compiled")])
def test_each_has_its_kernel(target: str, module: str) -> None:
    said = f"import {module} as it; from protocol import built; print(it.load() is not None, *built.complaints)"
    assert inside(target, "python3", "-c", said) == "True\n"


def test_the_agent_has_libpcap() -> None:
    compiled = "from agent.capture.bpf import compile_filter; print(len(compile_filter('tcp port 80', 1)) > 0)"
    assert inside("agent", "python3", "-c", compiled) == "True\n"


@pytest.mark.parametrize(("target", "user"), [("agent", ""), ("hub", f"{HUB_USER}:{HUB_USER}")])
def test_what_it_says_of_itself(target: str, user: str) -> None:
    program = f"nodetap-{target}"
    config = json.loads(podman("image", "inspect", IMAGE.format(target)).stdout)[0]["Config"]
    assert config.get("User", "") == user
    assert config["Entrypoint"] == ["tini", "--", program]
    assert config["Labels"]["org.opencontainers.image.title"] == program
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert inside(target, program, "--version").startswith(program)
