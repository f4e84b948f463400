"""`consistency=standby`: reads from a real standby that say how old they are, or the primary."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from ledgerservice.ledger import Ledger
from ledgerservice.posting.standby import StandbyAccount
from tests.databases import quick_place, reachable_folder
from tests.processes import RunningService, serving, wait_for
from tests.proof.servers.cluster import DATABASE, PostgreSQL
from tests.replicas import primary_and_standby

pytestmark = pytest.mark.processes

LIMIT_S = 60.0
STANDBY_ONLY = {"consistency", "as_of", "age_ms"}
ANY_LAG, SHORT_LAG = "3600", "1"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgreSQL, ...]]:
    with (
        reachable_folder(quick_place()) as folder,
        primary_and_standby(folder, synchronous=False) as both,
    ):
        yield both


@pytest.fixture(scope="module")
def values(servers: tuple[PostgreSQL, ...]) -> dict[str, str]:
    """The environment of a service that answers from the standby, however old it is."""
    primary, standby = servers
    urls = {"DATABASE_URL": primary.url, "LEDGER_STANDBY_URL": standby.url}
    return {**urls, "LEDGER_STANDBY_LAG_S": ANY_LAG}


@pytest.fixture(scope="module")
def running(values: dict[str, str]) -> Iterator[RunningService]:
    with serving(**values) as service:
        yield service


@pytest.fixture
def service(running: RunningService, servers: tuple[PostgreSQL, ...]) -> RunningService:
    """A service whose standby answers."""
    account = running.open(balance="0.01")
    assert wait_for(lambda: is_of_standby(running, account), LIMIT_S)
    return running


@pytest.fixture
def account(service: RunningService) -> int:
    """An account with five entries, which the standby has."""
    number = service.open(balance="1")
    for _ in range(4):
        service.send("/deposit", account_id=number, amount="1")
    assert wait_for(lambda: read(service, number)["version"] == 5, LIMIT_S)
    assert wait_for(lambda: is_of_standby(service, number, min_version=5), LIMIT_S)
    return number


def read(service: RunningService, account: int, **values: Any) -> dict[str, Any]:
    answer = service.client.get(f"/accounts/{account}", params={"consistency": "standby", **values})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def is_of_standby(service: RunningService, account: int, **values: Any) -> bool:
    return bool(read(service, account, **values)["consistency"] == "standby")


def history(service: RunningService, account: int, **values: Any) -> httpx.Response:
    answer = service.client.get(
        f"/accounts/{account}/history", params={"consistency": "standby", **values}
    )
    assert answer.status_code == 200, answer.text
    return answer


@contextmanager
def behind(standby: PostgreSQL) -> Iterator[None]:
    """The standby replays nothing."""
    standby.ask("SELECT pg_wal_replay_pause()")
    assert wait_for(lambda: standby.ask("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
    try:
        yield
    finally:
        standby.ask("SELECT pg_wal_replay_resume()")


def test_a_standby_answers_what_the_primary_does(service: RunningService, account: int) -> None:
    of_standby = read(service, account, min_version=5)
    strong = service.get(f"/accounts/{account}").json()
    assert of_standby["consistency"] == "standby"
    assert of_standby["age_ms"] >= 0
    assert {name: of_standby[name] for name in of_standby.keys() - STANDBY_ONLY} == strong
    page = history(service, account, min_version=5)
    assert page.json() == service.get(f"/accounts/{account}/history").json()
    assert page.headers["history-source"] == "standby"
    assert page.headers["history-as-of"] >= of_standby["as_of"]
    assert int(page.headers["history-age-ms"]) >= 0


def test_what_one_has_written_is_read(
    service: RunningService, account: int, servers: tuple[PostgreSQL, ...]
) -> None:
    with behind(servers[1]):
        service.send("/deposit", account_id=account, amount="1")
        old, new = read(service, account), read(service, account, min_version=6)
        assert (old["consistency"], old["version"], old["balance"]) == ("standby", 5, "5.00")
        assert (new["consistency"], new["version"], new["balance"]) == ("strong", 6, "6.00")
        assert "as_of" not in new
        old_page = history(service, account)
        new_page = history(service, account, min_version=6)
        assert [page.json()[0]["version"] for page in (old_page, new_page)] == [5, 6]
        assert new_page.headers["history-source"] == "journal"
        assert "history-as-of" not in new_page.headers


def test_no_page_lacks_the_entries_that_a_standby_lacks(
    service: RunningService, account: int, servers: tuple[PostgreSQL, ...]
) -> None:
    with behind(servers[1]):
        for _ in range(4):
            service.send("/deposit", account_id=account, amount="1")
        page = history(service, account, limit=2, min_version=9)
        pages = [page]
        while "next" in page.links:
            page = service.get(page.links["next"]["url"])
            pages.append(page)
    versions = [entry["version"] for page in pages for entry in page.json()]
    assert versions == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    sources = [page.headers["history-source"] for page in pages]
    assert sources == ["journal", "journal", "standby", "standby", "standby"]


def test_what_a_standby_does_not_have_yet_is_found(
    service: RunningService, servers: tuple[PostgreSQL, ...]
) -> None:
    with behind(servers[1]):
        account = service.open()
        assert read(service, account)["consistency"] == "strong"
        assert history(service, account).json() == []
    assert service.get("/accounts/999999?consistency=standby").status_code == 404


def test_a_standby_that_is_too_far_behind_is_not_read(
    values: dict[str, str], servers: tuple[PostgreSQL, ...], account: int
) -> None:
    with serving(**{**values, "LEDGER_STANDBY_LAG_S": SHORT_LAG}) as impatient:
        assert wait_for(lambda: is_of_standby(impatient, account), LIMIT_S)
        with behind(servers[1]):
            assert wait_for(lambda: not is_of_standby(impatient, account), LIMIT_S)
            assert history(impatient, account).headers["history-source"] == "journal"
        assert wait_for(lambda: is_of_standby(impatient, account), LIMIT_S)


def test_the_time_of_a_standby_advances_while_nothing_is_recorded(
    values: dict[str, str], account: int
) -> None:
    with serving(**{**values, "LEDGER_STANDBY_LAG_S": SHORT_LAG}) as service:
        times: set[str] = set()

        def advances() -> bool:
            times.add(read(service, account).get("as_of", ""))
            return len(times - {""}) > 3

        assert wait_for(advances, LIMIT_S)


@pytest.mark.thorough
def test_a_standby_that_is_away_is_not_missed(
    service: RunningService, account: int, servers: tuple[PostgreSQL, ...]
) -> None:
    servers[1].kill()
    try:
        assert read(service, account)["consistency"] == "strong"
        assert history(service, account).headers["history-source"] == "journal"
    finally:
        servers[1].start()
    assert wait_for(lambda: is_of_standby(service, account), LIMIT_S)


WRONG = {
    "another database": lambda both: both[1].url.replace(f"/{DATABASE}", "/postgres"),
    "the primary": lambda both: both[0].url,
    "nobody": lambda _: "postgresql://postgres@127.0.0.1:1/proof",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_only_a_standby_of_the_database_is_read(
    values: dict[str, str], servers: tuple[PostgreSQL, ...], account: int, wrong: str
) -> None:
    with serving(**{**values, "LEDGER_STANDBY_URL": WRONG[wrong](servers)}) as service:
        assert read(service, account)["version"] == 5
        assert read(service, account)["consistency"] == "strong"


@pytest.mark.parametrize(
    "query",
    [
        "?consistency=standby&as_of=2026-01-01T00:00:00Z",
        "/history?consistency=standby&from=store",
        "/history?consistency=cached",
        "/history?consistency=standby&min_version=-1",
    ],
)
def test_what_cannot_be_combined_is_refused(
    service: RunningService, account: int, query: str
) -> None:
    assert service.get(f"/accounts/{account}{query}").status_code == 422


def test_python_reads_from_a_standby(
    values: dict[str, str], account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)

    async def look() -> Any:
        async with Ledger.open() as ledger:
            return await ledger.account(account, standby=True, min_version=5)

    found_account = asyncio.run(look())
    assert isinstance(found_account, StandbyAccount)
    assert (found_account.version, found_account.balance) == (5, 500)


def test_a_standby_that_was_promoted_is_not_read(
    values: dict[str, str], account: int, service: RunningService, servers: tuple[PostgreSQL, ...]
) -> None:
    """The last test of this file: the standby is none from here on."""
    assert is_of_standby(service, account)
    servers[1].ask("SELECT pg_promote()")
    assert not is_of_standby(service, account)
    assert history(service, account).headers["history-source"] == "journal"
