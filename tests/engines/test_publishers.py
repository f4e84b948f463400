"""What every target does: nothing missing, extra, twice, out of order or gone back, whatever dies.

One contract, one suite: each test runs for each target, on its real server.
"""

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledgerservice.feed.targets import Published, Target, TargetFault, target_of
from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.engines.stores import Store, differences, events_of
from tests.processes import Fork, RunningService, environment, serving, wait_for

LIMIT_S = 240.0
KEYS = itertools.count()


SLOW = [pytest.param(name, marks=pytest.mark.thorough) for name in ("cassandra", "dynamodb")]
"""The engines that are slow at everything; DynamoDB has one test in `make test`."""
ALL = ("kafka", "valkey", SLOW[0], "dynamodb")


@pytest.fixture(params=["kafka", "valkey", *SLOW])
def store(request: pytest.FixtureRequest) -> Store:
    """A target of its own in each engine."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@contextmanager
def publishing(database: Database, store: Store) -> Iterator[Fork]:
    """`ledgerservice publish` as a process of its own."""
    values = environment(DATABASE_URL=url_text(database))
    process = Fork(["publish", store.url, "--json"], values, Path(os.devnull))
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def move_money(service: RunningService, number: int, accounts: int = 4) -> None:
    """Some movements of several kinds among the accounts 1 to `accounts`."""
    draw = random.Random(next(KEYS))
    transfers = []
    for _ in range(number):
        a, b = draw.sample(range(1, accounts + 1), 2)
        transfers.append(
            {"type": "TRANSFER", "from_account_id": a, "to_account_id": b, "amount": "0.01",
             "idempotency_key": f"k{next(KEYS)}"}
        )  # fmt: skip
    answer = service.client.post("/batches", json={"movements": transfers})
    assert answer.status_code == 200, answer.text
    hold = service.send("/holds", account_id=1, amount="0.05").json()
    service.send(f"/holds/{hold['hold_id']}/capture", amount="0.01")


def open_accounts(service: RunningService, number: int = 4) -> None:
    for _ in range(number):
        service.open(balance="1000")


def is_equal(database: Database, store: Store) -> bool:
    """Whether a reader of the target gets what the journal has."""
    try:
        return not differences(database, store.state())
    except Exception:
        return False


def await_equal(database: Database, store: Store) -> None:
    """Wait for the publisher, and show the first differences if it does not get there."""
    if not wait_for(lambda: is_equal(database, store), LIMIT_S, 0.2):
        raise AssertionError(differences(database, store.state())[:10])


@pytest.fixture
def service(database: Database) -> Iterator[RunningService]:
    with serving(DATABASE_URL=url_text(database)) as running:
        open_accounts(running)
        yield running


@pytest.mark.thorough
@pytest.mark.parametrize("store", ALL, indirect=True)
def test_what_was_recorded_before_and_after_the_start_is_published(
    database: Database, service: RunningService, store: Store
) -> None:
    move_money(service, 50)
    with publishing(database, store):
        await_equal(database, store)
        move_money(service, 50)
        await_equal(database, store)


@pytest.mark.long
def test_a_publisher_that_is_killed_again_and_again_loses_and_doubles_nothing(
    database: Database, service: RunningService, store: Store
) -> None:
    draw = random.Random(17)
    stop = threading.Event()

    def write() -> None:
        # Not as fast as it goes: the slowest store keeps all of it in memory.
        while not stop.wait(0.3):
            move_money(service, 200)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(6):
            with publishing(database, store) as process:
                time.sleep(1.0 + 1.5 * draw.random())
                process.send_signal(signal.SIGKILL)
    finally:
        stop.set()
        writing.join()
    with publishing(database, store):
        await_equal(database, store)


def test_a_target_that_is_killed_gets_everything_afterwards(
    database: Database, service: RunningService, store: Store
) -> None:
    with publishing(database, store):
        await_equal(database, store)
        move_money(service, 300)
        store.engine.kill()
        move_money(service, 300)
        store.engine.start()
        move_money(service, 10)
        await_equal(database, store)


@pytest.mark.thorough
def test_a_publisher_that_was_frozen_does_no_harm_when_it_goes_on(
    database: Database, service: RunningService, store: Store
) -> None:
    """Another one takes over, because the server ends the connection of the first."""
    with publishing(database, store) as first:
        await_equal(database, store)
        first.send_signal(signal.SIGSTOP)
        end_lock(database)
        with publishing(database, store):
            move_money(service, 300)
            await_equal(database, store)
            first.send_signal(signal.SIGCONT)
            move_money(service, 300)
            await_equal(database, store)
            assert is_equal(database, store)


def end_lock(database: Database) -> None:
    """End the connection that has the publisher's lock, as keepalives do for a dead host."""
    with connect(database) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND classid = 2020070"
        )


@pytest.mark.thorough
def test_a_replay_from_the_start_changes_nothing_for_readers(
    database: Database, service: RunningService, store: Store
) -> None:
    move_money(service, 300)
    with publishing(database, store):
        await_equal(database, store)
    before = store.state()
    store.forget_position()
    with publishing(database, store):
        move_money(service, 10)
        await_equal(database, store)
    assert differences(database, before)


# The contract of a target itself.


@pytest.fixture
def opened(store: Store) -> Iterator[Target]:
    target = target_of(store.url)
    assert target.open() is None
    yield target
    target.close()


def test_writing_twice_and_going_back_have_no_effect(
    database: Database, service: RunningService, store: Store, opened: Target
) -> None:
    """A publisher writes again what it is not sure of; a zombie writes what is old."""
    move_money(service, 60)
    events = events_of(database)
    third = len(events) // 3
    parts = [events[:third], events[: 2 * third], events[third:], events[:third], events]
    for part in parts:
        try:
            opened.write(part, Published.after(1, part[-1]))
        except TargetFault:
            opened.close()
            opened.open()
    faults = [fault for fault in differences(database, store.state()) if "times" not in fault]
    assert not [fault for fault in faults if "out of order" not in fault]


def test_a_position_comes_back_as_it_was_written(
    database: Database, service: RunningService, store: Store, opened: Target
) -> None:
    events = events_of(database)
    published = Published.after(1, events[-1])
    opened.write(events, published)
    assert opened.open() == published
    again = target_of(store.url)
    assert again.open() == published
    again.close()


@pytest.mark.thorough
def test_a_dead_server_is_a_fault_in_time(
    database: Database, service: RunningService, store: Store, opened: Target
) -> None:
    events = events_of(database)
    store.engine.pause()
    try:
        with pytest.raises(TargetFault):
            opened.write(events, Published.after(1, events[-1]))
    finally:
        store.engine.resume()
