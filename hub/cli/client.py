"""Questions to the hub over HTTP, with the patience of a person: a hub that falls silent is noticed in seconds.

A query may take long while the hub is well, so silence alone proves nothing: after `SILENCE` seconds without a byte
the hub's `/healthz` is asked over a connection of its own, and only if that too stays silent the hub is unresponsive.
"""

from __future__ import annotations

import contextlib
import math
import queue
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from hub.cli.errors import NEGATIVE, UNREACHABLE, USAGE, CliError, FilterError, HubLost
from protocol.options import own_token
from protocol.trouble import hint, plain

CONNECT = 5.0
"""Seconds until a connection is given up."""
SILENCE = 5.0
"""Seconds without a byte before the hub is asked whether it lives."""
PROBE = 3.0
"""Seconds that the hub has to answer that."""
PATIENCE = 15.0
"""Seconds for which a hub that is busy is asked again, as it says when."""
MOMENT = 0.01
QUEUED = 64
"""Chunks read ahead of whoever prints them."""

MEDIA = (
    "application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream", "application/x-pcapng", "text/plain",
)  # fmt: skip
"""What a hub's answers are; one of another kind is somebody else's."""
HOLDS = {
    **dict.fromkeys(("/v1/agents", "/v1/ledger", "/v1/configure"), ("agents",)),
    **dict.fromkeys(("/v1/packets", "/v1/flows", "/v1/calls"), ("query", "complete")),
    "/v1/doctor": ("findings",),
    "/v1/fields": ("fields",),
    "/v1/status": ("version",),
}
"""Path -> what the object that is answered there has one of."""
NO_CONTENT = 204
_BUSY_CODES = ("busy", "too_many")
_USAGE_CODES = ("bad_parameter", "contradiction", "bad_setting", "bad_cursor", "wrong_store")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the hub is and how to get in: the global options."""

    url: str
    token_file: str | None = None
    tls_ca: str | None = None

    def headers(self) -> dict[str, str]:
        """The bearer token's header. Raises CliError (usage) where the file cannot be read."""
        if self.token_file is None:
            return {}
        try:
            token = own_token(self.token_file, lambda path: Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise CliError(str(error), USAGE) from None
        return {"Authorization": f"Bearer {token}"}

    def verify(self) -> ssl.SSLContext | bool:
        """What the hub's certificate is checked against."""
        if self.tls_ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise CliError(f"cannot read the CA certificates {self.tls_ca}: {error}", USAGE) from None


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer begins with."""

    status: int
    headers: Mapping[str, str]


def _is_url(text: str) -> bool:
    """Whether a hub can be asked there: a scheme, a host that has a name's form, a port that there is."""
    try:
        parts, _ = urlsplit(text), httpx.URL(text)
        host = (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False


class Client:
    """One hub. Not for use from several threads; `close` it, or use it in `with`."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.url.rstrip("/")
        if not _is_url(self.url):
            raise CliError(f"the hub's address {settings.url!r} is no URL: write http://HOST:8480", USAGE)
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": settings.headers(),
            "verify": settings.verify() if self.url.startswith("https:") else True,
            "trust_env": False,
        }
        self.most = ""
        """What the hub says of its longest answers."""
        self.deadline = math.inf
        """Seconds that a hub which is well may take for the begin of its answer, and between two pieces of it."""
        self._http = httpx.Client(timeout=httpx.Timeout(None, connect=CONNECT), **self._options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def each(self) -> list[Client]:
        """The hubs that are asked, one by one."""
        return [self]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def change(self, method: str, path: str, params: Mapping[str, Any]) -> Any:
        """The JSON value that comes of PUT or DELETE at `path`. Raises CliError, `doubtful` if its answer was lost."""
        try:
            with self.stream(path, params, method=method) as (_, chunks):
                return self.read(path, b"".join(chunks))
        except CliError as error:
            if not error.doubtful:
                raise
            said = f"{str(error).partition('; ')[0]}; changed or not: see `nodetap configure`, or change it again"
            raise CliError(said, doubtful=True) from error

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON object at `path`. Raises CliError."""
        with self.stream(path, params) as (_, chunks):
            return self.read(path, b"".join(chunks))

    def read(self, path: str, body: bytes) -> dict[str, Any]:
        """The JSON object that `body` is as an answer at that path. Raises CliError."""
        found = problem(body)
        if not any(name in found for name in HOLDS.get(path, found)):
            raise self.stranger(f"what it says at {path} is no answer")
        return found

    def stranger(self, what: str) -> CliError:
        """Whoever answers is no hub."""
        return CliError(f"{self.url} is no nodetap hub, or of another version: {what}; check --hub-url")

    def text(self, path: str) -> str:
        """The text at `path`. Raises CliError."""
        with self.stream(path) as (_, chunks):
            return b"".join(chunks).decode()

    def delete(self, path: str) -> None:
        """DELETE `path`. Raises CliError."""
        with self.stream(path, method="DELETE") as (_, chunks):
            for _chunk in chunks:
                pass

    @contextlib.contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any] | None = None, method: str = "GET", silence: float | None = None
    ) -> Iterator[tuple[Head, Iterator[bytes]]]:
        """The answer's head and its bytes as they come. Raises CliError: refusals by what they mean, silence, loss.

        With `silence` the answer is one that never pauses longer than that many seconds (heartbeats).
        """
        given = {k: v for k, v in (params or {}).items() if v is not None}
        patience = time.monotonic() + min(PATIENCE, self.deadline)
        while True:
            pump = _Pump(self, method, path, given, silence)
            try:
                head = pump.head()
                if head.status < 400:
                    self._check(head)
                    yield head, pump.chunks()
                    return
                body = b"".join(pump.chunks())
            finally:
                pump.stop()
            pause = busy(head, body)
            if not 0 < pause <= patience - time.monotonic():
                shown = "Authorization" in self._options["headers"]
                raise refusal(head, body, str(given.get("filter") or ""), self.url, shown)
            if sys.stderr.isatty():
                sys.stderr.write(f"nodetap: the hub is busy; asking again in {pause:g} s\n")
            time.sleep(pause)

    def _check(self, head: Head) -> None:
        """Raises CliError where an answer cannot be a hub's."""
        kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if head.status != NO_CONTENT and kind not in MEDIA:
            raise self.stranger(f"it answers with {kind[:40] or 'nothing'}")

    def alive(self, within: float = PROBE) -> bool:
        """Whether the hub answers at all, over a new connection."""
        try:
            with httpx.Client(timeout=within, **self._options) as http:
                http.get("/healthz")
        except httpx.HTTPError:
            return False
        return True

    def lost(self, error: Exception) -> HubLost:
        """A failed connection in words."""
        if isinstance(error, httpx.ConnectTimeout):
            return self.unresponsive("no connection", doubtful=False)
        if isinstance(error, httpx.ConnectError):
            reason = plain(str(error)) or type(error).__name__
            away = "start one with `nodetap up` or name another with --hub-url"
            todo = away if "refused" in reason else hint(reason) or "check --hub-url"
            return HubLost(f"cannot reach the hub at {self.url}: {reason}; {todo}", doubtful=False)
        reason = plain(str(error)).rstrip(".") or type(error).__name__
        most = f", for less where it is long (this hub sends at most {self.most})" if self.most else ""
        if "without sending" in reason and self.url.startswith("http:"):
            most = ", with https:// if it wants TLS"
        return HubLost(f"the hub at {self.url} broke off its answer: {reason}; ask again{most}")

    def unresponsive(self, what: str, doubtful: bool = True) -> HubLost:
        """A hub that holds its port and says nothing."""
        told = f"hub unresponsive: {self.url} takes connections and does not answer ({what}); see its log"
        return HubLost(told, doubtful=doubtful)


class _Pump:
    """One request, read by a thread, so that whoever waits for it keeps the time and Ctrl-C."""

    def __init__(
        self, client: Client, method: str, path: str, params: Mapping[str, Any], silence: float | None
    ) -> None:
        self._client = client
        self._silence = silence
        self._items: queue.Queue[Any] = queue.Queue(QUEUED)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(method, path, params), daemon=True)
        self._thread.start()

    def _run(self, method: str, path: str, params: Mapping[str, Any]) -> None:
        try:
            # whoever waits gives up before; so nothing stays behind of questions to a hub that is frozen
            timeout = httpx.Timeout(self._silence and 2 * self._silence, connect=CONNECT)
            with self._client._http.stream(method, path, params=params, timeout=timeout) as response:
                self._client.most = response.headers.get("nodetap-most", "")
                self._put(Head(response.status_code, response.headers))
                for chunk in response.iter_bytes():
                    if not self._put(chunk):
                        return
            self._put(None)
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Hand over one item; False once nobody takes them any more."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.2)
                return True
        return False

    def _next(self) -> Any:
        silence = self._silence or SILENCE
        end = time.monotonic() + self._client.deadline
        while True:
            try:
                item = self._items.get(timeout=max(min(silence, end - time.monotonic()), MOMENT))
            except queue.Empty:
                left = end - time.monotonic()
                if left <= MOMENT:
                    raise self._client.unresponsive(f"nothing for {self._client.deadline:g} s") from None
                if self._silence is not None or not self._client.alive(min(PROBE, left)):
                    raise self._client.unresponsive(f"nothing for {silence:g} s") from None
                continue
            if isinstance(item, httpx.HTTPError):
                raise self._client.lost(item) from item
            if isinstance(item, Exception):
                raise item
            return item

    def head(self) -> Head:
        """Status and headers."""
        head: Head = self._next()
        return head

    def chunks(self) -> Iterator[bytes]:
        """The body."""
        while (item := self._next()) is not None:
            yield item

    def stop(self) -> None:
        """Take no more. The thread ends by itself: at its next item, or with the process."""
        self._stopped.set()


def problem(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, of a problem or an answer; empty where there is none."""
    try:
        value = httpx.Response(200, content=body).json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def busy(head: Head, body: bytes) -> float:
    """After how many seconds to ask again a hub that has too much to do, 0 where it says something else."""
    after = head.headers.get("retry-after", "")
    return float(after) if after.isdigit() and problem(body).get("code") in _BUSY_CODES else 0.0


def refusal(head: Head, body: bytes, text: str, url: str, shown: bool = False) -> CliError:
    """An error answer in words, with the exit code that it means. `text` is the filter; a token was `shown` or not."""
    return explain({"status": head.status, **problem(body)}, text, url, shown)


def explain(told: Mapping[str, Any], text: str, url: str, shown: bool = False) -> CliError:
    """A problem object (of an error answer or a broken-off one) as the error to raise."""
    code, status = told.get("code"), told.get("status")
    detail = told.get("detail") or told.get("title") or f"HTTP status {status}"
    if code == "bad_filter":
        return FilterError(text, str(detail), told.get("column"), told.get("suggestion"))
    if code == "bad_token" or status == 401:
        which = "the one given is none of this hub's" if shown else "none was given"
        return CliError(f"the hub at {url} wants a token: give it with --token-file ({which})", UNREACHABLE)
    if status == 403:
        return CliError(f"the hub at {url} refuses it: {detail}; give another with --token-file", UNREACHABLE)
    if code in ("no_such_agent", "agent_connected"):
        return CliError(str(detail), NEGATIVE)
    if code in _USAGE_CODES:
        return CliError(str(detail), USAGE)
    proxy = code is None and status in (502, 504)  # its hub is away, or was in the middle of it
    if status in (429, 503) or proxy:
        later = f"the hub at {url} cannot answer now: {detail}; ask again in a moment"
        return HubLost(later, doubtful=proxy or code == "store_error")
    if code == "query_timeout":
        return CliError(f"the query took too long: {detail}; ask for less with --since, --until or a filter")
    if code is None and status == 404:
        return CliError(f"{url} is no nodetap hub, or of another version: HTTP status 404; check --hub-url")
    return CliError(f"the hub at {url} failed: {detail}; see its log", doubtful=True)
