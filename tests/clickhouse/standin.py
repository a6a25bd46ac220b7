"""Servers that stand in for ClickHouse (`server.py`), each a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from procs import Process, free_port, status_of, until

HERE = Path(__file__).parent


class Server(Process):
    """The stand-in on a free port; `control` is its folder of switches."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port = folder, port or free_port()
        self.control = folder / "control"
        self.control.mkdir(exist_ok=True)
        command = [sys.executable, str(HERE / "server.py"), str(self.port), str(folder / "engine"), str(self.control)]
        super().__init__(command, folder / "server.log")
        until("the server answers", lambda: status_of(f"http://127.0.0.1:{self.port}/ping") == 200)

    def again(self) -> Server:
        """The same server once more, after it ended."""
        return Server(self.folder, self.port)

    def url(self, database: str = "nodetap", options: str = "cluster=main") -> str:
        return f"clickhouse://default:secret@127.0.0.1:{self.port}/{database}?{options}"

    def switch(self, name: str, value: str) -> None:
        """Flip a switch; the file is there whole or not at all."""
        new = self.folder / f"{name}.new"
        new.write_text(value)
        new.rename(self.control / name)

    def release(self, name: str) -> None:
        (self.control / name).unlink()
