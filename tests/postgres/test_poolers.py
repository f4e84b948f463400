"""A connection pooler between the service and PostgreSQL is noticed before anything is answered."""

import shutil
from dataclasses import replace

import pytest

from tests.databases import url_text
from tests.postgres.poolers import pgbouncer, pgpool
from tests.processes import cli, free_port, serving

NEEDS_PGBOUNCER = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="apt-get install pgbouncer"
)
NEEDS_PGPOOL = pytest.mark.skipif(shutil.which("pgpool") is None, reason="apt-get install pgpool2")


@NEEDS_PGBOUNCER
@pytest.mark.parametrize(
    ("mode", "ignored", "line"),
    [("transaction", "options", "It is in transaction mode"),
     ("transaction", "extra_float_digits", "It is in transaction mode"),
     ("statement", "options", "It is in transaction mode"),
     ("session", "options", "It does not pass on the connection's options"),
     ("session", "extra_float_digits", "It refuses the connection's options")],
)  # fmt: skip
def test_a_pooler_that_changes_sessions_is_refused_by_name(database, mode, ignored, line):
    with pgbouncer(database.url, mode, ignored) as url:
        through = url_text(replace(database, url=url))
        for command in (["serve", "--port", str(free_port())], ["migrate"]):
            done = cli(*command, DATABASE_URL=through)
            assert done.returncode == 1
            assert "connection pooler" in done.stderr
            assert line in done.stderr
            assert "Traceback" not in done.stderr


@NEEDS_PGPOOL
def test_a_pooler_that_keeps_a_session_and_its_options_works(database):
    with (
        pgpool(database.url) as url,
        serving(DATABASE_URL=url_text(replace(database, url=url))) as service,
    ):
        account = service.open(balance="5.00")
        for _ in range(30):
            assert service.account(account, "balance") == ("5.00",)
        service.send("/withdraw/", account_id=account, amount="1")
        assert service.account(account, "balance") == ("4.00",)
