#!/usr/bin/env python3
"""Build the images `agent` and `hub` without a registry or an engine's daemon, and say how large they are.

tools/images.py [--suite trixie]   exit code 0 built, 77 where something is missing (one line says what)

The base is a Debian that debootstrap makes (trixie has Python 3.13, bookworm 3.11); it is kept as an image and made
once. buildah builds from it what the Dockerfile says.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "localhost/nodetap"
TARGETS = ("agent", "hub")
TOOLS = ("buildah", "podman", "runc", "debootstrap")
"""Programs, each in the Debian package of its name."""
PACKAGES = "python3,ca-certificates,netbase,tzdata"
"""What python:3.13-slim has too."""
MISSING = 77
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"


def missing() -> str:
    """What keeps images from being built here; empty where nothing does."""
    if os.geteuid() != 0:
        return "images are not built: it needs root"
    packages = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"images are not built: apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


def run(*command: str) -> None:
    """Run a command; its words are shown. Raises CalledProcessError."""
    subprocess.run(command, check=True)


def base_of(suite: str) -> str:
    """The name of the base, made where it is not there yet."""
    name = f"{NAME}-base:{suite}"
    if subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0:
        return name
    with tempfile.TemporaryDirectory(prefix="nodetap-base-") as folder:
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, folder)
        for debs in Path(folder, "var/cache/apt/archives").glob("*.deb"):
            debs.unlink()
        pack = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["podman", "import", "--quiet", "-", name], stdin=pack.stdout, check=True)
        assert pack.wait() == 0
    return name


def build(target: str, base: str) -> str:
    """Build one target of the Dockerfile; its name."""
    name = f"{NAME}-{target}:test"
    trust = (
        "--volume",
        f"{CA_FILE}:/run/ca.crt:ro",
        "--build-arg",
        "PIP_CERT=/run/ca.crt",
    )  # this machine's, if its own
    run("buildah", "bud", "--isolation=chroot", "--layers", "--quiet", "--build-arg", f"BASE={base}", *trust,
        "--target", target, "--tag", name, "--file", str(ROOT / "Dockerfile"), str(ROOT))  # fmt: skip
    return name


def sizes(name: str) -> list[tuple[str, int, int]]:
    """Per layer: what made it, bytes unpacked and bytes compressed (gzip -6)."""
    with tempfile.TemporaryDirectory(prefix="nodetap-layers-") as folder:
        archive = Path(folder, "image.tar")
        run("podman", "save", "--quiet", "--format", "docker-archive", "--output", str(archive), name)
        with tarfile.open(archive) as tar:
            manifest = json.load(_file(tar, "manifest.json"))[0]
            config = json.load(_file(tar, manifest["Config"]))
            made = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
            return [(_what(by), *_weigh(_file(tar, layer))) for by, layer in zip(made, manifest["Layers"], strict=True)]


def _file(tar: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    file = tar.extractfile(name)
    assert isinstance(file, tarfile.ExFileObject)
    return file


def _what(made_by: str) -> str:
    for word, what in (("apt-get", "Debian's packages"), ("COPY", "nodetap and what it imports")):
        if word in made_by:
            return what
    return "base"


def _weigh(layer: tarfile.ExFileObject) -> tuple[int, int]:
    """Bytes before and after compression."""

    class Scale:
        weight = 0

        def write(self, data: bytes) -> int:
            self.weight += len(data)
            return len(data)

    scale, size = Scale(), 0
    with gzip.GzipFile(fileobj=scale, mode="wb", compresslevel=6, mtime=0) as packed:  # type: ignore[arg-type]
        while chunk := layer.read(1 << 20):
            size += len(chunk)
            packed.write(chunk)
    return size, scale.weight


def main() -> int:
    """Build both, print their layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--sizes", action="store_true", help="show what each layer weighs")
    options = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return MISSING
    base = base_of(options.suite)
    for target in TARGETS:
        name = build(target, base)
        for what, size, packed in sizes(name) if options.sizes else ():
            print(f"{target:6} {what:30} {size / 1e6:8.1f} MB   compressed {packed / 1e6:7.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
