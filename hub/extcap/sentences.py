"""The lines with which an extcap program answers, and what an interface means. Pure.

Source: https://www.wireshark.org/docs/man-pages/extcap.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from protocol import VERSION
from protocol.filter.values import quote as quoted

ALL = "nodetap"
"""The interface that is all agents; one agent's is this, a dash, and its name with %XX for what is no plain letter."""
USER0 = 147
"""A link type for what has several: the capture itself says which."""


def sentence(word: str, **values: object) -> str:
    """One line: a word and its values, which can hold no braces and no line ends."""
    return f"{word} " + "".join(f"{{{name}={_plain(value)}}}" for name, value in values.items())


def _plain(value: object) -> str:
    return re.sub(r"[{}\s]+", " ", str(value))


def interfaces(agents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who we are, all agents as one interface, and each that is connected; `agents` as the hub's API lists them.

    Those of one name, at several hubs, are one.
    """
    present = (each["agent"] for each in agents if each.get("connection") and each.get("source") != "replay")
    return [
        sentence("extcap", version=VERSION, display="nodetap"),
        sentence("interface", value=ALL, display="nodetap: all agents"),
        *(
            sentence("interface", value=f"{ALL}-{quote(name, safe='')}", display=f"nodetap: {name}")
            for name in dict.fromkeys(present)
        ),
    ]


def dlts() -> list[str]:
    """The link types."""
    return [sentence("dlt", number=USER0, name="USER0", display="as the agents captured it")]


def config(hub_url: str, token_file: str | None, tls_ca: str | None) -> list[str]:
    """The options of an interface, with their defaults."""
    rows: list[dict[str, Any]] = [
        {"call": "--hub-url", "display": "Hub", "type": "string", "default": hub_url,
         "tooltip": "The address of the hub's API; several with commas"},
        {"call": "--token-file", "display": "Token file", "type": "fileselect", "default": token_file or "",
         "mustexist": "false", "tooltip": "A file that holds the bearer token, where the hub wants one"},
        {"call": "--tls-ca", "display": "CA certificates", "type": "fileselect", "default": tls_ca or "",
         "mustexist": "false", "tooltip": "Certificates that may sign the hub's"},
        {"call": "--filter", "display": "Display filter", "type": "string", "default": "",
         "tooltip": "Only frames that match leave their node: tcp.port == 443"},
        {"call": "--max-bytes", "display": "Bytes", "type": "unsigned", "default": 0,
         "tooltip": "End after so many bytes of frames; 0 is never"},
    ]  # fmt: skip
    return [sentence("arg", number=number, **row) for number, row in enumerate(rows)]


def filter_of(interface: str, *texts: str | None) -> str | None:
    """The filter that an interface and what else was asked for come to. Raises ValueError for an unknown interface."""
    name, dash, agent = interface.partition("-")
    if name != ALL:
        raise ValueError(f"no interface {interface!r}: there are {ALL} and {ALL}-AGENT")
    parts = [f"nodetap.agent == {quoted(unquote(agent))}"] if dash else []
    parts += [f"({text})" for text in texts if text and text.strip()]
    return " and ".join(parts) or None
