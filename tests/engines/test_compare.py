"""`ledgerservice compare` with Kafka and Valkey: each fault of a read model is found and named."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest
from confluent_kafka import Message, Producer

from ledgerservice.feed.targets import Published, Target, target_of
from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.engines.journals import live
from tests.engines.kafka_store import KafkaStore
from tests.engines.servers import Kafka
from tests.engines.stores import Store, events_of
from tests.engines.valkey_store import ValkeyStore
from tests.processes import ROOT, cli, environment, wait_for

pytestmark = pytest.mark.processes

Records = dict[int, list[Message]]
"""The committed records of each partition."""


def compared(database: Database, url: str, *options: str) -> tuple[int, str]:
    done = cli("compare", "--store", url, *options, DATABASE_URL=url_text(database))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def publish(database: Database, store: Store) -> None:
    """Everything, as a publisher does it, in two writes."""
    target: Target = target_of(store.url)
    target.open()
    events = events_of(database)
    half = len(events) // 2
    for part in (events[:half], events[half:]):
        target.write(part, Published.after(1, part[-1]))
    target.close()


@pytest.fixture(params=["kafka", "valkey"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.mark.thorough
def test_a_store_with_everything_is_equal(database: Database, store: Store) -> None:
    """Also if it is behind, or if the journal has accounts without entries."""
    live(database, 3, busy=1_500)
    publish(database, store)
    code, printed = compared(database, store.url)
    assert (code, "has what the journal has" in printed) == (0, True), printed
    live(database, 4)
    assert compared(database, store.url)[0] == 0


@pytest.mark.thorough
def test_a_store_without_anything_is_not_equal(database: Database, store: Store) -> None:
    live(database, 1)
    for _ in range(2):
        code, printed = compared(database, store.url)
        assert (code, "has nothing of epoch 1" in printed) == (1, True), printed
        target = target_of(store.url)
        target.open()
        target.close()


# Kafka. Records cannot be changed, so they are copied to another prefix with a fault.


def with_fault(store: KafkaStore, change: Callable[[list[Message]], list[Any]]) -> str:
    """The URL of a copy whose entries are changed; each keeps its partition."""
    prefix = f"{store.prefix}-{change.__name__}"
    kafka: Kafka = store.engine
    kafka.create(f"{prefix}.entries", partitions=3)
    kafka.create(f"{prefix}.positions", cleanup_policy="compact")
    producer = Producer({"bootstrap.servers": kafka.address})
    for topic, records in (
        ("entries", change(store.records("entries"))),
        ("positions", store.records("positions")),
    ):
        for one in records:
            key, value, partition = as_written(one)
            producer.produce(f"{prefix}.{topic}", key=key, value=value, partition=partition)
    assert producer.flush(30) == 0
    return f"kafka://{kafka.address}/{prefix}"


def as_written(record: Any) -> tuple[bytes, bytes, int]:
    if isinstance(record, tuple):
        return record
    return record.key(), record.value(), record.partition()


def of_first(records: list[Message]) -> list[int]:
    """The places of the records of account 1."""
    return [place for place, one in enumerate(records) if one.key() == b"1:1:1"]


def unchanged(records: list[Message]) -> list[Any]:
    return records


def missing(records: list[Message]) -> list[Any]:
    place = of_first(records)[4]
    return records[:place] + records[place + 1 :]


def last_missing(records: list[Message]) -> list[Any]:
    place = of_first(records)[-1]
    return records[:place] + records[place + 1 :]


def twice(records: list[Message]) -> list[Any]:
    place = of_first(records)[4]
    return [*records[: place + 1], *records[place:]]


def again_later(records: list[Message]) -> list[Any]:
    return [*records, records[of_first(records)[4]]]


def swapped(records: list[Message]) -> list[Any]:
    a, b = of_first(records)[4:6]
    changed = list(records)
    changed[a], changed[b] = records[b], records[a]
    return changed


def rewritten(record: Message, **values: Any) -> tuple[bytes, bytes, int]:
    key, value, partition = as_written(record)
    return key, msgspec.json.encode({**msgspec.json.decode(value), **values}), partition


def other_balance(records: list[Message]) -> list[Any]:
    place = of_first(records)[4]
    return [*records[:place], rewritten(records[place], balance="1.00"), *records[place + 1 :]]


def other_currency(records: list[Message]) -> list[Any]:
    place = of_first(records)[4]
    return [*records[:place], rewritten(records[place], currency="[/]"), *records[place + 1 :]]


def other_bytes(records: list[Message]) -> list[Any]:
    place = of_first(records)[4]
    return [*records[:place], rewritten(records[place], note=1), *records[place + 1 :]]


def extra_version(records: list[Message]) -> list[Any]:
    place = of_first(records)[-1]
    return [*records, rewritten(records[place], account_version=100_000)]


def extra_account(records: list[Message]) -> list[Any]:
    _, value, partition = rewritten(records[of_first(records)[0]], account_id=999)
    return [*records, (b"1:1:999", value, partition)]


def foreign(records: list[Message]) -> list[Any]:
    return [*records, (b"1:1:1", b"{}", 0)]


def older_epoch(records: list[Message]) -> list[Any]:
    """Its records are not compared."""
    return [(b"0:1:1", b"{}", 0), *records]


FAULTS = {
    unchanged: "has what the journal has",
    missing: "missing: ledger 1, account 1, version 5:",
    last_missing: "missing: ledger 1, account 1, version",
    twice: "twice: ledger 1, account 1, version 5:",
    again_later: "out of order: ledger 1, account 1, version 5:",
    swapped: "out of order: ledger 1, account 1, version 5:",
    other_currency: "differing: ledger 1, account 1, version 5: currency is '[/]', not",
    other_balance: "differing: ledger 1, account 1, version 5: balance is 100",
    other_bytes: "differing: ledger 1, account 1, version 5: checksum is 0",
    extra_version: "extra: ledger 1, account 1, version 100000:",
    extra_account: "extra: ledger 1, account 999, version 1:",
    foreign: "is not an entry of a ledger.",
    older_epoch: "has what the journal has",
}


@pytest.mark.long
def test_each_fault_of_a_topic_is_found(database: Database, kafka_store: KafkaStore) -> None:
    live(database, 5, busy=40)
    publish(database, kafka_store)
    for change, expected in FAULTS.items():
        url = with_fault(kafka_store, change)
        code, printed = compared(database, url)
        assert (code, expected in printed) == (int("has what" not in expected), True), printed


def test_what_was_not_committed_is_not_compared(
    database: Database, kafka_store: KafkaStore
) -> None:
    """An aborted transaction is not there."""
    live(database, 6)
    publish(database, kafka_store)
    producer = Producer(
        {"bootstrap.servers": kafka_store.engine.address, "transactional.id": kafka_store.prefix}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    [first, *_] = kafka_store.records("entries")
    key, value, partition = as_written(first)
    producer.produce(f"{kafka_store.prefix}.entries", value, key, partition)
    producer.flush(10)
    producer.abort_transaction(10)
    # A broker that was away for long loads its transactions first.
    assert wait_for(lambda: compared(database, kafka_store.url)[0] == 0, 60)


# Valkey.


@pytest.mark.thorough
def test_each_fault_of_a_hash_is_found(database: Database, valkey_store: ValkeyStore) -> None:
    live(database, 7, busy=40)
    publish(database, valkey_store)
    place = f"{valkey_store.generation()}:1:1"
    with valkey_store.engine.client() as client:
        whole = {name.decode(): value for name, value in client.hgetall(place).items()}
        last = int(whole["version"])
        changes: list[tuple[dict[str, Any], str]] = [
            ({"balance": 5}, "differing: {}: balance is 5"),
            ({"held": 5}, "differing: {}: held is 5"),
            ({"id": 5}, "differing: {}: transaction_id is 5"),
            ({"version": 3}, f"gone back: {{}}: It has version 3, and must have {last}"),
            ({"version": last + 9}, f"extra: {{}}: The journal has no version {last + 9}"),
            ({"version": "x"}, "missing: {}"),
            ({"limits": "x"}, "missing: {}"),
            ({"currency": "JPY"}, "differing: {}: currency is 'JPY'"),
            ({"exponent": 3}, "differing: {}: exponent is 3"),
            ({"recorded_at": "2026-01-01T00:00:00Z"}, "differing: {}: recorded_at is"),
        ]
        for values, expected in changes:
            client.hset(place, mapping=values)
            code, printed = compared(database, valkey_store.url)
            assert code == 1
            assert expected.format("ledger 1, account 1, head") in printed
            client.hset(place, mapping=whole)
        client.delete(place)
        assert "missing: ledger 1, account 1, head" in compared(database, valkey_store.url)[1]
        client.hset(place, mapping=whole)
        assert compared(database, valkey_store.url)[0] == 0
        client.hset(f"{valkey_store.generation()}:1:999", "opened_at", "1")
        assert "extra: ledger 1, account 999" in compared(database, valkey_store.url)[1]


# Ctrl-C.

INTERRUPTED = """
import os, signal, sys
from ledgerservice.cli import main
from ledgerservice.feed import compare
compare.ROWS_AT_ONCE = 10
check, chunks = compare._Walk.check, 0
async def checked(walk, *entries, **named):
    global chunks
    chunks += 1
    if chunks == 4:
        os.kill(os.getpid(), signal.SIGINT)
    return await check(walk, *entries, **named)
compare._Walk.check = checked
main()
"""


@pytest.mark.thorough
def test_ctrl_c_says_where_to_go_on(database: Database, store: Store) -> None:
    live(database, 8, busy=60)
    publish(database, store)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "compare", "--store", store.url],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=120,
        env=environment(DATABASE_URL=url_text(database)),
    )  # fmt: skip
    assert done.returncode == 130
    [place] = [line for line in done.stdout.splitlines() if line.startswith("Go on with --from=")]
    code, printed = compared(database, store.url, place.removeprefix("Go on with "))
    assert (code, "has what the journal has" in printed) == (0, True), printed
    rows = int(printed.split(" rows compared")[0].split()[-1])
    # The fourth part is compared, or not, before the signal has its effect.
    assert entries_of(database) - rows in (30, 40)


def entries_of(database: Database) -> int:
    return sum(len(event.lines) for event in events_of(database))


def is_connected(process: int, url: str) -> bool:
    """Whether a process has a connection to the server of a URL."""
    connections = psutil.Process(process).net_connections("tcp")
    return urlsplit(url).port in {one.raddr.port for one in connections if one.raddr}


@pytest.mark.thorough
def test_ctrl_c_ends_the_reading_of_a_topic(database: Database, kafka_store: KafkaStore) -> None:
    """The broker does not answer meanwhile."""
    live(database, 9)
    publish(database, kafka_store)
    kafka_store.engine.pause()
    command = [sys.executable, "-m", "ledgerservice", "compare", "--store", kafka_store.url]
    process = subprocess.Popen(
        command, env=environment(DATABASE_URL=url_text(database)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert wait_for(lambda: is_connected(process.pid, kafka_store.url), 60)
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, "Go on with --from=" in said) == (130, True)
    finally:
        process.kill()
        kafka_store.engine.resume()
    # A broker that was away for long loads its transactions first.
    assert wait_for(lambda: compared(database, kafka_store.url)[0] == 0, 60)
