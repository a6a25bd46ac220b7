"""Which store a url names: a folder of the embedded one, or servers. Pure but for the password's file.

    chdb:///DIR
    clickhouse[s]://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]/DATABASE[?cluster=NAME&quorum=N&password_file=FILE]

clickhouses:// is HTTPS. A password never shows in `str` or `repr`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from hub.store.errors import StoreError

PORTS = {"clickhouse": 8123, "clickhouses": 8443}
"""Scheme -> the port of ClickHouse's HTTP interface."""
OPTIONS = ("cluster", "quorum", "password_file", "timeout", "ca")
EXAMPLE = "clickhouse://USER@HOST1,HOST2/DATABASE?cluster=NAME&password_file=FILE"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CLUSTER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Servers:
    """ClickHouse servers that hold one store. `quorum` is how many replicas must have an insert; 0 is one's own."""

    hosts: tuple[tuple[str, int], ...]
    database: str
    user: str = "default"
    password: str = field(default="", repr=False)
    cluster: str = ""
    quorum: int = 0
    secure: bool = False
    timeout: float = 30.0
    """Seconds that an insert or a short question may take."""
    ca: str = ""

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        cluster = f"?cluster={self.cluster}" if self.cluster else ""
        return f"clickhouse{'s' * self.secure}://{self.user}@{hosts}/{self.database}{cluster}"


def is_server(url: str) -> bool:
    """Whether a url names servers, rightly or not."""
    return url.partition("://")[0] in PORTS


def servers_of(url: str) -> Servers:
    """The servers a url names. Raises StoreError, without the password in its text."""
    try:
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        user, _, password = account.partition(":")
        port = PORTS[parts.scheme]
        options = _options(parts.query)
        return Servers(
            hosts=tuple(_host(text, port) for text in hosts.split(",")),
            database=_matching(_NAME, parts.path.removeprefix("/"), "database"),
            user=unquote(user) or "default",
            password=_password(options["password_file"]) if "password_file" in options else unquote(password),
            cluster=_matching(_CLUSTER, options["cluster"], "cluster") if "cluster" in options else "",
            quorum=int(options.get("quorum", 0)),
            secure=parts.scheme == "clickhouses",
            timeout=max(1.0, float(options.get("timeout", 30))),
            ca=options.get("ca", ""),
        )
    except ValueError as error:
        raise StoreError(f"the --store cannot be used: {error}; use {EXAMPLE}") from None


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"there is no option {name!r}, only {', '.join(OPTIONS)}")
    return options


def _host(text: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", text)
    if match is None or int(match[2] or default) > 65535:
        raise ValueError("a host is missing or is no HOST:PORT")
    return match[1].strip("[]"), int(match[2] or default)


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a {what}")
    return text


def _password(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the password from {path}: {getattr(error, 'strerror', 'no text')}") from None
