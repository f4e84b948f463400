"""Proves that every 200 is in the journal exactly once and that all invariants hold."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg

from load import Run
from servers import LEDGER, ROOT, YARDSTICK, environment

# Name of the run, id of the transaction, number of its entries, their sum.
POSTED = {
    LEDGER: """
    SELECT split_part(t.idempotency_key, ':', 1), t.id, count(e.seq), coalesce(sum(e.amount), 0)
    FROM ledger.transactions t
    LEFT JOIN ledger.entries e ON e.ledger_id = t.ledger_id AND e.transaction_id = t.id
    WHERE t.kind = 3 AND t.status = 1
    GROUP BY t.ledger_id, t.id
    """,
    YARDSTICK: """
    SELECT split_part(t.idempotency_key, ':', 1), t.id, count(e.id), coalesce(sum(e.amount), 0)
    FROM transactions t LEFT JOIN entries e ON e.transaction_id = t.id
    GROUP BY t.id
    """,
}


@dataclass(frozen=True, slots=True)
class Count:
    """The numbers of 200s and of posted transfers of a server's runs, and the faults found."""

    acknowledged: int
    posted: int
    faults: list[str]


def exactly_once(server: str, url: str, runs: Iterable[Run], *loaded: str) -> Count:
    """Compare the 200s of the runs against `server` with its journal.

    `loaded` are names of runs whose answers were not counted.
    """
    faults: list[str] = []
    posted: dict[str, set[int]] = {}
    with psycopg.connect(url) as connection:
        for run, transaction, rows, total in connection.execute(POSTED[server]):
            posted.setdefault(run, set()).add(transaction)
            if (rows, total) != (2, 0):
                faults.append(f"transaction {transaction} has {rows} entries with the sum {total}")
    all_posted = sum(map(len, posted.values()))
    own_runs = [run for run in runs if run.server == server]
    for run in own_runs:
        faults += _faults(run, posted.pop(run.name, set()))
    for run in loaded:
        posted.pop(run, None)
    faults += [
        f"{run}: {len(ids)} transfers, but there was no such run" for run, ids in posted.items()
    ]
    return Count(sum(len(run.transactions) for run in own_runs), all_posted, faults)


def _faults(run: Run, posted: set[int]) -> Iterator[str]:
    """The faults of a run, given the ids of its posted transfers.

    When wrk stops, it drops the requests in flight, at most one per connection. These may be
    posted although no 200 was read.
    """
    acknowledged = set(run.transactions)
    if run.failed:
        yield f"{run.name}: {run.failed} answers other than 200, or missing"
    if twice := len(run.transactions) - len(acknowledged):
        yield f"{run.name}: {twice} answers name the transaction of another answer"
    if lost := len(acknowledged - posted):
        yield f"{run.name}: {lost} answers of 200 are not in the journal"
    if (unread := len(posted - acknowledged)) > run.connections:
        yield f"{run.name}: {unread} posted without a 200, but only {run.connections} connections"


def invariants_hold(url: str) -> bool:
    """Whether `ledgerservice verify` finds no violation. It prints those it finds."""
    command = [sys.executable, "-m", "ledgerservice", "verify"]
    verified = subprocess.run(command, cwd=ROOT, env=environment(url), check=False)
    return verified.returncode == 0
