"""What an upgrade keeps and what it renews: rendered against a server that answers as an API server would."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.helm.chart import CHART, HELM, NAMESPACE, Object, needs_helm, one

pytestmark = needs_helm
DAY = 86_400
KINDS = {
    "v1": ("Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps/v1": ("DaemonSet", "StatefulSet"),
    "policy/v1": ("PodDisruptionBudget",),
    "scheduling.k8s.io/v1": ("PriorityClass",),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding"),
}
OWNER = {"meta.helm.sh/release-name": "tap", "meta.helm.sh/release-namespace": NAMESPACE}
CLUSTER_WIDE = ("PriorityClass", "ClusterRole", "ClusterRoleBinding")


def _resource(kind: str) -> Object:
    name = kind.lower() + ("es" if kind.endswith("s") else "s")
    return {"name": name, "kind": kind, "namespaced": kind not in CLUSTER_WIDE, "verbs": ["get", "list", "create"]}


def _group(version: str) -> Object:
    of = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [of], "preferredVersion": of}


ANSWERS = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(v) for v in KINDS if v != "v1"]},
} | {
    f"/{'apis' if '/' in version else 'api'}/{version}": {
        "kind": "APIResourceList", "groupVersion": version, "resources": [_resource(kind) for kind in kinds],
    }
    for version, kinds in KINDS.items()
}  # fmt: skip


class Cluster:
    """An API server that has these Secrets, and the chart rendered against it."""

    def __init__(self, folder: Path) -> None:
        self.secrets: dict[str, Object] = {}
        self.config = folder / "config"
        self.values = folder / "values.json"
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                name = path.removeprefix(f"/api/v1/namespaces/{NAMESPACE}/secrets/")
                answer = ANSWERS.get(path) or cluster.secrets.get(name)
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                body = json.dumps(answer or missing).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        self.config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {}}], "contexts": [context], "current-context": "test",
        }))  # fmt: skip

    def upgrade(self, **values: Any) -> list[Object]:
        """Render against what is there, and have its Secrets there afterwards."""
        assert HELM is not None
        self.values.write_text(json.dumps(values))
        done = subprocess.run(
            [HELM, "template", "tap", str(CHART), "--namespace", NAMESPACE, "--dry-run=server",
             "--disable-openapi-validation", "--kubeconfig", str(self.config), "--values", str(self.values)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        objects = [each for each in yaml.safe_load_all(done.stdout) if each]
        self.secrets = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Secret"}
        for secret in self.secrets.values():  # as an install notes whose they are
            secret["metadata"].setdefault("annotations", {}).update(OWNER)
        return objects

    def data(self) -> dict[str, dict[str, str]]:
        return {name: secret["data"] for name, secret in self.secrets.items()}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path)
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_an_upgrade_keeps_tokens_and_certificates(cluster: Cluster) -> None:
    cluster.upgrade()
    before = cluster.data()
    objects = cluster.upgrade(hub={"retainDays": 3})
    assert cluster.data() == before
    assert one(objects, "ConfigMap", "-hub")["data"]["NODETAP_RETAIN_DAYS"] == "3"


def _leaf(cluster: Cluster) -> x509.Certificate:
    data = cluster.secrets["tap-nodetap-hub-tls"]["data"]
    leaf = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(base64.b64decode(data["ca.crt"])))
    return leaf


@pytest.mark.parametrize(("age", "renewed"), [(240, False), (245, True)])
def test_a_certificate_is_renewed_once_two_thirds_of_it_are_over(cluster: Cluster, age: int, renewed: bool) -> None:
    cluster.upgrade()
    first, ca = _leaf(cluster), cluster.data()["tap-nodetap-ca"]
    notes = cluster.secrets["tap-nodetap-hub-tls"]["metadata"]["annotations"]
    notes["nodetap/issued"] = str(int(notes["nodetap/issued"]) - age * DAY)
    cluster.upgrade()
    assert (_leaf(cluster).serial_number != first.serial_number) is renewed
    assert cluster.data()["tap-nodetap-ca"] == ca
    again = _leaf(cluster)
    cluster.upgrade()
    assert _leaf(cluster) == again  # and the next upgrade keeps it


def test_a_new_name_needs_a_new_certificate_of_the_same_authority(cluster: Cluster) -> None:
    cluster.upgrade()
    ca = cluster.data()["tap-nodetap-ca"]
    cluster.upgrade(tls={"names": ["tap.example.org"]})
    names = _leaf(cluster).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "tap.example.org" in names.get_values_for_type(x509.DNSName)
    assert cluster.data()["tap-nodetap-ca"] == ca


def test_tokens_whose_secret_was_deleted_are_made_anew_together(cluster: Cluster) -> None:
    cluster.upgrade()
    before = cluster.data()
    del cluster.secrets["tap-nodetap-agent-token"]
    cluster.upgrade()
    after = cluster.data()
    assert after["tap-nodetap-agent-token"] != before["tap-nodetap-agent-token"]
    assert after["tap-nodetap-token"]["token"] == before["tap-nodetap-token"]["token"]
    roles = base64.b64decode(after["tap-nodetap-token"]["roles"]).decode()
    assert base64.b64decode(after["tap-nodetap-agent-token"]["token"]).decode() in roles
