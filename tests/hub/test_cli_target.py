"""Where answers go: files that are whole or not there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hub.cli.errors import NEGATIVE, CliError
from hub.cli.target import target


def test_a_file_has_its_name_once_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with target(str(path)) as write:
        write(b"new")
        assert path.read_text() == "old"
        (partial,) = tmp_path.glob(".rows.csv.*.partial")
    assert path.read_bytes() == b"new"
    assert not partial.exists()


def test_a_file_is_as_others_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with target(str(tmp_path / "rows.csv")) as write:
            write(b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "rows.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(error), target(str(path)) as write:  # noqa: PT012
        write(b"half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize("path", ["/dev/full", "{folder}", "{folder}/nowhere/rows.csv"])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, path: str) -> None:
    path = path.format(folder=tmp_path)
    with pytest.raises(CliError, match="cannot write") as caught, target(path) as write:
        write(b"x" * (1 << 20))
    assert caught.value.code == NEGATIVE
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.append(path.read_bytes()))
    reader.start()
    with target(str(path)) as write:
        write(b"rows")
    reader.join(10)
    assert seen == [b"rows"]
