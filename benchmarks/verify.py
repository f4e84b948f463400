"""How long a verification takes that continues after new transactions, beside one of everything.

    python benchmarks/verify.py [--transactions 2500000] [--new 50000]

Each transaction is a deposit, so it has two entries; every second one is of one account.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.urls import parse_url
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.settings import Settings

ACCOUNTS = 10_000
AT_ONCE = 250_000

OPEN = f"""
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, change_id)
SELECT 1, a, 'o', 'USD', 1, 2, a FROM generate_series(1, {ACCOUNTS}) a
"""
# Account 1 gets every second deposit.
POST = f"""
WITH numbers AS (
    SELECT n, CASE WHEN n %% 2 = 0 THEN 1 ELSE 2 + n / 2 %% {ACCOUNTS - 1} END AS account,
           CASE WHEN n %% 2 = 0 THEN n / 2 ELSE n / 2 / {ACCOUNTS - 1} + 1 END AS seq,
           timestamptz '2026-01-01' + n * interval '1 ms' AS recorded_at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
), posted AS (
    INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id,
        amount, recorded_at, renderer, idempotency_key, account_seq, counterparty_seq)
    SELECT 1, n, 1, 1, account, -1, 1, recorded_at, 1, 'key ' || n, seq, n FROM numbers
)
INSERT INTO ledger.entries
SELECT 1, 1, account, seq, n, 1, 0, seq, 0, recorded_at FROM numbers
UNION ALL SELECT 1, 1, -1, n, n, -1, 0, -n, 0, recorded_at FROM numbers
"""
MOVE = """
UPDATE ledger.accounts a SET balance = e.balance, version = e.seq,
    last_recorded_at = greatest(a.last_recorded_at, e.recorded_at)
FROM ledger.accounts b CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries WHERE ledger_id = 1 AND account_id = b.id
    ORDER BY seq DESC LIMIT 1) e
WHERE a.ledger_id = 1 AND b.ledger_id = 1 AND a.id = b.id
"""


def main() -> None:
    """Fill a ledger, verify it, add to it, and go on."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--transactions", type=int, default=2_500_000)
    arguments.add_argument("--new", type=int, default=50_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o755)
        with EmbeddedServer(Path(name) / "data") as server:
            measure(parse_url(server.url), server.url, options.transactions, options.new)


def measure(url: object, libpq_url: str, old: int, new: int) -> None:
    """Print the seconds of each step."""
    database = Database(url, Settings(database_url=None))  # type: ignore[arg-type]
    upgrade(database.owner_engine(), None)
    watch = Watch(database.owner_engine(), "ledger")
    with psycopg.connect(libpq_url, autocommit=True) as owner:
        fill(owner, 1, old, is_first=True)
        owner.execute("VACUUM ANALYZE")
        timed(f"everything, {2 * old:,} entries", watch.verify_all)
        timed("first look", watch.verify_new)
        fill(owner, old + 1, old + new)
        timed(f"{2 * new:,} new entries", watch.verify_new)
        timed("nothing new", watch.verify_new)
    watch.close()


def fill(owner: psycopg.Connection[tuple[object, ...]], first: int, last: int, *,
         is_first: bool = False) -> None:  # fmt: skip
    """Post deposits past the guards, with the guards as they were afterwards."""
    guards = owner.execute(
        "SELECT tgrelid::regclass::text, quote_ident(tgname) FROM pg_trigger t"
        " JOIN pg_class c ON c.oid = tgrelid"
        " WHERE relnamespace = 'ledger'::regnamespace AND NOT tgisinternal"
    ).fetchall()
    for table, name in guards:
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}".encode())
    if is_first:
        owner.execute(OPEN)
    for start in range(first, last + 1, AT_ONCE):
        owner.execute(POST, {"first": start, "last": min(last, start + AT_ONCE - 1)})
    owner.execute(MOVE)
    for table, name in guards:
        owner.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}".encode())


def timed(label: str, verify: Callable[[], list[object]]) -> None:
    """Print how long it took, and what was violated."""
    begun_s = time.monotonic()
    violations = verify()
    print(f"{label}: {time.monotonic() - begun_s:.1f} s, {len(violations)} violations", flush=True)


if __name__ == "__main__":
    main()
