"""The file in Wireshark's folder that starts `nodetap-extcap`, and where that folder is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NAME = "nodetap-extcap"
_PERSONAL, _CONFIGURATION = "Personal Extcap path", "Personal configuration"


def folder() -> Path:
    """Where Wireshark looks for programs of its user. Before 4.2 that is beside its settings, and not said."""
    said = folders()
    if _PERSONAL in said:
        return Path(said[_PERSONAL])
    if _CONFIGURATION in said:
        return Path(said[_CONFIGURATION]) / "extcap"
    return Path.home() / ".local" / "lib" / "wireshark" / "extcap"


def folders() -> dict[str, str]:
    """What tshark says of its folders; nothing where there is no tshark."""
    try:
        done = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {name.strip(): path.strip() for name, _, path in pairs}


def script(settings: Mapping[str, str]) -> str:
    """The launcher: this interpreter, and the settings unless the environment has others."""
    lines = ["#!/bin/sh", "# Written by `nodetap extcap install`: shows nodetap's agents as interfaces in Wireshark."]
    for name, value in settings.items():
        lines += [f"{name}=${{{name}:-{shlex.quote(value)}}}", f"export {name}"]
    return "\n".join([*lines, f'exec {shlex.quote(sys.executable)} -P -m hub.extcap.main "$@"', ""])


def install(where: Path, settings: Mapping[str, str]) -> Path:
    """Write the launcher; what is there of an earlier one is replaced. Raises OSError."""
    where.mkdir(parents=True, exist_ok=True)
    path, partial = where / NAME, where / f".{NAME}.partial"
    partial.write_text(script(settings))
    partial.chmod(0o755)
    os.replace(partial, path)
    return path


def uninstall(where: Path) -> Path | None:
    """Remove the launcher; where it was, None where there is none. Raises OSError."""
    path = where / NAME
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    return path
