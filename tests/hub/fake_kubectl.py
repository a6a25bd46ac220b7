#!/usr/bin/env python3
"""A stand-in for kubectl: answers from a folder, and forwards TCP as `kubectl port-forward` does. Not a cluster.

Its folder, FAKE_KUBECTL, holds `services.json`, `pods.json`, `secrets.json` and `target` (HOST:PORT); it writes the
arguments of each call to `calls` and its process id, while it forwards, to `forward.pid`. What it prints is what
kubectl 1.34 prints in its place.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

FOLDER = Path(os.environ["FAKE_KUBECTL"])


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


def listed(words: list[str]) -> None:
    items = json.loads((FOLDER / f"{words[1]}.json").read_text())
    namespace = "" if "--all-namespaces" in words else option(words, "--namespace") or "default"
    wanted = dict(pair.split("=") for pair in option(words, "--selector").split(","))
    found = [
        item
        for item in items
        if namespace in ("", item["metadata"]["namespace"]) and wanted.items() <= item["metadata"]["labels"].items()
    ]
    print(json.dumps({"kind": "List", "items": found}))


def secret(words: list[str]) -> None:
    values = json.loads((FOLDER / "secrets.json").read_text())
    if words[2] not in values:
        sys.exit(f'Error from server (NotFound): secrets "{words[2]}" not found')
    key = re.fullmatch(r"jsonpath=\{\.data\.(.*)\}", option(words, "--output"))
    assert key is not None
    value = values[words[2]].get(key[1].replace("\\.", "."), "")
    print(base64.b64encode(value.encode()).decode(), end="")


def carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


def forward(words: list[str]) -> None:
    host, _, port = (FOLDER / "target").read_text().strip().partition(":")
    local, _, remote = words[-1].partition(":")
    try:
        listener = socket.create_server(("127.0.0.1", int(local or 0)))
    except OSError:
        sys.exit(f"error: unable to listen on any of the requested ports: [{{{local} {remote}}}]")
    told = FOLDER / f"pid.{os.getpid()}"
    told.write_text(str(os.getpid()))
    told.rename(FOLDER / "forward.pid")  # whole, whenever it is read
    print(f"Forwarding from 127.0.0.1:{listener.getsockname()[1]} -> {remote}", flush=True)
    while True:
        near, _ = listener.accept()
        print(f"Handling connection for {listener.getsockname()[1]}", flush=True)
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            print(
                "E1121 10:00:00.000000 1 portforward.go:424] an error occurred forwarding: exit status 1",
                file=sys.stderr,
            )
            near.close()
            continue
        for pair in ((near, far), (far, near)):
            threading.Thread(target=carry, args=pair, daemon=True).start()


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith(("--context=", "--kubeconfig="))]
    with (FOLDER / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    if words[0] == "port-forward":
        forward(words)
    elif words[:2] == ["get", "secret"]:
        secret(words)
    else:
        listed(words)


if __name__ == "__main__":
    main()
