"""No byte beyond a frame is read, no cell beyond a row is written: damaged frames under gcc's or clang's sanitizers."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from kernel_mutants import block_of_files, seeds

from agent import kernel
from agent.decode.compiled import TABLES
from tools.fidelity import captures, corpus

DRIVER = Path(__file__).with_name("kernel_hostile.c")
FLAGS = ("-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra")
FRAMES = 200_000
PER_BLOCK = 200


def build(folder: Path) -> Path:
    """The driver with sanitizers; skips the test where that cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program, walk = folder / "hostile", kernel.FOLDER / "walk.c"
    command = [compiler, *FLAGS, "-Werror", "-DNODETAP_SOURCE=0u", "-o", program, DRIVER, walk]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if "asan" in run.stderr or "libclang_rt" in run.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert run.returncode == 0, run.stderr
    return program


def frames() -> list[bytes]:
    """Sound frames of our own, and of the corpus where that is there."""
    found = seeds()
    folder = corpus()
    for block, _ in block_of_files(captures(folder) if folder.is_dir() else []):
        for offset, size in list(zip(block.offset.tolist(), block.cap_len.tolist(), strict=True))[:PER_BLOCK]:
            found.append(block.data[offset : offset + min(size, 300)].tobytes())
    return found


def test_damaged_frames_stay_within_bounds(tmp_path: Path):
    program = build(tmp_path)
    tables, sound = tmp_path / "tables", tmp_path / "frames"
    tables.write_bytes(b"".join(table.tobytes() for table in TABLES))
    sound.write_bytes(b"".join(struct.pack("=I", len(frame)) + frame for frame in frames()))
    command = [program, tables, sound, str(FRAMES)]
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # what lives as long as the driver
    run = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{FRAMES} frames\n"
