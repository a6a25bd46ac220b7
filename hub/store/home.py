"""The store's directory: who uses it, and which store it is.

DIR/nodetap.lock    held (flock) while a hub has the store open; the holder's process id
DIR/nodetap.json    {"id": ..., "schema": ...}
DIR/engine/         chDB's own
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from pathlib import Path

from hub.store.address import EXAMPLE
from hub.store.ddl import SCHEMA_VERSION
from hub.store.errors import StoreError


def directory_of(url: str) -> Path:
    """The directory a store's url names. Raises StoreError."""
    scheme, _, rest = url.partition("://")
    if scheme != "chdb" or not rest.startswith("/"):
        raise StoreError(f"{_shown(url)!r} names no store; use chdb:///DIR with an absolute path, or {EXAMPLE}")
    return Path(rest)


def _shown(url: str) -> str:
    """A url without what may be a password."""
    return re.sub(r"//[^/]*@", "//***@", url)


class Home:
    """One store's directory, locked from `open` to `close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = directory / "engine"
        self.id = ""
        self._lock = -1

    def open(self) -> None:
        """Create what is missing, lock, read the identity. Raises StoreError."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self.engine.mkdir(mode=0o700, exist_ok=True)
            self.id = self._identity()
        except OSError as error:
            self.close()
            raise StoreError(
                f"cannot use {self.directory} as store: {error.strerror}; choose another --store"
            ) from None
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        fd = os.open(self.directory / "nodetap.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode(errors="replace").strip() or "?"
            os.close(fd)
            raise StoreError(
                f"the store {self.directory} is in use by process {holder}; stop it or choose another --store"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    def _identity(self) -> str:
        path = self.directory / "nodetap.json"
        if not path.exists():
            write_durably(path, json.dumps({"id": secrets.token_hex(16), "schema": SCHEMA_VERSION}))
        try:
            values = json.loads(path.read_text())
            store, schema = str(values["id"]), int(values["schema"])
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{path} is damaged; restore it, or choose another --store") from None
        if schema > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.directory} was made by a newer nodetap (schema {schema}, this one knows "
                f"{SCHEMA_VERSION}); upgrade the hub or choose another --store"
            )
        return store


def write_durably(path: Path, text: str) -> None:
    """The file is there whole or not at all, also after a crash."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
