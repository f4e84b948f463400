"""Read models beside a setup: servers, publishers, and their comparison with the journal.

After every round each of them has to equal the journal: nothing missing, extra, twice, out of order
or gone back.
"""

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.urls import parse_url
from tests.databases import settings_for_tests
from tests.engines.cassandra_store import CassandraStore
from tests.engines.dynamo_store import DynamoStore
from tests.engines.kafka_store import KafkaStore
from tests.engines.process import Engine
from tests.engines.servers import Cassandra, Dynalite, Kafka, Valkey
from tests.engines.stores import Account, Balance, EntryRow, State, Store, differences
from tests.engines.valkey_store import ValkeyStore
from tests.processes import environment, wait_for
from tests.proof.servers.shards import Shards

KINDS: dict[type[Engine], Callable[..., Store]] = {
    Valkey: ValkeyStore,
    Kafka: KafkaStore,
    Cassandra: CassandraStore,
    Dynalite: DynamoStore,
}
EQUAL_LIMIT_S = 120.0
SHOWN = 10


@cache
def missing(kind: type[Engine] = Valkey) -> str:
    """Why there is no server of this kind here; empty if there is one."""
    with TemporaryDirectory() as folder:
        try:
            kind(Path(folder)).command()
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            return str(reason)
    return ""


class ReadModels:
    """Two servers, with balances in Valkey and entries in another, and a publisher for each."""

    def __init__(
        self, folder: Path, database_url: str, program: Iterable[str], chance: random.Random
    ) -> None:
        """`program`: the module that is run, and what it is told before `publish`."""
        self._kinds = self._chosen(chance)
        self._folder = folder
        self._environment = {"DATABASE_URL": database_url}
        self._program = list(program)
        self._stack = ExitStack()
        self.stores: list[Store] = []
        self._publishers: dict[str, subprocess.Popen[bytes]] = {}

    def _chosen(self, chance: random.Random) -> list[type[Engine]]:
        others = [kind for kind in KINDS if kind is not Valkey and not missing(kind)]
        return [Valkey, *chance.sample(others, min(1, len(others)))]

    def __enter__(self) -> Self:
        for kind in self._kinds:
            folder = self._folder / kind.__name__.lower()
            folder.mkdir()
            engine = self._stack.enter_context(kind(folder))
            self.stores.append(KINDS[kind](engine, "proof"))
        self._stack.callback(self._stop)
        for one in self.stores:
            self._publish(one)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _publish(self, store: Store) -> None:
        command = [sys.executable, "-m", *self._program, "publish", store.url]
        with (self._folder / "publish.log").open("ab") as log:
            self._publishers[store.url] = subprocess.Popen(
                command, env=environment(**self._environment), stdout=log, stderr=log
            )

    def _revive(self, store: Store) -> None:
        """Start a publisher again that has ended, because there was no database when it began."""
        if self._publishers[store.url].poll() is not None:
            self._publish(store)

    def _stop(self) -> None:
        for process in self._publishers.values():
            process.kill()
            process.wait()

    def kill_publisher(self, chance: random.Random) -> None:
        """kill -9 of one of the publishers, which is started again."""
        store = chance.choice(self.stores)
        self._publishers[store.url].kill()
        self._publishers[store.url].wait()
        self._publish(store)

    def kill_server(self, chance: random.Random) -> None:
        """kill -9 of one of the servers, which is started again on its data."""
        engine = chance.choice(self.stores).engine
        engine.kill()
        engine.start()

    def faults(self, postgres_url: str) -> list[str]:
        """What differs from the journal when the publishers had time to get to its end."""
        database = Database(parse_url(postgres_url), settings_for_tests())
        found: list[str] = []
        for store in self.stores:

            def is_equal(store: Store = store) -> bool:
                self._revive(store)
                return not differences(database, store.state())

            if not wait_for(is_equal, EQUAL_LIMIT_S, 0.5):
                faults = differences(database, store.state())
                found += [f"{store.url}: {fault}" for fault in faults[:SHOWN]]
        return found


class ShardedReadModels(ReadModels):
    """The balances of all shards in one Valkey, each below a prefix of its own.

    The store of a shard has what was recorded there. So that of a ledger that has moved, or of a
    part of one, has the balances in the store of each of its homes: its newest one is right.
    """

    def __init__(
        self, folder: Path, shards: Shards, program: Iterable[str], chance: random.Random
    ) -> None:
        super().__init__(folder, "", program, chance)
        self._environment = shards.environment
        self._shards = shards

    def _chosen(self, chance: random.Random) -> list[type[Engine]]:
        return [Valkey]

    def faults(self, postgres_url: str) -> list[str]:
        """What differs from the journals of all homes, row by row."""
        [store] = self.stores
        entries = self._shards.entries()

        def differing() -> list[str]:
            self._revive(store)
            return list(differences_of_shards(entries, map(self._state, self._shards.by_name)))

        if wait_for(lambda: not differing(), EQUAL_LIMIT_S, 0.5):
            return []
        return [f"{store.url}: {fault}" for fault in differing()[:SHOWN]]

    def _state(self, shard: str) -> State:
        [store] = self.stores
        assert isinstance(store.engine, Valkey)
        prefix = "proof" if shard == MAIN else f"proof:{shard}"
        return ValkeyStore(store.engine, prefix).state()


def differences_of_shards(entries: Iterable[EntryRow], states: Iterable[State]) -> Iterator[str]:
    """Balances that no entry left, and accounts of which no store has the newest one."""
    recorded = {
        (one.ledger_id, one.account_id, one.version): Balance(one.version, one.balance, one.held)
        for one in entries
    }
    newest: dict[Account, int] = {}
    for ledger, account, version in recorded:
        newest[ledger, account] = max(version, newest.get((ledger, account), 0))
    published: dict[Account, int] = {}
    for state in states:
        for place, balance in (state.balances or {}).items():
            if recorded.get((*place, balance.version)) != balance:
                yield f"account {place}: {balance} was never recorded"
            published[place] = max(balance.version, published.get(place, 0))
    for place, version in newest.items():
        if published.get(place) != version:
            yield f"account {place}: version {published.get(place)}, not {version}"
