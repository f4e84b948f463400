"""`serve` with TLS: keys go over it only, and clients may need a certificate."""

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import url_text
from tests.processes import ROOT, Fork, cli, environment, free_port, wait_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
PEM = ("-addext", "subjectAltName=IP:127.0.0.1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that have signed themselves, and an encrypted key."""
    folder: Path = tmp_path_factory.mktemp("tls")
    for name in ("server", "client", "stranger"):
        make(folder, name, "-nodes")
    make(folder, "locked", "-passout", "pass:word")
    return folder


def make(folder: Path, name: str, *options: str) -> None:
    out = "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem", "-days", "2"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    subject = ("-subj", f"/CN={name}")
    subprocess.run([*command, *out, *subject, *PEM, *options], check=True, capture_output=True)


def context(files: Path, name: str | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(files / "server.pem"))
    if name is not None:
        made.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    return made


@pytest.fixture
def serve(database: Database, files: Path) -> Iterator[Callable[..., str]]:
    """Starts the service on all addresses with TLS; returns where it is."""
    processes: list[Fork | subprocess.Popen[bytes]] = []

    def start(name: str | None = None, workers: int = 1, **values: str) -> str:
        port = free_port()
        tls = {"LEDGER_TLS_CERT": f"{files}/server.pem", "LEDGER_TLS_KEY": f"{files}/server.key"}
        values = {"DATABASE_URL": url_text(database), **tls, **values}
        arguments = ["serve", "--host", "0.0.0.0", "--port", str(port)]
        if workers == 1:
            processes.append(Fork(arguments, environment(**values)))
        else:
            command = [sys.executable, "-m", "ledgerservice", *arguments, "--workers", f"{workers}"]
            processes.append(subprocess.Popen(command, env=environment(**values), cwd=ROOT))
        base = f"https://127.0.0.1:{port}"
        assert wait_for(lambda: is_ready(base, context(files, name)), 60)
        return base

    yield start
    for process in processes:
        process.terminate()
        process.wait(60)


def is_ready(base: str, tls: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{base}/health/ready", verify=tls).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_requests_over_tls(
    serve: Callable[..., str], database: Database, files: Path, workers: int
) -> None:
    key = make_key(database, "shop")
    base = serve(workers=workers)
    answer = httpx.get(f"{base}/accounts", headers=bearer(key), verify=context(files))
    assert answer.status_code == 200
    assert httpx.get(f"{base}/accounts", verify=context(files)).status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{base.replace('https', 'http')}/accounts")
    old = context(files)
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{base}/accounts", verify=old)


def test_clients_with_a_certificate(
    serve: Callable[..., str], database: Database, files: Path
) -> None:
    """It is needed besides the key, and replaces none."""
    key = make_key(database, "shop")
    base = serve("client", LEDGER_TLS_CLIENT_CA=f"{files}/client.pem")
    known = context(files, "client")
    answer = httpx.get(f"{base}/accounts", headers=bearer(key), verify=known)
    assert answer.status_code == 200
    assert httpx.get(f"{base}/accounts", verify=known).status_code == 401
    for name in (None, "stranger"):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{base}/accounts", headers=bearer(key), verify=context(files, name))


FAULTS = {
    "no file": ("none.pem", "server.key", None),
    "another key": ("server.pem", "client.key", None),
    "an encrypted key": ("locked.pem", "locked.key", None),
    "no certificate": ("server.key", "server.key", None),
    "no CA": ("server.pem", "server.key", "server.key"),
}


@pytest.mark.parametrize("names", FAULTS.values(), ids=FAULTS)
def test_files_that_do_not_fit(files: Path, names: tuple[str, str, str | None]) -> None:
    variables = "LEDGER_TLS_CERT", "LEDGER_TLS_KEY", "LEDGER_TLS_CLIENT_CA"
    values = {v: f"{files}/{n}" for v, n in zip(variables, names, strict=True) if n}
    done = cli("serve", LEDGER_DATA_FOLDER="/nowhere", **values)
    assert done.returncode == 1
    assert "must be files in PEM" in done.stderr and "Traceback" not in done.stderr


def test_a_key_without_its_certificate(files: Path) -> None:
    values = {"LEDGER_TLS_KEY": f"{files}/server.key"}
    done = cli("serve", LEDGER_DATA_FOLDER="/nowhere", **values)
    assert done.returncode == 1 and "need LEDGER_TLS_CERT" in done.stderr
