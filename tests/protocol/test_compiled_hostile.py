"""No byte beyond a body is read, none beyond the arena is written: damaged bodies under gcc's or clang's sanitizers."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import msgpack
import pytest
from unpack_both import recorded

from protocol import kernel
from protocol.compiled import Layout
from protocol.packing import GROUPS
from protocol.schema import TABLES

DRIVER = Path(__file__).with_name("unpack_hostile.c")
FLAGS = ("-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra")
BODIES = 200_000
LONGEST = 20_000
"""Bytes of a body: more would be damaged where nothing comes of it."""
ROWS = 3
OWN = {
    GROUPS: ["raw", 1, bytes([0, 1, 0])],
    "time": ["delta", bytes(8), ["times", 1000, ["zigzag", ["planes", 2, bytes(4)]]]],
    "len": ["sorted", ["planes", 3, bytes(9)]],
    "cap_len": ["from", ["len"], ["time"], ["group", ["const", bytes(4)]]],
    "src": ["group", ["raw", 16, bytes(32)]],
    "dst": ["const", bytes(16)],
    "iface": ["dict", ["const", bytes(4)], ["é", "b"]],
    "info": ["text", ["raw", 1, bytes([2, 0, 3])], "é€".encode()],
    "dns_id": ["list", ["raw", 1, bytes([2, 0, 1])], ["raw", 1, bytes(3)]],
    "dns_a": ["texts", ["raw", 1, bytes([2, 0, 1])], ["planes", 2, bytes([1, 1, 1, 0, 0, 0])], b"abc"],
    "l7_fields": ["map", ["const", b"\1"], ["raw", 1, bytes(3)], ["k"], ["raw", 1, bytes([1, 2, 3])], b"abcdef"],
}
"""Every encoding and every shape of column."""


def build(folder: Path) -> Path:
    """The driver with sanitizers; skips the test where that cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program, sources = folder / "hostile", sorted(kernel.FOLDER.glob("*.c"))
    command = [compiler, *FLAGS, "-Werror", "-DNODETAP_SOURCE=0u", "-o", program, DRIVER, *sources]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if "asan" in run.stderr or "libclang_rt" in run.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert run.returncode == 0, run.stderr
    return program


def tables() -> bytes:
    """The tables as the driver reads them."""
    found = []
    for layout in map(Layout, TABLES):
        found += [layout.words[2:].tobytes(), layout.specs.tobytes()]
        found += [struct.pack("=q", len(layout.names)), layout.names.tobytes()]
    return b"".join(found)


def bodies(folder: Path) -> bytes:
    """Bodies of our own, and of an agent where there are captures."""
    own = [("packets", msgpack.packb(OWN), ROWS)] * 20
    sent = [body for body in (recorded(folder) if folder.is_dir() else ()) if len(body[1]) < LONGEST]
    numbers = {kind: number for number, kind in enumerate(TABLES)}
    return b"".join(struct.pack("=qqq", numbers[kind], rows, len(raw)) + raw for kind, raw, rows in own + sent)


def test_damaged_bodies_stay_within_bounds(tmp_path: Path, corpus: Path) -> None:
    program = build(tmp_path)
    (tmp_path / "tables").write_bytes(tables())
    (tmp_path / "bodies").write_bytes(bodies(corpus))
    command = [program, tmp_path / "tables", tmp_path / "bodies", str(BODIES)]
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # what lives as long as the driver
    run = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    done, _, taken, _ = run.stdout.replace(",", "").split()
    assert (int(done), int(taken) > BODIES // 20) == (BODIES, True)
