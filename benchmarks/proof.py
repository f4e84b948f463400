"""The proof: every 200 is in the journal exactly once, and all invariants hold."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg

from load import Run
from servers import LEDGER, ROOT, YARDSTICK, environment

# Run, transaction, how many rows it has in the journal, and what they sum to.
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
    """The 200s of a server's runs, the posted transfers, and what speaks against them."""

    acknowledged: int
    posted: int
    faults: list[str]


def exactly_once(server: str, url: str, runs: Iterable[Run], *loaded: str) -> Count:
    """Compare the 200s of all runs against `server` with its journal.

    `loaded` are names of runs that nobody counted.
    """
    faults: list[str] = []
    posted: dict[str, set[int]] = {}
    with psycopg.connect(url) as connection:
        for run, transaction, rows, total in connection.execute(POSTED[server]):
            posted.setdefault(run, set()).add(transaction)
            if (rows, total) != (2, 0):
                faults.append(f"transaction {transaction} has {rows} entries, summing to {total}")
    all_posted = sum(map(len, posted.values()))
    own_runs = [run for run in runs if run.server == server]
    for run in own_runs:
        faults += _faults(run, posted.pop(run.name, set()))
    for run in loaded:
        posted.pop(run, None)
    faults += [f"{run}: {len(ids)} transfers of no run" for run, ids in posted.items()]
    return Count(sum(len(run.transactions) for run in own_runs), all_posted, faults)


def _faults(run: Run, posted: set[int]) -> Iterator[str]:
    """What is wrong with a run, compared with the ids of the transfers that it got posted.

    When wrk stops it drops what is in flight, one request a connection: these may be posted
    without a 200 that anybody read, but no more than these.
    """
    acknowledged = set(run.transactions)
    if run.failed:
        yield f"{run.name}: {run.failed} answers other than 200, or none"
    if twice := len(run.transactions) - len(acknowledged):
        yield f"{run.name}: {twice} answers name a transaction that another one names"
    if lost := len(acknowledged - posted):
        yield f"{run.name}: {lost} answers of 200 are not in the journal"
    if (unread := len(posted - acknowledged)) > run.connections:
        yield f"{run.name}: {unread} posted without a 200, over {run.connections} connections"


def invariants_hold(url: str) -> bool:
    """What the service's own `verify` says of its database; it prints its findings."""
    command = [sys.executable, "-m", "ledgerservice", "verify"]
    verified = subprocess.run(command, cwd=ROOT, env=environment(url), check=False)
    return verified.returncode == 0
