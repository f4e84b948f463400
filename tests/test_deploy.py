"""The files of deploy/, tried as far as the programs are there."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from ledgerservice.api.resources.health import router
from ledgerservice.environment import SUFFIX, secrets_of
from ledgerservice.postgres.connections import Database
from ledgerservice.settings import Settings
from tests.databases import url_text
from tests.processes import ROOT, RunningService, free_port, serving, wait_for

DEPLOY = ROOT / "deploy"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
VARIABLES = {
    str(field.validation_alias or f"LEDGER_{name.upper()}")
    for name, field in Settings.model_fields.items()
}
SECRETS = {name + SUFFIX for name in secrets_of(Settings)}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_valid_and_locked_down(tmp_path: Path) -> None:
    text = (DEPLOY / "ledgerservice@.service").read_text()
    unit = tmp_path / "ledgerservice@8000.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    verified = run("systemd-analyze", "verify", str(unit))
    assert "ledgerservice" not in verified.stderr
    rated = run("systemd-analyze", "security", "--offline=true", str(unit)).stdout
    level = re.search(r"exposure level for \S+: ([\d.]+)", rated)
    assert level is not None
    assert float(level[1]) < 2.5
    assert set(re.findall(r"Environment=(\w+)=", text)) <= VARIABLES | SECRETS


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def proxy(new_database: Callable[..., Database], tmp_path: Path) -> Iterator[httpx.Client]:
    """nginx with our configuration, without TLS, in front of a service."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    values = {"DATABASE_URL": url_text(new_database()), "LEDGER_ALLOW_OPEN": "true"}
    values |= {"LEDGER_TRUSTED_PROXIES": "127.0.0.1"}
    with serving(**values) as service:
        yield from behind_nginx(service, tmp_path)


def behind_nginx(service: RunningService, tmp_path: Path) -> Iterator[httpx.Client]:
    assert NGINX is not None
    port = free_port()
    ours = (DEPLOY / "nginx.conf").read_text()
    ours = ours.replace("127.0.0.1:8000", service.base.removeprefix("http://"))
    # The other process is being replaced: nothing listens there, and nobody notices.
    ours = ours.replace("127.0.0.1:8001", f"127.0.0.1:{free_port()}")
    ours = ours.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    ours = re.sub(r"\n *ssl_\w+ .*", "", ours).replace("ledger.example.com", "localhost")
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders}\n{ours}\n}}\n"
    )
    tmp_path.chmod(0o755)
    command = [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://localhost:{port}", timeout=30) as client:
        assert wait_for(lambda: is_up(client))
        yield client
    process.terminate()
    process.wait(30)


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_requests_through_nginx(proxy: httpx.Client) -> None:
    opened = proxy.post("/accounts/", json={"owner": "Alice", "currency": "USD"}).json()
    deposit = {"account_id": opened["id"], "amount": "1", "idempotency_key": "k"}
    first, again = [proxy.post("/deposit/", json=deposit) for _ in range(2)]
    assert (first.status_code, first.content) == (200, again.content)

    def lines() -> Iterator[bytes]:
        for number in range(3):
            item = {"type": "DEPOSIT", **deposit, "idempotency_key": f"line {number}"}
            yield json.dumps(item).encode() + b"\n"

    # What a client writes itself is not believed, and refuses nothing.
    headers = {"content-type": "application/x-ndjson", "x-forwarded-for": "x", "forwarded": "x"}
    answer = proxy.post("/batches/", content=lines(), headers=headers)
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [200] * 3


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("release", ["1.25", kubernetes_validate.latest_version()])
def test_kubernetes_takes_the_manifests(release: str) -> None:
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, release, strict=True)
    misspelt = json.loads(json.dumps(manifests()["Deployment"]).replace("readinessP", "readyP"))
    with pytest.raises(kubernetes_validate.ValidationError, match="readyProbe"):
        kubernetes_validate.validate(misspelt, release, strict=True)


def test_the_manifests_name_what_is_there() -> None:
    found = manifests()
    assert set(found) == {"Secret", "Deployment", "Service", "PodDisruptionBudget"}
    assert set(found["Secret"]["stringData"]) <= VARIABLES
    pod = found["Deployment"]["spec"]["template"]["spec"]
    [ledger] = pod["containers"]
    assert {variable["name"] for variable in ledger["env"]} <= VARIABLES | SECRETS
    values = {variable["name"]: variable["value"] for variable in ledger["env"]}
    [mount] = [one for one in ledger["volumeMounts"] if one["name"] == "url"]
    [item] = next(one for one in pod["volumes"] if one["name"] == "url")["secret"]["items"]
    assert values["DATABASE_URL_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert item["key"] == "DATABASE_URL"
    probes = [
        ledger[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    ]
    assert {probe["path"] for probe in probes} <= {route.path for route in router.routes}  # type: ignore[attr-defined]
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, selector in (
        ("Deployment", found["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", found["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind
    assert all("LEDGER_OWNER_URL" not in str(one) for one in pod["containers"])
