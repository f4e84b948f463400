"""Fixtures: one real PostgreSQL for each worker, new databases, and services on them.

`LEDGER_TEST_DATABASE_URL` names another server than the embedded one; its user must be allowed to
create databases and roles.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import URL
from xdist.scheduler import LoadFileScheduling

from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.urls import parse_url
from ledgerservice.postgres.verification import verify
from tests.databases import (
    administer,
    connect,
    quick_place,
    reachable_folder,
    settings_for_tests,
    url_text,
)
from tests.processes import RunningService, serving
from tests.servers import EMBEDDED, running_server

# A property holds on a machine of any speed.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

TEMPLATE = "ledger_template"
SERVERS = {"server_url", "workspace", "lived_in", "rounds", "stack", "engines"}
"""The fixtures that start a PostgreSQL, or the servers of the read models."""
ENGINES = "tests/engines/"
"""The tests below it share servers: one worker runs those with Kafka, and one the others."""
WITH_KAFKA = ("kafka", "test_compare")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what starts no other process")


LONGEST = (
    *("test_canaries", "engines", "test_acceptors", "test_supervisor", "test_health"),
    *("test_metrics", "test_rounds", "test_effective_costs", "test_generated"),
    *("test_readme", "test_session", "test_query_costs", "test_plans", "test_verify", "test_cli"),
    *("test_commands", "test_clients", "test_state_machine", "test_connections"),
    *("test_import", "test_docs", "test_rejects", "test_backups", "test_webhooks", "test_queries"),
    *("test_history", "test_drill", "test_archive", "test_roles", "test_account_costs"),
    *("test_patroni", "test_typescript"),
)
"""The files and folders that one worker works at longest, which begin first, in this order."""


def turn(item: pytest.Item) -> int:
    names = item.path.stem, item.path.parent.name
    return min((LONGEST.index(name) for name in names if name in LONGEST), default=len(LONGEST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --quick, leave out what starts PostgreSQL, or is marked `processes`."""
    items.sort(key=turn)
    if not config.getoption("--quick"):
        return
    slow = {item for item in items if starts_processes(item)}
    config.hook.pytest_deselected(items=list(slow))
    items[:] = [item for item in items if item not in slow]


def starts_processes(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", [])
    return not SERVERS.isdisjoint(fixtures) or item.get_closest_marker("processes") is not None


class EnginesTogether(LoadFileScheduling):  # type: ignore[misc]
    """A file is one worker's, and so is what shares the servers of `tests/engines`."""

    def _split_scope(self, nodeid: str) -> str:
        if not nodeid.startswith(ENGINES):
            return str(super()._split_scope(nodeid))
        return f"{ENGINES}{any(name in nodeid for name in WITH_KAFKA)}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return EnginesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


_numbers = itertools.count(1)


@pytest.fixture
def workspace() -> Iterator[Path]:
    """An empty folder, in which an embedded server may keep its data."""
    with reachable_folder(quick_place()) as folder:
        yield folder


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[URL]:
    """The URL of a database on the suite's server; its user may do everything.

    A test that is parametrised by `servers.MAJORS` gets a server of each version.
    """
    given = os.environ.get("LEDGER_TEST_DATABASE_URL")
    major = getattr(request, "param", EMBEDDED)
    if given and major == EMBEDDED:
        yield parse_url(given)
        return
    with running_server(major) as server:
        yield parse_url(server.url)


@pytest.fixture(scope="session")
def template(server_url: URL) -> URL:
    """A migrated database that the tests' databases are copies of."""
    administer(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
    database = Database(server_url.set(database=TEMPLATE), settings_for_tests())
    upgrade(database.owner_engine(), database.settings.service_role)
    return server_url


@pytest.fixture(scope="session")
def new_database(template: URL) -> Iterator[Callable[..., Database]]:
    """Makes a database with an empty ledger, or a copy of one, seen as the service sees it.

    All have the roles of the template, which are asked for once, and one connection makes them.
    """
    original = Database(template.set(database=TEMPLATE), settings_for_tests())
    role = usable_role(original)
    with connect(replace(original, url=template)) as administrator:

        def make(copied: Database | None = None, **settings: Any) -> Database:
            name = f"ledger_test_{os.getpid()}_{next(_numbers)}"
            of = TEMPLATE if copied is None else copied.url.database
            administrator.execute(f"CREATE DATABASE {name} TEMPLATE {of} STRATEGY file_copy")
            new = Database(template.set(database=name), settings_for_tests(**settings))
            return replace(new, role=role)

        yield make


@pytest.fixture
def database(new_database: Callable[..., Database]) -> Database:
    """A database with an empty ledger."""
    return new_database()


@pytest.fixture(scope="module")
def service(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    """One service process on a database of its own, for a module."""
    with serving(DATABASE_URL=url_text(new_database())) as running:
        yield running


@pytest.fixture
def no_violations() -> Callable[[Database], None]:
    """Asserts that `verify` finds nothing."""

    def check(database: Database) -> None:
        assert list(verify(database.owner_engine())) == []

    return check
