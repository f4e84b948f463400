"""/health: what a load balancer sees while the database, the schema or the service changes."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from ledgerservice.postgres.migrations import HEAD
from tests.cli.acceptors import all_answer
from tests.databases import connect, url_text
from tests.processes import ROOT, cli, environment, serving, wait_for
from tests.servers import running_server


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.parametrize("end", ["", "/"])
def test_health_answers_head(service, path, end):
    answer = service.client.head(path + end)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == service.get(path).headers["content-length"]


def status(service, path: str) -> int:
    return httpx.get(service.base + path, timeout=30, verify=False).status_code


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--workers", "2"), marks=pytest.mark.long)],
    ids=["one", "workers"],
)
def test_a_frozen_database_is_not_ready_before_any_other_limit(workspace, options):
    """Every other time limit of the service is longer than this test waits."""
    limits = ("REQUEST_DEADLINE_S", "CONNECT_TIMEOUT_S", "STATEMENT_TIMEOUT_S")
    with running_server() as server:
        values = {f"LEDGER_{name}": "300" for name in limits}
        with serving(DATABASE_URL=server.url, options=options, **values) as service:
            with frozen(server._data / "postmaster.pid"):
                for _ in range(6):  # connected before, and connecting
                    assert status(service, "/health/ready") == 503
                assert status(service, "/health/live") == 200
            assert wait_for(lambda: status(service, "/health/ready") == 200)
            assert service.stop() == 0


@contextmanager
def frozen(pid_file: Path) -> Iterator[None]:
    """A PostgreSQL whose processes have all been stopped."""
    postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def newer_release(folder: Path, *, compatible: bool) -> dict[str, str]:
    """The environment of a copy of this release with one more revision."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    revision = f"""
from alembic import op
revision = "9999_newer"
down_revision = "{HEAD}"
compatible = {compatible}
def upgrade():
    op.get_bind().exec_driver_sql("ALTER TABLE ledger.currencies ADD COLUMN newer text")
"""
    migrations = folder / "src/ledgerservice/postgres/migrations"
    (migrations / "versions/newer.py").write_text(revision)
    source = (migrations / "__init__.py").read_text()
    (migrations / "__init__.py").write_text(source.replace(HEAD, "9999_newer"))
    return {"PYTHONPATH": str(folder / "src")}


@pytest.mark.thorough
@pytest.mark.parametrize("compatible", [True, False])
def test_an_old_process_is_ready_as_long_as_the_schema_is_compatible(
    database, tmp_path, compatible
):
    values = {"DATABASE_URL": url_text(database)}
    with serving(**values) as service:
        account = service.open()
        command = [sys.executable, "-m", "ledgerservice", "migrate"]
        newer = environment(**values) | newer_release(tmp_path, compatible=compatible)
        subprocess.run(command, env=newer, cwd=tmp_path, check=True, capture_output=True)
        with connect(database) as owner:
            found = owner.execute("SELECT version_num FROM ledger.alembic_version").fetchall()
        assert found == [("9999_newer",)]
        assert status(service, "/health/ready") == (200 if compatible else 503)
        body = {"account_id": account, "amount": "1", "idempotency_key": "newer"}
        assert service.post("/deposit/", body).status_code == 200
    again = cli("migrate", **values)
    if compatible:
        assert again.returncode == 0, again.stderr
        with serving(**values) as service:
            assert service.get(f"/accounts/{account}").json()["balance"] == "1.00"
    else:
        assert again.returncode == 1
        assert "does not know the schema" in again.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--workers", "2"), marks=pytest.mark.long),
        pytest.param(("--acceptors", "2"), marks=pytest.mark.thorough),
    ],
    ids=["one", "workers", "acceptors"],
)
def test_a_service_that_drains_is_not_ready_and_serves(database, options):
    values = {"DATABASE_URL": url_text(database), "LEDGER_DRAIN_S": "10"}
    with serving(options=options, **values) as service:
        account = service.open()
        assert not options or wait_for(lambda: all_answer(service), 60)
        service.process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: status(service, "/health/ready") == 503)
        while status(service, "/health/ready") != 503:  # the other process
            pass
        for number in range(5):
            body = {"account_id": account, "amount": "1", "idempotency_key": f"{number}"}
            # On a new connection.
            answer = httpx.post(f"{service.base}/deposit/", json=body, verify=False)
            assert answer.status_code == 200
        assert status(service, "/health/ready") == 503
        assert status(service, "/health/live") == 200
        assert service.process.poll() is None
        assert service.process.wait(60) == 0


def test_a_second_signal_ends_the_draining(database):
    with serving(DATABASE_URL=url_text(database), LEDGER_DRAIN_S="3600") as service:
        service.process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: status(service, "/health/ready") == 503)
        assert service.stop() == 0
