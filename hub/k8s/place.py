"""Where the API server is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts a pod's token and the API server's certificate authority."""


@dataclass(frozen=True, slots=True)
class Server:
    """An API server. Files are read again as they change."""

    url: str
    token_file: str | None = None
    ca_file: str | None = None


def in_cluster(environment: Mapping[str, str] = os.environ, secrets: Path = SECRETS) -> Server | None:
    """The API server of the cluster that this process is a pod of; None where it is none."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    token = secrets / "token"
    if not host or not token.exists():
        return None
    return Server(f"https://{f'[{host}]' if ':' in host else host}:{port}", str(token), str(secrets / "ca.crt"))
