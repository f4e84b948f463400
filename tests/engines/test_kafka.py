"""Events in Kafka: each once for consumers with read_committed, whatever dies."""

import asyncio
import json
import random
import uuid
from collections import Counter
from importlib.resources import files
from typing import Any

import jsonschema_rs
import pytest

from ledgerservice.domain.events import TYPES, Event
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed import kafka
from ledgerservice.feed.targets import Published, TargetFault, target_of
from ledgerservice.feed.targets import kafka as kafka_target
from ledgerservice.ledger import Ledger, deposit
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.databases import connect, url_text
from tests.engines.kafka_store import KafkaStore
from tests.engines.kafka_victim import PUBLISHING, kill_at
from tests.engines.stores import differences
from tests.files.lives import KINDS, Life
from tests.processes import Fork, environment, wait_for

pytestmark = pytest.mark.processes

DEPOSITS = 170


@pytest.fixture
def store(kafka_store: KafkaStore) -> KafkaStore:
    return kafka_store


@pytest.fixture
def filled(database: Database) -> Database:
    async def fill() -> None:
        async with posting(database) as runtime:
            ledger = Ledger(Shards(runtime))
            for currency in ("USD", "EUR"):
                await ledger.open_account("o", currency, key=currency)
            await ledger.post([deposit(n % 2 + 1, n + 1, f"k{n}") for n in range(DEPOSITS)])

    asyncio.run(fill())
    return database


def publish(database: Database, store: KafkaStore) -> None:
    """Run a publisher until the topics have everything."""
    process = Fork(["publish", store.url], environment(DATABASE_URL=url_text(database)))
    try:
        assert wait_for(lambda: differences(database, store.state()) == [], limit_s=60)
    finally:
        process.terminate()
        process.wait(30)


def ids(store: KafkaStore, isolation: str = "read_committed") -> list[str]:
    records = store.records("transactions", isolation)
    return [json.loads(record.value() or b"")["id"] for record in records]


def journal_ids(database: Database) -> list[str]:
    with connect(database) as owner:
        rows = owner.execute(
            "SELECT id FROM ledger.transactions UNION ALL SELECT change_id FROM ledger.accounts"
            " WHERE id > 0 UNION ALL SELECT change_id FROM ledger.currencies"
            " UNION ALL SELECT change_id FROM ledger.ledgers"
        )
        return sorted(f"1-{row[0]}" for row in rows)


@pytest.mark.thorough
@pytest.mark.parametrize("step", PUBLISHING)
def test_each_event_is_there_once_after_a_kill(
    filled: Database, store: KafkaStore, step: str
) -> None:
    kill_at(step, filled, "publish", store.url)
    begun = ids(store, "read_uncommitted")
    publish(filled, store)
    assert sorted(ids(store)) == journal_ids(filled)
    if step == "before commit_transaction":  # What was sent and not committed is there twice.
        everything = Counter(ids(store, "read_uncommitted"))
        assert len(begun) == 100
        assert max(everything.values()) == 2


@pytest.mark.long
def test_a_position_in_another_transaction_doubles_events(
    filled: Database, store: KafkaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary of the test above."""
    monkeypatch.setenv("CANARY", "apart")
    kill_at("before commit_transaction", filled, "publish", store.url)
    process = Fork(["publish", store.url], environment(DATABASE_URL=url_text(filled)))
    try:
        assert wait_for(lambda: 2 in Counter(ids(store)).values(), 60)
    finally:
        process.terminate()
        process.wait(30)


def event(number: int) -> Event:
    return Event(number, 1, "main", "currency.added", b'{"id":"1-%d"}' % number)


@pytest.mark.thorough
def test_a_zombie_is_fenced(store: KafkaStore) -> None:
    older, newer = target_of(store.url), target_of(store.url)
    assert older.open() is None
    older.write([event(1)], Published.after(1, event(1)))
    assert newer.open() == Published.after(1, event(1))
    for _ in range(2):
        with pytest.raises(TargetFault):
            older.write([event(2)], Published.after(1, event(2)))
    newer.write([event(3)], Published.after(1, event(3)))
    assert ids(store) == ["1-1", "1-3"]
    assert older.open() == Published.after(1, event(3))


def test_without_a_transactional_id_of_its_own_a_zombie_is_not_fenced(
    store: KafkaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary of the test above: each process has another id."""

    def transactional(address: Any, remarks: Any, name: str) -> Any:
        return kafka.transactional(address, remarks, f"{name}.{uuid.uuid4()}")

    monkeypatch.setattr(kafka_target, "transactional", transactional)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_zombie_is_fenced(store)
    assert ids(store).count("1-2") == 1


@pytest.mark.long
def test_a_dead_server_is_a_fault_and_the_target_goes_on_later(store: KafkaStore) -> None:
    target = target_of(store.url)
    target.open()
    store.engine.pause()
    with pytest.raises(TargetFault, match="kafka://"):
        target.write([event(1)], Published.after(1, event(1)))
    store.engine.kill()
    with pytest.raises(TargetFault):
        target.open()
    store.engine.start()
    assert wait_for(lambda: opens(store), limit_s=60)


def opens(store: KafkaStore) -> bool:
    target = target_of(store.url)
    try:
        published = target.open()
        target.write([event(2)], Published.after(1, event(2)))
    except TargetFault:
        return False
    return published in {None, Published.after(1, event(1))}


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://h:1/a/b",
        "kafka://h:1/a?no.such.option=1",
        "kafka://h:1/a?transactional.id=x",
        "kafka://h:1/a?partitions=0",
    ],
)
def test_a_url_that_is_not_valid_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        target_of(url)


def test_a_name_has_no_password() -> None:
    target = target_of("kafka://user:secret@h:1,h2:2/p?sasl.mechanism=PLAIN&partitions=2")
    assert target.name == "kafka://h:1,h2:2/p"


async def live(database: Database) -> None:
    """Let everything happen that has an event."""
    async with posting(database) as runtime:
        ledger = Ledger(Shards(runtime))
        await ledger.add_currency("XTS", 3, "Test")
        life = Life(await ledger.add_ledger("other"))
        await life.open()
        draw = random.Random(5)
        steps = [(kind, draw.randrange(9), draw.randrange(9), 100) for kind in KINDS]
        for _ in range(12):
            draw.shuffle(steps)
            await life.live([("deposit", n, 0, 10_000) for n in range(9)])
            await life.live([(kind, draw.randrange(9), draw.randrange(9), 1 + draw.randrange(90))
                             for kind, *_ in steps if kind != "wait"])  # fmt: skip


@pytest.mark.thorough
def test_records_have_the_form_of_their_schemas(database: Database, store: KafkaStore) -> None:
    asyncio.run(live(database))
    publish(database, store)
    seen = set()
    for topic, name in (("transactions", "event"), ("entries", "entry")):
        text = files("ledgerservice.feed").joinpath("schemas", f"{name}.json").read_text()
        schema = jsonschema_rs.validator_for(json.loads(text))
        for record in store.records(topic):
            body = json.loads(record.value() or b"")
            schema.validate(body)
            assert not schema.is_valid({**body, "unknown": 1})
            assert not schema.is_valid({**body, "version": 2})
            seen.add(body.get("type"))
    assert seen - {None} == set(TYPES)
