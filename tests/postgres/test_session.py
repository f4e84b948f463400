"""Whatever an operator sets for a server, a database or a role, the service answers the same."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.locking import FIND_EARLIER, LOCK_ONE_BY_ONE
from ledgerservice.postgres.pipeline import Request, array, number, text_array
from tests.databases import url_text
from tests.postgres.hostile import (
    LEFT,
    LOGIN,
    OVERRIDDEN,
    PLACES,
    REFUSED,
    SINCE_17,
    Operator,
    operating,
    set_everywhere,
)
from tests.processes import RunningService, cli, free_port, serving

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LOCALES = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def login(new_database) -> Database:
    """A database with an empty ledger, and a login that may do what the service does."""
    database = new_database()
    return replace(database, url=database.url.set(username=LOGIN))


@pytest.fixture
def operator(login: Database) -> Iterator[Operator]:
    with operating(replace(login, url=login.url.set(username="postgres"))) as operator:
        yield operator


PATHS = (
    "/accounts/{}",
    "/accounts/{}?as_of=2100-01-01T00:00:00Z",
    "/accounts/{}/history",
    "/accounts/{}/statement?from=2020-01-01T00:00:00Z",
    "/transactions/?metadata=%7B%22order%22%3A%22%C3%BC%22%7D",
    "/accounts/?currency=USD",
    "/health/ready",
)


def answers_of(service: RunningService) -> list[str]:
    """What a client gets that opens accounts, moves money and reads it back, without the times."""
    first, second = service.open(balance="10.00"), service.open("Zoë")
    transfer = {"from_account_id": first, "to_account_id": second, "amount": "2.50"}
    posted = service.send("/transfer/", **transfer, metadata={"order": "ü"}, idempotency_key="t")
    hold = service.send("/holds/", account_id=first, amount="1", idempotency_key="h")
    declined = service.send("/withdraw/", account_id=second, amount="99", idempotency_key="w")
    answers = [posted, hold, declined, *(service.get(p.format(second)) for p in PATHS)]
    bad = [answer.text for answer in answers if answer.status_code != 200]
    assert bad == [declined.text] and declined.json()["code"] == "insufficient_funds", bad
    return [TIME.sub("T", a.text) for a in answers]


def plans_of(database: Database) -> list[Any]:
    """The plans of the writer for a batch, and the settings of both kinds of session."""
    lock = [number(1), array([1, 2]), array([1])]
    keys = [number(1), array([1]), array([0]), text_array(["k"])]

    async def read() -> list[Any]:
        wire = await database.connect_writer()
        results = await wire.exchange(
            Request(f"EXPLAIN (COSTS OFF) {LOCK_ONE_BY_ONE}", lock),
            Request(f"EXPLAIN (COSTS OFF) {FIND_EARLIER}", keys),
            Request(SETTINGS, [text_array(PINNED)]),
        )
        await wire.close()
        engine = database.read_engine()
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(SETTINGS.replace("$1", "%s"), (PINNED,))
            settings = list(rows)
        await engine.dispose()
        return [*(result.rows for result in results), settings]

    return asyncio.run(read())


PINNED = sorted(OVERRIDDEN.keys() - LEFT)
SETTINGS = """
SELECT name, current_setting(name) FROM unnest($1::text[]) AS pinned (name) ORDER BY name
"""


EACH = OVERRIDDEN | SINCE_17


@contextmanager
def answering(database: Database) -> Iterator[list[str]]:
    with serving(DATABASE_URL=url_text(database)) as service:
        yield answers_of(service)


@pytest.fixture(scope="module")
def usual(new_database) -> tuple[list[str], list[Any]]:
    """The answers and the plans where nothing is set."""
    database = new_database()
    with answering(database) as answers:
        plans = plans_of(database)
    assert all(("jit", "off") in settings for settings in plans[-2:])  # it is on by default
    return answers, plans


def possible(operator: Operator, name: str) -> bool:
    """Whether this server knows the setting and its value."""
    is_known = name not in SINCE_17 or operator.major >= 17
    return is_known and (name != "lc_messages" or "de_DE" in LOCALES)


@contextmanager
def hostile(operator: Operator, names: Iterable[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(set_everywhere(operator, name, EACH[name]))
        yield


def test_all_settings_together_change_no_answer_and_no_plan(usual, login, operator):
    """What is pinned is seen in the session itself, and the answers and plans are the usual."""
    pinned = [name for name in EACH if name not in LEFT and possible(operator, name)]
    with hostile(operator, pinned), answering(login) as answers:
        assert answers == usual[0]
        assert plans_of(login) == usual[1]


ALONE = [
    name if name in LEFT | SINCE_17.keys() else pytest.param(name, marks=pytest.mark.long)
    for name in EACH
]


@pytest.mark.parametrize("name", ALONE)
def test_a_setting_changes_no_answer_and_no_plan(usual, login, operator, name):
    """None of them needs another one to be harmless."""
    if not possible(operator, name):
        pytest.skip("PostgreSQL 17 brought it, or: localedef -i de_DE -f UTF-8 de_DE.UTF-8")
    with hostile(operator, [name]), answering(login) as answers:
        assert answers == usual[0]
        assert plans_of(login) == usual[1]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_cannot_be_overridden_is_refused_by_name(login, operator, name, place):
    operator.alter(place, f"SET {name} = '{REFUSED[name]}'")
    done = cli("serve", "--port", str(free_port()), DATABASE_URL=url_text(login))
    operator.alter(place, f"RESET {name}")
    assert done.returncode == 1
    assert name.strip() in done.stderr
    assert "Traceback" not in done.stderr
    if name == "session_replication_role":
        assert "'replica'" in done.stderr
        assert f"source: {place.source}" in done.stderr
        assert "RESET session_replication_role" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("PGDATESTYLE", "SQL, DMY"), ("PGTZ", "Asia/Kolkata"), ("PGGEQO", "on"),
                        ("PGOPTIONS", "-c datestyle=german"), ("PGCLIENTENCODING", "LATIN1")]
)  # fmt: skip
def test_a_variable_of_libpq_changes_nothing(usual, login, operator, name, value):
    with serving(DATABASE_URL=url_text(login), **{name: value}) as service:
        assert answers_of(service) == usual[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, name, value)
        assert plans_of(login) == usual[1]


@pytest.mark.thorough
def test_a_setting_that_is_made_while_the_service_runs_is_noticed_too(login, operator):
    """New connections are refused, and requests are answered 503, until it is corrected."""
    place = PLACES[1]
    impatient = {"LEDGER_REQUEST_DEADLINE_S": "1"}
    with serving(DATABASE_URL=url_text(login), **impatient) as service:
        account = service.open()
        operator.alter(place, "SET session_replication_role = 'replica'")
        operator.end_sessions()
        body = {"account_id": account, "amount": "1", "idempotency_key": "k"}
        assert service.post("/deposit/", body).status_code == 503
        assert service.get(f"/accounts/{account}").status_code == 503
        operator.alter(place, "RESET session_replication_role")
        assert service.post("/deposit/", body).status_code == 200
        assert service.account(account, "balance") == ("1.00",)


UNREACHABLE: dict[str, dict[str, Any]] = {
    "does not exist. Create it": {"database": "no_such_database"},
    "Check user and password": {"username": "no_such_user"},
    "Check host and port": {"host": "127.0.0.1", "port": 1, "query": {}},
}


@pytest.mark.skipif("de_DE" not in LOCALES, reason="localedef -i de_DE -f UTF-8 de_DE.UTF-8")
@pytest.mark.parametrize("line", UNREACHABLE)
def test_no_cause_is_found_by_the_language_of_a_message(login, operator, line):
    operator.alter(PLACES[0], "SET lc_messages = 'de_DE.UTF-8'")
    url = login.url.set(**UNREACHABLE[line])
    done = cli("serve", "--port", str(free_port()), DATABASE_URL=url.render_as_string(False))
    assert done.returncode == 1
    assert line in done.stderr
    if "database" in UNREACHABLE[line] and operator.major == 15:  # the wheels have no languages
        assert "existiert nicht" in done.stderr


@pytest.mark.parametrize("text", ["\0", "a\0b", '"\0'])
def test_an_array_of_texts_is_not_cut_at_nul(text: str) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        text_array(["a", text])
