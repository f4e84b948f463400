"""`make bench-growth`: the same load on a small ledger and on a growing one, in turns.

The large ledger grows with each step, by COPY through the real schema; the small one does not. The
figures of a step are medians of runs in turns, so that a noisy machine affects both alike.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# After the change of sys.path.
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

import load
import machine
import proof
import servers
from bench import exit_on_sigterm
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.runtime import prepared
from servers import LEDGER

STEPS = ((10_000, 1_000_000), (1_000_000, 4_000_000), (10_000_000, 50_000_000))
SLICE = 200_000  # Transactions that one database transaction loads.
FUNDS = 10**9
CONNECTIONS, READERS = 64, 16
WARM_UP = 4  # The warm-up takes so many times as long as a run.
LOADED = "loaded"

console = Console(highlight=False, width=200)


class Size(NamedTuple):
    """The numbers of customer accounts and of entries of a ledger."""

    accounts: int
    entries: int


class Figures(NamedTuple):
    """Medians of the runs on one ledger."""

    transfers_s: float
    p99_ms: float
    balance_p99_ms: float
    history_p99_ms: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="duration of each run")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds of a step")
    parser.add_argument("--steps", type=int, default=len(STEPS), help="number of steps")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for all sizes, for a trial"
    )
    options = parser.parse_args()
    exit_on_sigterm()
    load.require_wrk()
    with servers.workplace() as folder, EmbeddedServer(folder / "data", announce=print) as server:
        for line in machine.facts(folder, server.url):
            console.print(f"- {line}")
        holds = _bench(options, folder, server.url)
    if not holds:
        console.print("[bold red]FAILED[/]: a proof failed; see above.")
        sys.exit(1)


def _bench(options: argparse.Namespace, folder: Path, url: str) -> bool:
    sizes = [Size(*(round(n * options.scale) for n in step)) for step in STEPS[: options.steps]]
    urls = {name: database(url, name) for name in ("small", "large")}
    runs: dict[str, list[load.Run]] = {"small": [], "large": []}
    results: list[tuple[Size, Figures, Figures]] = []
    grow(urls["small"], sizes[0])
    for number, size in enumerate(sizes):
        grow(urls["large"], size)
        figures = {}
        with ExitStack() as stack:
            bases = {
                name: stack.enter_context(servers.server(LEDGER, urls[name]))[0] for name in urls
            }
            targets = {
                "small": load.Target(LEDGER, bases["small"], 1, sizes[0].accounts),
                "large": load.Target(LEDGER, bases["large"], 1, size.accounts),
            }
            measured: dict[str, list[tuple[float, ...]]] = {"small": [], "large": []}
            for turn in range(-1, options.rounds):  # The first turn only fills the buffers.
                seconds = options.seconds * (WARM_UP if turn < 0 else 1)
                for name, target in targets.items():
                    label = f"step{number}turn{turn}-{name}"
                    run = load.run(label, target, "uniform", CONNECTIONS, seconds, folder)
                    runs[name].append(run)
                    reads = [
                        load.read(target, path, READERS, 3).p99_ms for path in ("", "/history")
                    ]
                    if turn >= 0:
                        measured[name].append((run.transfers_s, run.p99_ms, *reads))
            for name, rows in measured.items():
                figures[name] = Figures(*map(statistics.median, zip(*rows, strict=True)))
        actual = _size(urls["large"])
        results.append((actual, figures["small"], figures["large"]))
        _print_step(*results[-1])
    _print_all(results)
    _print_disk(urls["large"])
    return all([_prove(urls[name], runs[name]) for name in urls])  # noqa: C419  (prints both)


def database(url: str, name: str) -> str:
    """The URL of a new database with the schema."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    other: str = servers.other_database(url, name)
    database = servers.as_database(other)
    upgrade(database.owner_engine(), database.settings.service_role)
    prepared(database)
    return other


def grow(url: str, size: Size) -> None:
    """Add accounts with money, then transfers between neighbours, until `size` is reached.

    All rows are copied from one connection to another, and the journal's trigger checks them.
    """
    began_s = time.monotonic()
    with (
        psycopg.connect(url, autocommit=True) as source,
        psycopg.connect(url, autocommit=True) as target,
        console.status("") as status,
    ):
        while (accounts := _size(url).accounts) < size.accounts:
            more = min(SLICE, size.accounts - accounts)
            status.update(f"{accounts:,} of {size.accounts:,} accounts")
            query = f"SELECT 1, 'owner ' || n, 'USD' FROM generate_series(1, {more}) n"
            with target.transaction():
                _pump(source, query, target, "accounts (ledger_id, owner, currency)")
            _post(source, target, _DEPOSITS, accounts + 1, accounts + more)
        entries, place = _size(url).entries, 1
        while entries < size.entries:
            status.update(f"{entries:,} of {size.entries:,} entries")
            last = min(place + 2 * SLICE - 1, size.accounts)
            _post(source, target, _TRANSFERS, place, last)
            entries += (last - place + 1) // 2 * 2
            place = last + 1 if last < size.accounts else 1
        status.update("vacuum")
        target.execute("VACUUM ANALYZE ledger.accounts, ledger.transactions, ledger.entries")
        target.execute("CHECKPOINT")
    loaded = _size(url)
    console.print(
        f"{loaded.accounts:,} accounts, {loaded.entries:,} entries, "
        f"loaded in {time.monotonic() - began_s:.0f} s"
    )


# Queries for rows of `transactions` and of `entries`, from the state of the accounts.
_DEPOSITS = (
    (
        "SELECT 1, {base} + a.id - {low}, 1, 1, a.id, -1, {funds}, '{time}', 1, '{run}:{base}',"
        " a.version + 1, o.version + 1 + a.id - {low} FROM ledger.accounts a, ledger.accounts o"
        " WHERE a.ledger_id = 1 AND a.id BETWEEN {low} AND {high}"
        " AND o.ledger_id = 1 AND o.id = -1"
    ),
    (
        "SELECT 1, a.id, a.version + 1, {base} + a.id - {low}, 1, {funds}, 0,"
        " a.balance + {funds}, 0, '{time}' FROM ledger.accounts a"
        " WHERE ledger_id = 1 AND id BETWEEN {low} AND {high}"
        " UNION ALL SELECT 1, -1, o.version + 1 + n - {low}, {base} + n - {low}, 1, -{funds}, 0,"
        " o.balance - {funds} * (n - {low} + 1), 0, '{time}'"
        " FROM generate_series({low}, {high}) n, ledger.accounts o"
        " WHERE o.ledger_id = 1 AND o.id = -1"
    ),
)
_TRANSFERS = (
    (
        "SELECT 1, {base} + (n - {low}) / 2, 3, 1, n, n + 1, 1, '{time}', 1, '{run}:{base}',"
        " a.version + 1, b.version + 1 FROM generate_series({low}, {high} - 1, 2) n"
        " JOIN ledger.accounts a ON a.ledger_id = 1 AND a.id = n"
        " JOIN ledger.accounts b ON b.ledger_id = 1 AND b.id = n + 1"
    ),
    (
        "SELECT 1, a.id, a.version + 1, {base} + (a.id - {low}) / 2, 1,"
        " CASE (a.id - {low}) % 2 WHEN 0 THEN -1 ELSE 1 END, 0,"
        " a.balance + CASE (a.id - {low}) % 2 WHEN 0 THEN -1 ELSE 1 END, 0, '{time}'"
        " FROM ledger.accounts a WHERE ledger_id = 1"
        " AND id BETWEEN {low} AND {high} - (1 - ({high} - {low}) % 2)"
    ),
)
_TRANSACTION_COLUMNS = (
    "transactions (ledger_id, id, kind, status, account_id, counterparty_id, amount, recorded_at,"
    " renderer, idempotency_key, account_seq, counterparty_seq)"
)
_ENTRY_COLUMNS = (
    "entries (ledger_id, account_id, seq, transaction_id, currency_number, amount, held_change,"
    " balance, held, recorded_at)"
)


def _post(source: Any, target: Any, queries: tuple[str, str], low: int, high: int) -> None:
    """Write one movement per account, or per pair of accounts, in one database transaction."""
    with target.transaction():
        recorded_at = target.execute("SELECT clock_timestamp()").fetchone()[0].isoformat()
        number = "SELECT nextval('ledger.transaction_id')"
        base = target.execute(number).fetchone()[0]
        target.execute(f"SELECT setval('ledger.transaction_id', {base + high - low + 200})")
        values = {
            "low": low,
            "high": high,
            "base": base,
            "time": recorded_at,
            "funds": f"{FUNDS}::bigint",
        }
        values["run"] = LOADED
        for query, columns in zip(queries, (_TRANSACTION_COLUMNS, _ENTRY_COLUMNS), strict=True):
            _pump(source, query.format(**values), target, columns)


def _pump(source: Any, query: str, target: Any, columns: str) -> None:
    with (
        source.cursor().copy(f"COPY ({query}) TO STDOUT") as rows,
        target.cursor().copy(f"COPY ledger.{columns} FROM STDIN") as copy,
    ):
        for data in rows:
            copy.write(data)


def _size(url: str) -> Size:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM ledger.accounts WHERE id > 0),"
            " (SELECT coalesce(sum(version), 0)::bigint FROM ledger.accounts)"
        ).fetchone()
        assert row is not None
        return Size(*row)


def _print_step(size: Size, small: Figures, large: Figures) -> None:
    console.print(f"{size.accounts:,} accounts, {size.entries:,} entries: {large}; small: {small}")


def _print_all(results: list[tuple[Size, Figures, Figures]]) -> None:
    table = Table(box=box.MARKDOWN)
    for name in ("accounts", "entries", "transfers/s", "of the small", "p99 ms", "balance p99 ms",
                 "of the small", "history p99 ms", "of the small"):  # fmt: skip
        table.add_column(name, justify="right")
    for size, small, large in results:
        table.add_row(
            f"{size.accounts:,}",
            f"{size.entries:,}",
            f"{large.transfers_s:,.0f}",
            f"{large.transfers_s / small.transfers_s:.2f}",
            f"{large.p99_ms:.1f}",
            f"{large.balance_p99_ms:.1f}",
            f"{large.balance_p99_ms / small.balance_p99_ms:.2f}",
            f"{large.history_p99_ms:.1f}",
            f"{large.history_p99_ms / small.history_p99_ms:.2f}",
        )
    console.print(table)


_DISK = """
SELECT c.relname, pg_relation_size(c.oid), (SELECT count(*) FROM ledger.transactions)
FROM pg_class c WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'i')
  AND (c.relname LIKE 'entries%' OR c.relname LIKE 'transactions%')
ORDER BY 2 DESC
"""


def _print_disk(url: str) -> None:
    table = Table(box=box.MARKDOWN)
    for name in ("table or index", "MB", "bytes per transaction", "share"):
        table.add_column(name, justify="right")
    with psycopg.connect(url) as connection:
        rows = connection.execute(_DISK).fetchall()
    total = sum(size for _, size, _ in rows)
    for name, size, transactions in [*rows, ("together", total, rows[0][2])]:
        table.add_row(
            name, f"{size / 1e6:,.0f}", f"{size / transactions:.0f}", f"{size / total:.0%}"
        )
    console.print(table)


def _prove(url: str, runs: list[load.Run]) -> bool:
    count = proof.exactly_once(LEDGER, url, runs, LOADED)
    for fault in count.faults[:20]:
        console.print(f"  - [red]{fault}[/]")
    console.print(
        f"- {count.acknowledged:,} answers of 200, each in the journal exactly once: "
        f"{'yes' if not count.faults else 'NO'}"
    )
    return proof.invariants_hold(url) and not count.faults


if __name__ == "__main__":
    main()
