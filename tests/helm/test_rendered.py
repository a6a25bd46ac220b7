"""Hub and agent started as the rendered manifests say: the tokens and certificates of the chart let them in, and keep
out who has the wrong one. Only paths and ports are those of this machine."""

from __future__ import annotations

import base64
import json
import ssl
import struct
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from procs import Process, ending, environment, free_port, program, until

from tests.helm.chart import Object, needs_helm, one, render
from tests.helm.test_options import environment_of

pytestmark = needs_helm


def mounted(objects: list[Object], pod: Object, root: Path) -> dict[str, str]:
    """The volumes of a pod as folders below `root`; the mount paths with the folders that stand for them."""
    claims = one(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    sources = {volume["name"]: volume for volume in [*pod["volumes"], *(c["metadata"] for c in claims)]}
    found = {}
    for mount in pod["containers"][0]["volumeMounts"]:
        folder = root / mount["name"]
        folder.mkdir(parents=True)
        for name, content in _files(objects, sources[mount["name"]]).items():
            (folder / name).write_bytes(content)
        found[mount["mountPath"]] = str(folder)
    return found


def _files(objects: list[Object], volume: Object) -> dict[str, bytes]:
    if "configMap" in volume:
        data = one(objects, "ConfigMap", volume["configMap"]["name"])["data"]
        return {name: text.encode() for name, text in data.items()}
    if "secret" in volume:
        (data,) = [
            each["data"] for each in objects
            if each["kind"] == "Secret" and each["metadata"]["name"] == volume["secret"]["secretName"]
        ]  # fmt: skip
        return {item["path"]: base64.b64decode(data[item["key"]]) for item in volume["secret"]["items"]}
    return {}


def told(objects: list[Object], kind: str, root: Path, here: dict[str, str]) -> dict[str, str]:
    """The environment of a pod's container on this machine."""
    pod = one(objects, kind)["spec"]["template"]["spec"]
    paths = mounted(objects, pod, root)
    env = environment_of(objects, pod["containers"][0])
    for name, value in env.items():
        for mount, folder in paths.items():
            plain = value.removeprefix("chdb://")
            if plain == mount or plain.startswith(mount + "/"):
                env[name] = value.replace(mount, folder, 1)
    return {**env, **here}


def _capture(path: Path) -> None:
    """A pcap with one frame: a SYN from 192.0.2.1 to 192.0.2.2."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)))
    tcp = struct.pack(">HHIIBBHHH", 40000, 443, 1, 0, 0x50, 2, 1024, 0, 0)
    frame = bytes(12) + b"\x08\x00" + ip + tcp
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    path.write_bytes(header + struct.pack("<IIII", 1_700_000_000, 0, len(frame), len(frame)) + frame)


def test_the_secrets_of_the_chart_let_in_whom_they_should(tmp_path: Path) -> None:
    objects = render({})
    agents, api = free_port(), free_port()
    own = {"NODETAP_AGENTS": f"127.0.0.1:{agents}", "NODETAP_API": f"127.0.0.1:{api}"}
    env = told(objects, "StatefulSet", tmp_path / "hub", own)
    arguments = [arg.replace("/etc/nodetap/token", str(tmp_path / "hub" / "token")) for arg in _arguments(objects)]
    hub = Process(program("hub.serve", *arguments), tmp_path / "hub.log", env)
    with ending(hub):
        until("the hub is up", lambda: "hub is up" in hub.text)
        inside = env | {"NODETAP_HUB_URL": env["NODETAP_HUB_URL"].replace("8480", str(api))}
        who = subprocess.run(
            program("hub.cli.main", "agents"), env=environment(inside), capture_output=True, text=True, timeout=120
        )
        assert who.returncode == 0, who.stderr  # as who runs `nodetap` in the pod
        _capture(tmp_path / "one.pcap")
        there = {"NODETAP_HUB": f"wss://localhost:{agents}", "NODETAP_CONNECT_TIMEOUT": "5"}
        link = told(objects, "DaemonSet", tmp_path / "agent", there)
        del link["NODETAP_METRICS"]
        replay = [*program("agent.cli", "replay"), str(tmp_path / "one.pcap")]
        sent = subprocess.run(replay, env=environment(link), capture_output=True, text=True, timeout=120)
        assert sent.returncode == 0, sent.stderr

        test = one(objects, "Pod")["spec"]
        reader = mounted(objects, test, tmp_path / "test")
        asked = {
            e["name"]: e["value"].replace("/etc/nodetap/token", reader["/etc/nodetap/token"])
            .replace("/etc/nodetap/ca", reader["/etc/nodetap/ca"]) for e in test["containers"][0]["env"]
        } | {"NODETAP_HUB_URL": f"https://localhost:{api}"}  # fmt: skip
        ask = [*program("hub.cli.main", "packets", "tcp.dstport == 443"), "--since", "all", "-o", "ndjson"]
        answer = subprocess.run(ask, env=environment(asked), capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout or "{}").get("ip.dst") == "192.0.2.2", sent.stderr + answer.stderr + hub.text

        nodes = Path(link["NODETAP_TOKEN_FILE"]).read_text()
        ca = str(Path(link["NODETAP_TLS_CA"]))
        assert _status(f"https://localhost:{api}/v1/packets?since=all", ca, nodes) == 403
        assert _status(f"https://localhost:{api}/metrics", ca, Path(asked["NODETAP_TOKEN_FILE"]).read_text()) == 200
        reading = {**link, "NODETAP_TOKEN_FILE": asked["NODETAP_TOKEN_FILE"]}
        refused = subprocess.run(replay, env=environment(reading), capture_output=True, text=True, timeout=120)
        assert refused.returncode == 3, refused.stderr
        assert hub.stop() == 0


def _arguments(objects: list[Object]) -> list[str]:
    return list(one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["args"])


def _status(url: str, ca: str, token: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        context = ssl.create_default_context(cafile=ca)
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
