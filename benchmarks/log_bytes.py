"""The bytes of write-ahead log per transfer, by the size of a batch; scale.py computes with them.

    python benchmarks/log_bytes.py [--accounts 10000]

Transfers between any two accounts. The first batches after a checkpoint write whole pages, so each
size is measured after a run of the same kind without a checkpoint between.
"""

import argparse
import asyncio
import os
import random
import tempfile
from pathlib import Path

import psycopg

from ledgerservice.domain.accounts import Opened
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.ledger import Ledger, deposit, transfer

SIZES = {8_000: 3, 200: 40, 32: 100, 1: 400}  # transfers in a batch, and batches in a run


def main() -> None:
    """Print a line for each size."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--accounts", type=int, default=10_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o755)
        with EmbeddedServer(Path(name) / "data") as server:
            asyncio.run(measure(server.url, options.accounts))


async def measure(url: str, accounts: int) -> None:
    """Open and fund accounts, then post with each size."""
    async with Ledger.open(url) as ledger:
        numbers = range(accounts)
        opened = [ledger.open_account(f"owner {n}", "USD", key=f"open-{n}") for n in numbers]
        accounts_opened = await asyncio.gather(*opened)
        ids = [one.account_id for one in accounts_opened if isinstance(one, Opened)]
        await ledger.post([deposit(number, "1000000.00", "funds") for number in ids])
        with psycopg.connect(url, autocommit=True) as watcher:
            for size, batches in SIZES.items():
                await run(ledger, ids, f"warm-{size}", size, batches)
                before = position(watcher)
                await run(ledger, ids, f"run-{size}", size, batches)
                used = (position(watcher) - before) / (size * batches)
                print(f"{size:>6,} per batch: {used:,.0f} bytes per transfer", flush=True)


async def run(ledger: Ledger, ids: list[int], name: str, size: int, batches: int) -> None:
    """Post batches, one after another."""
    for batch in range(batches):
        pairs = (random.sample(ids, 2) for _ in range(size))
        await ledger.post(
            [
                transfer(payer, payee, "0.01", f"{name}:{batch}:{number}")
                for number, (payer, payee) in enumerate(pairs)
            ]
        )


def position(watcher: psycopg.Connection) -> int:
    """The end of the log, in bytes."""
    row = watcher.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row is not None
    return int(row[0])


main()
