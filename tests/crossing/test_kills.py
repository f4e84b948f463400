"""Processes that transfer between parts are killed, at every step and under load: nothing is half
done when others have looked after it.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.domain.instructions import Kind, PolicyChange
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.crossing.made import market
from tests.databases import connect, url_text
from tests.processes import wait_for

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = 14
WORKERS = 2
OPEN = "SELECT count(*) FROM ledger.holds WHERE remaining > 0"


def made_market(database: Database, funds: str = "100000") -> list[int]:
    async def make() -> list[int]:
        async with market(database, funds) as made:
            return made.accounts

    return asyncio.run(make())


def start(database: Database, accounts: list[int], name: str, file: Path, step: int = 0) -> Any:
    command = [sys.executable, "-m", "tests.crossing.worker", url_text(database)]
    arguments = [json.dumps(accounts), name, str(file), str(step)]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=os.environ)


@contextmanager
def service(database: Database) -> Iterator[None]:
    """A process beside them, which sweeps."""

    async def sweep() -> None:
        async with posting(database) as runtime:
            Shards(runtime)
            await asyncio.to_thread(wait_for, lambda: count_open(database) == 0, 30)

    yield
    asyncio.run(sweep())


def count_open(database: Database) -> int:
    with connect(database) as owner:
        row = owner.execute(OPEN).fetchone()
    return int(row[0]) if row else 0


def is_over(database: Database, accounts: list[int], file: Path) -> int:
    """Everything agrees: the halves, the clearing accounts, and what was answered. Returns the
    number of transfers.
    """
    assert list(verify(database.owner_engine())) == []
    with connect(database) as owner:

        def one(statement: str, *values: Any) -> Any:
            row = owner.execute(statement, values).fetchone()
            return row[0] if row else None

        count = "SELECT count(*) FROM ledger.transactions WHERE status = 1 AND kind = %s"
        credited, debited = one(count, Kind.CROSS_CREDIT), one(count, Kind.CROSS_DEBIT)
        assert credited == debited
        assert one(OPEN) == 0
        assert one("SELECT sum(balance) FROM ledger.accounts WHERE id < -32768") == 0
        pairs = "SELECT sum(balance) FROM ledger.accounts WHERE id < -32768 GROUP BY id"
        assert {total for (total,) in owner.execute(pairs)} == {0}
        total = one("SELECT sum(balance) FROM ledger.accounts WHERE id = ANY (%s)", accounts)
        assert total == len(accounts) * 100_000_00
        declines = 0
        for line in file.read_text().splitlines():
            posted, account, _, amount, key, number = json.loads(line)
            declines += not posted
            found_row = owner.execute(
                "SELECT t.id, t.amount, coalesce(h.remaining, 0), coalesce(h.captured, 0)"
                " FROM ledger.transactions t"
                " LEFT JOIN ledger.holds h ON h.ledger_id = t.ledger_id AND h.transaction_id = t.id"
                " WHERE t.account_id = %s AND t.origin = 0 AND t.idempotency_key = %s",
                (account, key),
            ).fetchone()
            assert found_row == (number, amount, 0, amount if posted else 0)
    print(f"{credited} credits, {debited} debits, {declines} declines")
    return int(credited)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_process_dies_after_a_step(database, tmp_path, step):
    """After the hold, after the credit, and after the end whose answer nobody got."""
    accounts, file = made_market(database), tmp_path / "answers"
    file.touch()
    for number in range(3):
        worker = start(database, accounts, f"{step}.{number}", file, step)
        assert worker.wait(60) == -9
    if step < 3:
        assert count_open(database) > 0
    with service(database):
        pass
    assert is_over(database, accounts, file) > 0


@pytest.mark.thorough
def test_kills_under_load(database, tmp_path):
    """Any of them at any time, while accounts are frozen and thawed. The last ones finish all."""
    accounts, file = made_market(database), tmp_path / "answers"
    file.touch()
    workers = [start(database, accounts, f"w{n}", file) for n in range(WORKERS)]
    answered = 0
    for number in range(KILLS):
        wait_for(partial(has_more_lines, file, answered), 30)
        time.sleep(random.uniform(0.05, 0.4))
        victim = number % WORKERS
        workers[victim].kill()
        assert workers[victim].wait(10) == -9
        answered = lines_of(file)
        workers[victim] = start(database, accounts, f"w{victim}.{number}", file)
        asyncio.run(freeze(database, accounts, number))
    for worker in workers:
        worker.kill()
        worker.wait(10)
    with service(database):
        pass
    assert is_over(database, accounts, file) > KILLS


def has_more_lines(file: Path, number: int) -> bool:
    return lines_of(file) > number


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n")


async def freeze(database: Database, accounts: list[int], number: int) -> None:
    """Another account each time, and not for both directions for long."""
    async with posting(database) as runtime:
        ledger = await Ledger(Shards(runtime)).ledger("market")
        assert ledger is not None
        frozen = accounts[number % len(accounts)]
        for turn, value in enumerate((number % 4, 0)):
            key = f"freeze {number} {turn}"
            change = PolicyChange(frozen, key, frozen=value, actor="me", reason="test")
            [outcome] = await ledger.post([change])
            assert outcome.posted
            await asyncio.sleep(0.2)
