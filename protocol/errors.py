"""Every error of the link, and whose fault it is.

    NodetapError
     +- LocalError           we did something wrong: a bug or a limit of ours; never caused by bytes from outside
     +- RemoteError          the peer sent something wrong; `code` says what, and is what a refusal carries
         +- WrongMessage     the bytes are no message: not msgpack, too large, a missing key, a wrong type
         +- WrongBatch       the message is one, its columns lie: lengths, sizes, UTF-8, unknown encodings
         +- IllegalMoment    a known message at a time when it may not come
         +- Refused          the peer refused us, with its own code

The codes are the vocabulary of `CODES`; a refusal, a log line and a metric use the same word.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    "bad_msgpack": "the bytes are not one msgpack map",
    "too_large": "a message, batch or column is larger than the limit",
    "bad_key": "a required key is missing or has the wrong type",
    "unknown_type": "the message type is not known",
    "unknown_version": "no protocol version in common",
    "bad_column": "a column has the wrong type, length or encoding",
    "bad_utf8": "a string is not UTF-8",
    "bad_zstd": "the compressed part cannot be decompressed to the size it claims",
    "illegal_moment": "the message may not come now",
    "out_of_window": "more was sent than the window allows",
    "bad_token": "the token is missing or wrong",
    "superseded": "a newer connection of the same agent took over",
    "wrong_agent": "the batch names another agent than the connection",
    "busy": "the hub takes no more connections now",
    "draining": "the hub is shutting down",
    "poison": "the store refused the batch",
}


class NodetapError(Exception):
    """Base of every error nodetap raises on purpose."""


class LocalError(NodetapError):
    """Our own mistake: a bug or an impossible request. Never caused by what a peer sent."""


class RemoteError(NodetapError):
    """The peer's mistake. `code` is one of `CODES`; `detail` is one line for people."""

    def __init__(self, code: str, detail: str = "") -> None:
        if code not in CODES:
            raise LocalError(f"error code {code!r} is not in CODES")
        super().__init__(f"{code}: {detail or CODES[code]}")
        self.code = code
        self.detail = detail or CODES[code]


class WrongMessage(RemoteError):
    """The bytes are no message we can read."""


class WrongBatch(RemoteError):
    """A batch whose columns cannot be taken. The connection stays up; the batch is refused by code."""


class IllegalMoment(RemoteError):
    """A known message in a state that does not allow it."""

    def __init__(self, detail: str) -> None:
        super().__init__("illegal_moment", detail)


class Refused(RemoteError):
    """The peer refused us. `retry_after` is in seconds, None where it named none."""

    def __init__(self, code: str, detail: str = "", retry_after: float | None = None) -> None:
        if code not in CODES:  # a newer peer's word: kept for people
            code, detail = "illegal_moment", f"{code}: {detail}"
        super().__init__(code, detail)
        self.retry_after = retry_after
