"""One server of each kind for all tests of this folder; each test finds it running."""

import itertools
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TypeVar

import pytest

from tests.databases import quick_place, reachable_folder
from tests.engines.cassandra_store import CassandraStore
from tests.engines.dynamo_store import DynamoStore
from tests.engines.kafka_store import KafkaStore
from tests.engines.process import Engine
from tests.engines.servers import Cassandra, Dynalite, Kafka, Valkey
from tests.engines.valkey_store import ValkeyStore

E = TypeVar("E", bound=Engine)
_numbers = itertools.count(1)


@pytest.fixture
def own_name() -> str:
    """A name for what a test makes in a server: a topic, keyspace, table, prefix or id."""
    return f"test_{os.getpid()}_{next(_numbers)}"


class Engines(ExitStack):
    """Servers, each started when a test first needs it, and killed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[type[Engine], Engine] = {}

    def running(self, kind: type[E]) -> E:
        """The only server of its kind, whatever an earlier test did to it."""
        if kind not in self._started:
            folder = self.enter_context(reachable_folder(quick_place()))
            self._started[kind] = self.enter_context(kind(folder))
        engine = self._started[kind]
        assert isinstance(engine, kind)
        engine.revive()
        return engine


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with Engines() as started:
        yield started


@pytest.fixture
def kafka(engines: Engines) -> Kafka:
    return engines.running(Kafka)


@pytest.fixture
def kafka_store(kafka: Kafka, own_name: str) -> KafkaStore:
    return KafkaStore(kafka, own_name)


@pytest.fixture
def cassandra(engines: Engines) -> Cassandra:
    return engines.running(Cassandra)


@pytest.fixture
def dynalite(engines: Engines) -> Dynalite:
    return engines.running(Dynalite)


@pytest.fixture
def valkey(engines: Engines) -> Valkey:
    return engines.running(Valkey)


@pytest.fixture
def valkey_store(valkey: Valkey, own_name: str) -> ValkeyStore:
    return ValkeyStore(valkey, own_name)


@pytest.fixture
def cassandra_store(cassandra: Cassandra, own_name: str) -> CassandraStore:
    return CassandraStore(cassandra, own_name)


@pytest.fixture
def dynamodb_store(dynalite: Dynalite, own_name: str) -> DynamoStore:
    return DynamoStore(dynalite, own_name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the ends of the servers' logs to the report of a test that failed."""
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        for engine in {value for value in values if isinstance(value, Engine)}:
            report.sections.append((f"log of {engine.name}", engine.tail()))
    return report
