"""What options mean that agent, hub and people's command line share. Pure; raises ValueError with a line for people."""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any


def host_port(text: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; IPv6 addresses may be in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and only this machine can reach it there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def token_in(path: str, read: Callable[[str], str]) -> str:
    """What stands in a token file, without surrounding white space; `read` gives its text and raises OSError."""
    try:
        text = read(path).strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot read the token file {path}: {getattr(error, 'strerror', None) or error}") from None
    if not text:
        raise ValueError(f"the token file {path} is empty")
    return text


def own_token(path: str, read: Callable[[str], str]) -> str:
    """The one token that a program shows, as `token_in` reads it: it goes into a header, so it is printable ASCII."""
    token = token_in(path, read)
    if "\n" in token:
        raise ValueError(f"the token file {path} has several lines: put your token alone into a file")
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"the token file {path} has characters that a token cannot have: printable ASCII alone")
    return token


def whereto(option: str, command: str, own: Collection[str]) -> str:
    """For people, what to do about an option that `command` (`nodetap agents`) lacks; `own` are its program's."""
    program, _, rest = command.partition(" ")
    if option in own and rest:
        return f"It stands before the command: {program} {option} ... {rest}"
    return f"See `{command} --help`."


def misused(error: Any, program: str) -> str:
    """The line for people about a wrong command line of `program`; `error` is click's UsageError."""
    if error.ctx is None:
        return f"{program}: {error.format_message()} {whereto('', program, ())}"
    command = error.ctx.command_path
    own = [name for each in error.ctx.find_root().command.params for name in each.opts]
    return f"{command}: {error.format_message()} {whereto(getattr(error, 'option_name', ''), command, own)}"
