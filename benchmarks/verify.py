"""How long a verification takes that continues after new transactions, beside one of everything.

    python benchmarks/verify.py [--entries 50000000] [--new 100000] [--folder FOLDER]

Each old transaction is a deposit, so it has two entries; every second one is of one account. The
new ones are transfers that are posted through the engine, between accounts by chance.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg

import machine
import servers
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.ledger import Ledger, transfer
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.verification.watching import Watch

Owner = psycopg.Connection[tuple[int, ...]]

ACCOUNTS = 10_000
AT_ONCE = 250_000
POSTED_AT_ONCE = 5_000

OPEN = f"""
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, change_id)
SELECT 1, a, 'o', 'USD', 1, 2, a FROM generate_series(1, {ACCOUNTS}) a
ON CONFLICT DO NOTHING
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=5_000_000, help="entries of the old ledger")
    parser.add_argument("--new", type=int, default=100_000, help="transfers that are posted then")
    parser.add_argument("--rounds", type=int, default=3, help="how often they are")
    parser.add_argument("--folder", type=Path, help="keep the ledger here, and use what is there")
    parser.add_argument("--fill-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or stack.enter_context(servers.workplace())
        server = stack.enter_context(EmbeddedServer(folder / "data", announce=print))
        prepare(server.url, options.entries)
        if not options.fill_only:
            for line in machine.facts(folder, server.url):
                print(f"- {line}")
            measure(server.url, folder, options)


def prepare(url: str, entries: int) -> None:
    """Bring a ledger to at least so many entries."""
    database = servers.as_database(url)
    upgrade(database.owner_engine(), database.settings.service_role)
    with psycopg.connect(url, autocommit=True) as owner:
        old, last_id = numbers(owner)
        if old < entries:
            fill(owner, last_id + 1, last_id + (entries - old) // 2)
            owner.execute("VACUUM ANALYZE")


def numbers(owner: Owner) -> tuple[int, int]:
    """How many entries there are, and the last transaction id."""
    query = (
        "SELECT (SELECT coalesce(sum(version), 0)::bigint FROM ledger.accounts),"
        " (SELECT coalesce(max(id), 0) FROM ledger.transactions WHERE ledger_id = 1)"
    )
    [(entries, last_id)] = owner.execute(query).fetchall()
    return entries, last_id


def measure(url: str, folder: Path, options: argparse.Namespace) -> None:
    """Print the seconds of each step. Each continued run is a new one, as of another process."""
    engine = servers.as_database(url).owner_engine()
    file = folder / "progress"
    file.unlink(missing_ok=True)

    def watch() -> Watch:
        return Watch(engine, "ledger", file)

    with psycopg.connect(url) as owner:
        timed(f"everything, {numbers(owner)[0]:,} entries", watch().verify_all)
    timed("first look", watch().verify_new)
    times_s = []
    for _ in range(options.rounds):
        asyncio.run(post(url, options.new))
        times_s.append(timed(f"{options.new:,} new transfers", watch().verify_new))
        timed("nothing new", watch().verify_new)
    print(f"median: {statistics.median(times_s):.1f} s")


async def post(url: str, count: int) -> None:
    """Post transfers between accounts by chance, as the service does."""
    chance, run = random.Random(count), time.time_ns()
    async with Ledger.open(url) as ledger:
        for start in range(0, count, POSTED_AT_ONCE):
            pairs = [
                chance.sample(range(1, ACCOUNTS + 1), 2)
                for _ in range(min(POSTED_AT_ONCE, count - start))
            ]
            outcomes = await ledger.post(
                [
                    transfer(source, target, "0.01", f"{run} {start + number}")
                    for number, (source, target) in enumerate(pairs)
                ]
            )
            assert all(outcome.posted for outcome in outcomes)


def fill(owner: Owner, first: int, last: int) -> None:
    """Post deposits past the guards, with the guards as they were afterwards.

    The accounts are those of OPEN, and all earlier transactions are from here too.
    """
    guards = owner.execute(
        "SELECT tgrelid::regclass::text, quote_ident(tgname) FROM pg_trigger t"
        " JOIN pg_class c ON c.oid = tgrelid"
        " WHERE relnamespace = 'ledger'::regnamespace AND NOT tgisinternal"
    ).fetchall()
    for table, name in guards:
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}".encode())
    owner.execute(OPEN)
    for start in range(first, last + 1, AT_ONCE):
        owner.execute(POST, {"first": start, "last": min(last, start + AT_ONCE - 1)})
        print(f"{start - first + AT_ONCE:,} transactions", end="\r", flush=True)
    owner.execute(MOVE)
    owner.execute(f"SELECT setval('ledger.transaction_id', {last + 1})".encode())
    owner.execute(f"SELECT setval('ledger.account_id', {ACCOUNTS})".encode())
    for table, name in guards:
        owner.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}".encode())


def timed(label: str, verify: Callable[[], Sequence[object]]) -> float:
    """Print how long it took, and what was violated. Returns the seconds."""
    begun_s = time.monotonic()
    violations = verify()
    taken_s = time.monotonic() - begun_s
    print(f"{label}: {taken_s:.1f} s, {len(violations)} violations", flush=True)
    return taken_s


if __name__ == "__main__":
    main()
