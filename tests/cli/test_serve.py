"""`serve`: the port, and how the service stops."""

import socket

import pytest

from tests.databases import url_text
from tests.processes import cli


@pytest.mark.parametrize("options", [("--workers", "1"), ("--workers", "2"), ("--acceptors", "2")])
def test_a_port_in_use_is_named_with_how_to_choose_another(database, options):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = cli("serve", "--port", port, *options, DATABASE_URL=url_text(database))
        by_variable = cli("serve", *options, LEDGER_PORT=port, LEDGER_DATA_FOLDER="/x")
    assert done.returncode == by_variable.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == by_variable.stderr.strip()
    for part in (f"Port {port} on 127.0.0.1 is in use", "--port", "LEDGER_PORT"):
        assert part in line


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_named(database, host):
    values = {"DATABASE_URL": url_text(database), "LEDGER_ALLOW_PLAINTEXT": "true"}
    done = cli("serve", "--host", host, **values)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert host in line and "Traceback" not in done.stderr and "LEDGER_HOST" in line
