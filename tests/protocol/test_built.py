"""Libraries that were built are used only beside the sources they were built of, and only where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import built, kernel

built_here = pytest.mark.skipif(kernel.load() is None, reason="the kernel is not built or not wanted")


@pytest.fixture
def anew() -> Iterator[None]:
    """Libraries are looked for again, in the test and after it."""
    built.library.cache_clear()
    yield
    built.library.cache_clear()
    built.complaints.clear()


@built_here
@pytest.mark.usefixtures("anew")
def test_a_library_of_other_sources_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "digest", lambda folder: 0)
    assert kernel.load() is None
    assert kernel.load() is None
    (complaint,) = built.complaints
    assert complaint.startswith("protocol/_kernel.")
    assert "built of other sources" in complaint


@pytest.mark.usefixtures("anew")
def test_what_is_no_library_is_not_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF")
    assert built.library(broken, print) is None
    assert "broken.so is not used" in built.complaints.pop()


def test_what_is_not_there_is_no_complaint(tmp_path: Path) -> None:
    assert built.load(tmp_path, print) is None
    assert not built.complaints


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(built.VARIABLE, "off")
    assert kernel.load() is None


def test_the_checksum_is_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int one;")
    (tmp_path / "notes.txt").write_text("no source")
    before = built.digest(tmp_path)
    (tmp_path / "two.h").write_text("int two;")
    assert built.digest(tmp_path) not in (before, 0)
    assert [path.name for path in built.sources(tmp_path)] == ["one.c", "two.h"]
