"""The URL of a database means what it means to psql, and no part of it is repeated."""

import pytest

from ledgerservice.errors import ConfigurationError
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url
from tests.processes import cli, serving

UNDERSTOOD: dict[str, dict[str, object]] = {
    "postgresql://u:p@h:5/d": {"user": "u", "password": "p", "host": "h", "port": 5},
    "postgres://u:p%40%2F%25@h/d": {"password": "p@/%", "host": "h"},
    "postgresql+psycopg://u:p#x@h/d": {"password": "p#x", "host": "h", "dbname": "d"},
    "postgresql://u:p?x@h/d": {"password": "p?x", "host": "h", "dbname": "d"},
    "postgresql+asyncpg://h/d?user=u&password=p": {"user": "u", "password": "p", "host": "h"},
    "postgresql://[::1]:5432/d": {"host": "::1", "port": 5432},
    "postgresql://u@/d?host=/run/pg&port=6": {"host": "/run/pg", "port": "6"},
    "postgresql://%2Frun%2Fpg/d": {"host": "/run/pg"},
    "postgresql://u@h1:1,h2:2/d": {
        "host": "h1,h2",
        "port": "1,2",
        "target_session_attrs": "read-write",
    },
    "postgresql://db:5432/": {"host": "db", "port": 5432},
    "postgresql://h/d?sslmode=require": {"sslmode": "require", "host": "h"},
}


def test_of_several_hosts_the_one_that_answers_is_used(database: Database) -> None:
    place, port = database.url.query["host"], database.url.query["port"]
    hosts = {"host": f"/nowhere,{place}", "port": f"1,{port}"}
    url = database.url.update_query_dict(hosts).set(drivername="postgresql")
    with serving(DATABASE_URL=url.render_as_string(hide_password=False)) as service:
        account = service.open(balance="1")
        assert service.account(account, "balance") == ("1.00",)


SECRETS = ["hunter2", "p@ss"]
REFUSED = {
    "postgresql://u:hunter2/x@h/d": "@ after the host",
    "postgresql://u:p@ss@h/d": "@ after the host",
    "postgresql://u:hunter2%zz@h/d": "not a PostgreSQL URL",
    "postgresql://u:hunter2@h:port/d": "a port that is not a number",
    "postgresql://u:hunter2@h:99999/d": "a port that is not a number",
    "postgresql://u:hunter2@h/d?prepare_threshold=0": "the parameter prepare_threshold",
    "postgresql://u:hunter2@h/d?ssl=require": "the parameter ssl",
    "mysql://u:hunter2@h/d": "must begin with postgresql://",
    "hunter2": "must begin with postgresql://",
    "": "must begin with postgresql://",
}


@pytest.mark.parametrize("url", UNDERSTOOD)
def test_a_url_is_understood(url: str) -> None:
    parsed = parse_url(url)
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    assert UNDERSTOOD[url].items() <= arguments.items()


@pytest.mark.parametrize("url", UNDERSTOOD)
def test_a_url_is_the_same_after_it_was_written(url: str) -> None:
    parsed = parse_url(url)
    assert parse_url(parsed.render_as_string(hide_password=False)) == parsed


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_is_refused_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED[url]) as fault:
        parse_url(url)
    assert not any(secret in str(fault.value) for secret in SECRETS)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2/x@h/d",
        "postgresql://u:hunter2@127.0.0.1:1/d",
        "postgresql://127.0.0.1:1/d?user=u&password=hunter2",
    ],
)
@pytest.mark.parametrize("command", ["serve", "verify", "backup"])
def test_a_password_is_in_no_output(url: str, command: str, tmp_path) -> None:
    more = [str(tmp_path / "file")] if command == "backup" else []
    done = cli(command, *more, DATABASE_URL=url)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
