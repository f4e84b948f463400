"""Balances in Valkey: never back, never half, never another journal's, and never lies that decide.

What holds for every target is in test_publishers.py.
"""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ledgerservice.domain.events import Event, Line
from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.balances import Address
from ledgerservice.feed.targets import Published, TargetFault, target_of, valkey
from tests import examples
from tests.engines.servers import Valkey
from tests.engines.stores import Account, Balance
from tests.engines.valkey_store import ValkeyStore
from tests.processes import wait_for

pytestmark = pytest.mark.processes

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
_prefixes = itertools.count(1)


# A journal of transfers among three accounts, of which the versions and balances are known.


def transfers(number: int, accounts: int = 3) -> list[Event]:
    versions, balances = [0] * accounts, [0] * accounts
    events = []
    for n in range(number):
        lines = []
        for account, amount in ((n % accounts, -n), ((n + 1 + n % 2) % accounts, n)):
            versions[account] += 1
            balances[account] += amount
            lines.append(line(account + 1, versions[account], n, amount, balances[account]))
        event = Event(1001 + n, 1, "default", "transaction.posted", f"{n}".encode(), (), (*lines,))
        events.append(event)
    return events


def line(account: int, version: int, n: int, amount: int, balance: int) -> Line:
    fixed = "USD", 2, f"k{n}", Origin.CALLER, NOON
    return Line(account, version, 1001 + n, Kind.TRANSFER, amount, 0, balance, 0, *fixed)


EVENTS = transfers(30)
FACTS = {
    (one.account_id, Balance(one.version, one.balance, one.held))
    for event in EVENTS
    for one in event.lines
}
NEWEST = {
    (1, one.account_id): Balance(one.version, one.balance, one.held)
    for event in EVENTS
    for one in event.lines
}


def write(target: valkey.Valkey, start: int, end: int, epoch: int = 1) -> None:
    part = EVENTS[start:end]
    target.write(part, Published.after(epoch, part[-1]))


@pytest.fixture
def target(valkey_store: ValkeyStore) -> Iterator[valkey.Valkey]:
    opened = valkey.target_of(valkey_store.url)
    assert opened.open() is None
    yield opened
    opened.close()


# Never back.


class Publishers:
    """Some publishers of one target. Each goes on from where it was, or writes something again."""

    def __init__(self, store: ValkeyStore, number: int) -> None:
        self.store = store
        self.targets = [valkey.target_of(store.url) for _ in range(number)]
        self.places = [0] * number
        self.newest: dict[Account, Balance] = {}
        self.problems: list[str] = []
        for which in range(number):
            self.open(which)

    def open(self, which: int) -> None:
        target = self.targets[which]
        target.close()
        published = target.open()
        self.places[which] = 0 if published is None or not published.id else published.id - 1000

    def write(self, which: int, back: int, number: int) -> None:
        start = max(0, self.places[which] - back)
        end = min(len(EVENTS), start + number)
        if start < end:
            try:
                write(self.targets[which], start, end)
                self.places[which] = max(end, self.places[which])
            except TargetFault:
                self.open(which)

    def rebuild(self) -> None:
        self.command("SET", f"{self.store.prefix}:rebuild", "1")

    def forget_scripts(self) -> None:
        self.command("SCRIPT", "FLUSH")

    def lose_memory(self) -> None:
        self.command("FLUSHALL")
        self.newest = {}

    def command(self, *words: str) -> None:
        with self.store.engine.client() as client:
            client.execute_command(*words)

    def look(self) -> None:
        """What a reader gets is a fact, and not older than before."""
        state = self.store.state().balances or {}
        for account, balance in state.items():
            if (account[1], balance) not in FACTS:
                self.problems.append(f"{account}: {balance} was never so")
            if account in self.newest and balance.version < self.newest[account].version:
                self.problems.append(f"{account}: {balance} after {self.newest[account]}")
        self.newest |= state

    def close(self) -> None:
        for target in self.targets:
            target.close()


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 12), st.integers(1, 10)),
    st.tuples(st.just("write"), st.integers(0, 2), st.just(0), st.integers(1, 10)),
    st.tuples(st.just("open"), st.integers(0, 2)),
    st.sampled_from([("rebuild",), ("forget_scripts",), ("lose_memory",)]),
)


def run(store: ValkeyStore, steps: Sequence[tuple[Any, ...]]) -> list[str]:
    publishers = Publishers(store, 3)
    for name, *arguments in steps:
        getattr(publishers, name)(*arguments)
        publishers.look()
    while publishers.places[0] < len(EVENTS):
        publishers.write(0, 0, 10)
        publishers.look()
    publishers.close()
    state = store.state().balances
    return publishers.problems + ([] if state == NEWEST else [f"at the end: {state}"])


@given(st.lists(STEP, max_size=25))
@example([("write", 0, 0, 1), ("rebuild",)])
@settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_versions_never_go_back(valkey: Valkey, steps: list[tuple[Any, ...]]) -> None:
    """Reordered, doubled and zombie writes, rebuilds, lost scripts and lost memory."""
    assert run(ValkeyStore(valkey, f"property_{next(_prefixes)}"), steps) == []


AGAIN = [("write", 0, 0, 20), ("write", 0, 15, 5)]


def without(monkeypatch: pytest.MonkeyPatch, script: str, guard: str) -> None:
    text = getattr(valkey, script)
    assert guard in text
    monkeypatch.setattr(valkey, script, text.replace(guard, "true"))


def test_without_the_version_check_they_do(
    valkey_store: ValkeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary of the test above."""
    assert run(ValkeyStore(valkey_store.engine, f"{valkey_store.prefix}_checked"), AGAIN) == []
    guard = "is_newer(fields[2], redis.call('HGET', key, fields[1]))"
    without(monkeypatch, "SET_NEWER", guard)
    assert any("after" in problem for problem in run(valkey_store, AGAIN))


def test_versions_are_compared_exactly(target: valkey.Valkey, valkey_store: ValkeyStore) -> None:
    """Above 2^53, where a double has no odd numbers, and from 9 to 10 digits."""
    place = itertools.count(1)
    for version in (999_999_999, 1_000_000_000, 2**53, 2**53 + 1, 2**53, 10**18 - 1, 10**18):
        one = line(1, version, next(place), 1, version)
        event = Event(one.transaction_id, 1, "default", "transaction.posted", b"", (), (one,))
        target.write([event], Published.after(1, event))
        [balance] = (valkey_store.state().balances or {}).values()
        assert balance.balance == balance.version >= version
    assert balance.version == 10**18


def test_an_older_position_does_not_overwrite_a_newer_one(
    target: valkey.Valkey, valkey_store: ValkeyStore
) -> None:
    write(target, 0, 10)
    zombie = valkey.target_of(valkey_store.url)
    zombie.open()
    write(target, 10, 20)
    with pytest.raises(TargetFault, match="LOST"):
        write(zombie, 10, 15)
    write(target, 0, 5)
    assert target.open() == zombie.open() == Published.after(1, EVENTS[19])
    zombie.close()


# Never half.


def keys(store: ValkeyStore, pattern: str) -> list[str]:
    with store.engine.client() as client:
        return [key.decode() for key in client.scan_iter(f"{store.prefix}:{pattern}")]


def test_a_first_generation_is_read_when_it_is_whole(
    target: valkey.Valkey, valkey_store: ValkeyStore
) -> None:
    target.rows = 10
    write(target, 0, 10)
    write(target, 10, 20)
    assert keys(valkey_store, "1:1:1:*") and valkey_store.state().balances == {}
    write(target, 20, 29)
    assert valkey_store.state().balances
    write(target, 29, 30)
    assert valkey_store.state().balances == NEWEST


def test_a_rebuild_is_read_when_it_is_whole(
    target: valkey.Valkey, valkey_store: ValkeyStore
) -> None:
    write(target, 0, 30)
    with valkey_store.engine.client() as client:
        client.set(f"{valkey_store.prefix}:rebuild", 1)
    with pytest.raises(TargetFault, match="REBUILD"):
        write(target, 29, 30)
    assert target.open() is None
    write(target, 0, 10)
    assert valkey_store.generation() == f"{valkey_store.prefix}:1:1"
    assert valkey_store.state().balances == NEWEST
    successor = valkey.target_of(valkey_store.url)  # The first one is killed meanwhile.
    assert successor.open() == Published.after(1, EVENTS[9])
    write(successor, 10, 30)
    assert valkey_store.generation() == f"{valkey_store.prefix}:1:2"
    assert valkey_store.state().balances == NEWEST
    assert wait_for(lambda: keys(valkey_store, "1:1*") == [], 30)
    successor.close()


def test_a_new_epoch_hides_the_old_one_at_once_and_keeps_it(
    target: valkey.Valkey, valkey_store: ValkeyStore
) -> None:
    write(target, 0, 30)
    zombie = valkey.target_of(valkey_store.url)
    zombie.open()
    target.rows = 10
    write(target, 0, 10, epoch=2)
    assert valkey_store.state(1).balances == valkey_store.state(2).balances == {}
    write(target, 10, 19, epoch=2)
    assert valkey_store.state(2).balances
    with pytest.raises(TargetFault):
        write(zombie, 29, 30)
    target.open()
    with pytest.raises(TargetFault, match="LATER"):
        write(target, 29, 30)
    assert keys(valkey_store, "1:1:1:*")
    zombie.close()


def test_a_server_that_forgot_is_filled_from_the_start(
    target: valkey.Valkey, valkey_store: ValkeyStore
) -> None:
    write(target, 0, 10)
    with valkey_store.engine.client() as client:
        client.flushall()
    with pytest.raises(TargetFault, match="LOST"):
        write(target, 10, 20)
    assert valkey_store.state().balances == {}
    assert target.open() is None


# Configuration.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "is not redis://"),
        ("redis://host:port", "The port of redis://"),
        ("redis://host/ledger", "is a number"),
        ("redis://host?prefix=a*", "The prefix has"),
        ("redis://host?prefix=", "The prefix has"),
        ("redis://u:secret@host?colour=red", "An option of redis://host:6379/0"),
        ("redis://u:secret@host?socket_timeout=red", "An option of redis://host:6379/0"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        target_of(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:s@h", "redis://h:6379/0?prefix=ledger"),
        ("rediss://:s@[::1]:7000/3?prefix=a:b&ssl_cert_reqs=none", "rediss://[::1]:7000/3?prefix=a:b"),
    ],
)  # fmt: skip
def test_a_name_has_no_password(url: str, name: str) -> None:
    assert target_of(url).name == Address.of(url).name == name


def test_a_password_is_sent(engines: Any, valkey_store: ValkeyStore, target: valkey.Valkey) -> None:
    with valkey_store.engine.client() as client:
        client.execute_command("ACL", "SETUSER", "pub", "on", ">s@cret", "~*", "&*", "+@all")
    url = valkey_store.url.replace("redis://", "redis://pub:{}@")
    good, bad = (valkey.target_of(url.format(word)) for word in ("s%40cret", "wrong"))
    assert good.open() is None
    with pytest.raises(TargetFault, match="WRONGPASS|invalid username-password") as fault:
        bad.open()
    assert "wrong@" not in str(fault.value)
