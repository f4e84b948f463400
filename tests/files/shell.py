"""`ledgerservice import` and `export`, as a user's shell runs them."""

import asyncio
import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

from ledgerservice import Ledger
from ledgerservice.files.options import Options
from ledgerservice.files.readers import Table
from tests.databases import connect, url_text
from tests.processes import ROOT, cli, environment

INPUTS = Path(__file__).with_name("inputs")
HEADER = "type,account_id,from_account_id,to_account_id,amount,idempotency_key\n"

Done = subprocess.CompletedProcess[str]


def run(database: Any, *arguments: object) -> Done:
    return cli(*map(str, arguments), DATABASE_URL=url_text(database))


def run_with_input(database: Any, content: bytes, *arguments: str) -> "subprocess.CompletedProcess":
    return subprocess.run(
        [sys.executable, "-m", "ledgerservice", *arguments],
        env=environment(DATABASE_URL=url_text(database)),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
        input=content,
    )


def balance(database: Any, account: int) -> int:
    with connect(database) as connection:
        statement = "SELECT balance FROM ledger.accounts WHERE id = %s"
        [(minor,)] = connection.execute(statement, [account]).fetchall()
        return int(minor)


def texts(database: Any) -> list[tuple[Any, ...]]:
    """Key, amount, description, reference and effective time of what callers posted."""
    with connect(database) as connection:
        return connection.execute("""
            SELECT t.idempotency_key, t.kind, t.amount, d.description, d.reference, d.effective_at
            FROM ledger.transactions t LEFT JOIN ledger.details d
                ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
            ORDER BY t.id""").fetchall()


def exported(done: Done) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def open_named(database: Any, **currencies: str) -> list[int]:
    """Accounts with these references."""

    async def opened() -> list[int]:
        async with Ledger.open(url_text(database)) as ledger:
            answers = [await ledger.open_account("Owner", currency, key=name, reference=name)
                       for name, currency in currencies.items()]  # fmt: skip
            return [answer.account_id for answer in answers if answer.account_id is not None]

    return asyncio.run(opened())


def table(text: str | bytes, **options: Any) -> Table:
    content = text if isinstance(text, bytes) else text.encode()
    return Table(io.BytesIO(content), Options(**options))
