"""History out of Cassandra and DynamoDB: the journal's pages, or none; and `compare`."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from ledgerservice import reads
from ledgerservice.domain.events import Event
from ledgerservice.feed.targets import Published, Target, TargetFault, target_of
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.databases import connect, url_text
from tests.engines.cassandra_store import CassandraStore
from tests.engines.dynamo_store import DynamoStore
from tests.engines.journals import live
from tests.engines.stores import differences, events_of
from tests.processes import RunningService, cli, serving, wait_for

SOURCE = "history-source"
OwnStore = CassandraStore | DynamoStore


@pytest.fixture(params=[pytest.param("cassandra", marks=pytest.mark.thorough), "dynamodb"])
def store(request: pytest.FixtureRequest) -> OwnStore:
    found: OwnStore = request.getfixturevalue(f"{request.param}_store")
    return found


def publish(database: Database, store: OwnStore) -> None:
    """Everything, as a publisher does it."""
    target = target_of(store.url)
    target.open()
    events = events_of(database)
    for start in range(0, len(events), target.rows):
        part = events[start : start + target.rows]
        target.write(part, Published.after(1, part[-1]))
    target.close()


@contextmanager
def serving_from(database: Database, store: OwnStore) -> Iterator[RunningService]:
    values = {"DATABASE_URL": url_text(database), "LEDGER_HISTORY": store.url}
    with serving(**values, LEDGER_SWEEP_INTERVAL_S="3600") as service:
        yield service


def history(service: RunningService, account: int | str, **query: Any) -> httpx.Response:
    return service.client.get(f"/accounts/{account}/history", params=query)


def links(answer: httpx.Response) -> str | None:
    return answer.links.get("next", {}).get("url")


def pages(service: RunningService, account: int, limit: int) -> list[str]:
    """Where each page of an account's history is from; all are the journal's byte for byte."""
    plain = history(service, account, limit=limit)
    other = history(service, account, limit=limit, **{"from": "store"})
    sources: list[str] = []
    while True:
        assert (other.status_code, other.content) == (plain.status_code, plain.content)
        assert SOURCE not in plain.headers
        sources.append(other.headers[SOURCE])
        following, from_store = links(plain), links(other)
        if following is None:
            assert from_store is None
            return sources
        assert from_store == f"{following}&from=store"
        plain, other = service.get(following), service.get(from_store)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 2))]
)
def test_pages_are_the_journals(database: Database, store: OwnStore, seed: int) -> None:
    """Of random histories with every kind, with pages of many sizes, across buckets."""
    live(database, seed, busy=2_050 if seed == 0 else 0)
    publish(database, store)
    assert differences(database, store.state()) == []
    with serving_from(database, store) as service:
        for account, limit in itertools.product(range(1, 6), (1, 7, 100, 999, 1000)):
            if limit < 100 and account == 1 and seed == 0:
                continue
            assert set(pages(service, account, limit)) == {"store"}
        for wrong in (99, "x", 0):
            plain, other = (history(service, wrong, **q) for q in ({}, {"from": "store"}))
            assert (other.status_code, other.content) == (plain.status_code, plain.content)
            assert other.status_code == 404


@pytest.fixture
def published(database: Database, store: OwnStore) -> Database:
    live(database, 7, busy=1_100)
    publish(database, store)
    return database


def test_python_reads_pages_of_the_store(
    published: Database, store: OwnStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = published.settings.model_copy(update={"history": SecretStr(store.url)})

    async def read() -> None:
        async with posting(replace(published, settings=settings)) as runtime:
            ledger = Ledger(Shards(runtime))
            for number, before in ((50, 1_050), (1_000, 1_002), (5, 1)):
                page = await ledger.history(1, number, before_version=before)
                with monkeypatch.context() as patch:
                    patch.setattr(reads, "HistoryRead", None)
                    same = await ledger.history(1, number, before_version=before, from_store=True)
                assert same == page
            store.remove_row(1, 1_001)
            page = await ledger.history(1, 5, before_version=1_003)
            assert page == await ledger.history(1, 5, before_version=1_003, from_store=True)

    asyncio.run(read())


def compared(database: Database, store: OwnStore, *options: str) -> tuple[int, str]:
    done = cli("compare", "--store", store.url, *options, DATABASE_URL=url_text(database))
    return done.returncode, done.stdout


def busy_version(database: Database) -> int:
    with connect(database) as owner:
        row = owner.execute("SELECT version FROM ledger.accounts WHERE ledger_id = 1 AND id = 1")
        return int(row.fetchall()[0][0])


@pytest.mark.thorough
def test_what_was_changed_by_hand_is_found(published: Database, store: OwnStore) -> None:
    """Each change is found by the page that has the row, and by the comparison."""
    code, printed = compared(published, store)
    assert (code, "has what the journal has" in printed) == (0, True)
    with serving_from(published, store) as service:
        changes: list[tuple[int, dict[str, Any] | None, str]] = [
            (1_003, {"key": "another"}, "differing"),
            (1_002, {"recorded_at": 1}, "differing"),
            (1_001, {"kind": 77}, "differing"),
            (1_000, {"balance": 5}, "differing"),
            (999, None, "missing"),
        ]
        for version, values, kind in changes:
            assert set(pages(service, 1, 1_000)) == {"store"} or version != 1_003
            if values is None:
                store.remove_row(1, version)
            else:
                store.change_row(1, version, **values)
            assert set(pages(service, 1, 50)) == {"store", "journal"}
            code, printed = compared(published, store)
            assert code == 1
            assert f"{kind}: ledger 1, account 1, version {version}:" in printed
        code, printed = compared(published, store, "--from=1:1:1003")
        assert (code, "has what the journal has" in printed) == (0, True)


def test_a_changed_head_is_found(published: Database, store: OwnStore) -> None:
    last = busy_version(published)
    store.change_head(1, last, 5)
    code, printed = compared(published, store)
    assert (code, "differing: ledger 1, account 1, head: balance is 5" in printed) == (1, True)
    store.change_head(1, 3, 5)
    code, printed = compared(published, store)
    assert (code, f"It has version 3, and must have {last}" in printed) == (1, True)
    store.change_head(1, last + 9, 5)
    code, printed = compared(published, store)
    assert (code, f"The journal has no version {last + 9}" in printed) == (1, True)


def test_what_the_journal_does_not_have_is_extra(published: Database, store: OwnStore) -> None:
    last = busy_version(published)
    for account, version in ((99, 1), (1, 7_000), (1, last + 1)):
        store.change_row(account, version, balance=1)
        code, printed = compared(published, store)
        expected = f"extra: ledger 1, account {account}, version"
        assert (code, expected in printed) == (1, True), printed


def test_a_store_that_is_behind_is_not_asked_in_vain(published: Database, store: OwnStore) -> None:
    """The page that lacks new entries is the journal's; compare goes to the store's position."""
    with serving_from(published, store) as service:
        assert history(service, 1, **{"from": "store"}).headers[SOURCE] == "store"
        service.send("/deposit", account_id=1, amount="1")
        assert pages(service, 1, 100)[0] == "journal"
        assert pages(service, 1, 100)[-1] == "store"
        assert history(service, 1, **{"from": "journal"}).headers[SOURCE] == "journal"
        assert history(service, 1, **{"from": "x"}).status_code == 422
    assert compared(published, store)[0] == 0


def test_another_place_of_the_journal_is_not_served_from_the_store(
    published: Database, store: OwnStore
) -> None:
    """A restored database has other rows under the same versions."""
    with serving_from(published, store) as service:
        assert history(service, 1, **{"from": "store"}).headers[SOURCE] == "store"
        with connect(published) as owner:
            owner.execute(
                "INSERT INTO ledger.epochs SELECT epoch, system_identifier, timeline, database_id,"
                " 1, compare_from FROM ledger.epochs"
            )
        assert history(service, 1, **{"from": "store"}).headers[SOURCE] == "journal"


@pytest.mark.thorough
def test_a_dead_store_is_answered_by_the_journal(published: Database, store: OwnStore) -> None:
    with serving_from(published, store) as service:
        assert set(pages(service, 1, 500)) == {"store"}
        store.engine.pause()
        assert set(pages(service, 1, 500)) == {"journal"}
        store.engine.resume()
        store.engine.kill()
        assert set(pages(service, 1, 500)) == {"journal"}
        assert compared(published, store)[0] == 1
        store.engine.start()
        assert wait_for(lambda: set(pages(service, 1, 500)) == {"store"}, 60, 0.5)


@pytest.mark.thorough
def test_rewritten_and_reordered_parts_change_nothing(database: Database, store: OwnStore) -> None:
    """Several publishers at once, with parts in any order: also the head stays the newest."""
    live(database, 3, busy=300)
    events = events_of(database)
    parts = [events[start : start + 40] for start in range(0, len(events), 40)] * 2
    random.Random(5).shuffle(parts)

    def write(own: list[list[Event]]) -> None:
        target = target_of(store.url)
        target.open()
        for part in own:
            target.write(part, Published.after(1, part[-1]))
        target.close()

    target = target_of(store.url)
    target.open()
    target.close()
    zombies = [threading.Thread(target=write, args=(parts[n::3],)) for n in range(3)]
    for zombie in zombies:
        zombie.start()
    for zombie in zombies:
        zombie.join()
    assert differences(database, store.state()) == []
    assert target.open() == Published.after(1, events[-1])
    target.close()
    assert compared(database, store)[0] == 0


def write_until(end_s: float, target: Target, events: list[Event]) -> None:
    while time.monotonic() < end_s:
        target.write(events, Published.after(1, events[-1]))


@pytest.mark.thorough
def test_a_server_that_dies_while_rows_are_written(database: Database, store: OwnStore) -> None:
    """Whatever of a part it has then: written again, everything is there once."""
    live(database, 4, busy=1_500)
    events = events_of(database)
    target = target_of(store.url)
    target.open()
    killing = threading.Timer(0.3, store.engine.kill)
    killing.start()
    with pytest.raises(TargetFault):
        write_until(time.monotonic() + 60, target, events)
    killing.join()
    store.engine.start()
    target.open()
    target.write(events, Published.after(1, events[-1]))
    target.close()
    assert differences(database, store.state()) == []
    assert compared(database, store)[0] == 0


def test_a_store_without_anything_is_not_equal(database: Database, store: OwnStore) -> None:
    live(database, 1)
    target = target_of(store.url)
    target.open()
    target.close()
    code, printed = compared(database, store)
    assert (code, "has nothing of epoch 1" in printed) == (1, True)
