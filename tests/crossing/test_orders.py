"""Pages that are merged from several parts have the order of the database, in any collation."""

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import Detail, Kind, Movement
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.queries import reports
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.registration import open_accounts
from ledgerservice.runtime import upgrade
from tests.databases import administer, settings_for_tests
from tests.postings import post

LOCALES = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
NAMES = ["a", "B", "c", "D", "ä", "Ä", "_e", "F g", "f-g", "É", "z"]
"""In another order than that of their characters' numbers."""

pytestmark = pytest.mark.skipif(
    "de_DE" not in LOCALES, reason="localedef -i de_DE -f UTF-8 de_DE.UTF-8"
)


@pytest.fixture(scope="module")
def german(template: Any) -> list[Database]:
    """Two databases with an account of each name, and a deposit about it."""
    return [made(template.set(database=f"german_{number}")) for number in range(2)]


def made(url: Any) -> Database:
    locale = "ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'de_DE.UTF-8'"
    administer(
        url.set(database="postgres"),
        f"DROP DATABASE IF EXISTS {url.database}",
        f"CREATE DATABASE {url.database} TEMPLATE template0 {locale}",
    )
    database = Database(url, settings_for_tests())
    upgrade(database)
    database = replace(database, role=usable_role(database))
    asyncio.run(opened(database))
    post(database, [deposit(number, name) for number, name in enumerate(NAMES, 1)])
    return database


async def opened(database: Database) -> None:
    wire = await database.connect_writer()
    await open_accounts(wire, [Opening(name, "USD", None, name) for name in NAMES])
    await wire.close()


def deposit(account: int, name: str) -> Movement:
    about = Detail(metadata={"name": name})
    return Movement(Kind.DEPOSIT, account, None, "1", f"key {name}", about)


async def owners(readers: list[Reader], rows: int) -> list[Any]:
    found: list[Any] = []
    after = None
    while page := await reports.list_owner_balances_of_all(readers, rows, after):
        found += [(row.owner, row.balance) for row in page]
        after = page[-1].owner, page[-1].currency
    return found


async def totals(readers: list[Reader], rows: int) -> list[Any]:
    found: list[Any] = []
    after = None
    while page := await reports.list_totals_of_all(readers, "name", None, None, rows, after):
        found += [(row.value, row.amount) for row, _ in page]
        after = page[-1][1]
    return found


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("pages", [owners, totals])
def test_pages_of_two_have_each_name_once(
    german: list[Database], pages: Callable[..., Any], parts: int
) -> None:
    async def read() -> list[Any]:
        engines = [database.read_engine() for database in german[:parts]]
        rows = await pages([Reader(engine, 1, 30) for engine in engines], 2)
        for engine in engines:
            await engine.dispose()
        return list(rows)

    rows = asyncio.run(read())
    assert sorted(name for name, _ in rows) == sorted(NAMES)
    assert {amount for _, amount in rows} == {100 * parts}
