"""Many movements per call, compared with the bare statements that any ledger has to run.

bare    COPY of the same rows into the same tables with the same indexes, and one set-based UPDATE
        of the touched accounts, without locks, key look-up, triggers and planner.
post    `Ledger.post`, 8,000 movements per call.
ndjson  The same movements as lines over HTTP, with an answer per line.
"""

import asyncio
import itertools
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import psycopg

import load
from ledgerservice.domain import planner
from ledgerservice.domain.accounts import Account
from ledgerservice.domain.instructions import Group, Movement
from ledgerservice.domain.transactions import Recorded
from ledgerservice.ledger import Ledger, transfer
from ledgerservice.postgres import journal, rows
from servers import LEDGER

CALL = 8_000
CALLS = 5  # in one run
_SALTS = itertools.repeat(bytes(16))  # of digests, which plain movements have none of


class Cost(NamedTuple):
    """The result of a run: transfers per second, and CPU per transfer in µs."""

    transfers_s: float
    server_us: float
    python_us: float


class Clock:
    """Measures wall time, the CPU of PostgreSQL's processes, and that of a Python process."""

    def __init__(self, postmaster: int, python: int | None = None) -> None:
        self._postmaster = psutil.Process(postmaster)
        self._python = psutil.Process(python)
        self._began = self._read()

    def _read(self) -> tuple[float, float, float]:
        server = sum(map(_backend_s, self._postmaster.children()))
        return time.perf_counter(), server, _cpu_s(self._python)

    def cost(self, transfers: int) -> Cost:
        """The cost of `transfers` transfers since the clock was created."""
        wall_s, server_s, python_s = (
            now - began for now, began in zip(self._read(), self._began, strict=True)
        )
        return Cost(transfers / wall_s, server_s / transfers * 1e6, python_s / transfers * 1e6)


def _backend_s(process: psutil.Process) -> float:
    """The CPU of a PostgreSQL process in s; 0 for autovacuum workers, which run at any time."""
    with suppress(psutil.NoSuchProcess):
        if not any("autovacuum worker" in word for word in process.cmdline()):
            return _cpu_s(process)
    return 0.0


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def movements(name: str, first: int, accounts: int, workload: str) -> list[Movement]:
    """The transfers of one run. Every key starts with `name:`."""
    ids = range(first, first + accounts)
    transfers = []
    for number in range(CALL * CALLS):
        sender, receiver = random.sample(ids, 2)
        if workload == "hot":
            sender, receiver = first, random.randrange(first + 1, first + accounts)
        transfers.append(transfer(sender, receiver, "0.01", f"{name}:{number}"))
    return transfers


async def post(
    ledger: Ledger, postmaster: int, name: str, transfers: list[Movement]
) -> tuple[Cost, load.Run]:
    """One run of `Ledger.post`."""
    clock = Clock(postmaster)
    outcomes = []
    for call in _calls(transfers):
        outcomes += await ledger.post(call)
    cost = clock.cost(len(transfers))
    ids = [o.transaction.id for o in outcomes if isinstance(o, Recorded) and o.posted]
    return cost, _run(name, ids, len(transfers) - len(ids), cost)


def _calls(transfers: list[Movement]) -> Iterator[list[Movement]]:
    for start in range(0, len(transfers), CALL):
        yield transfers[start : start + CALL]


def _run(name: str, ids: list[int], failed: int, cost: Cost) -> load.Run:
    return load.Run(name, LEDGER, name, 0, ids, failed, cost.transfers_s, 0, 0, 0)


_NO_TRIGGERS = """
DO $$
DECLARE
    guard record;
BEGIN
    FOR guard IN SELECT tgrelid::regclass AS relation, tgname
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                 WHERE c.relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
    LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', guard.relation, guard.tgname);
    END LOOP;
END $$
"""


class Bare:
    """The bare statements on their own database. The states of its accounts are kept here."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET session_replication_role = replica")
        self._connection.execute(_NO_TRIGGERS)
        states = self._connection.execute(
            "SELECT id, currency, currency_number, exponent, balance, held, version, floor,"
            " last_recorded_at FROM ledger.accounts WHERE ledger_id = 1"
        ).fetchall()
        self._accounts = {row[0]: Account(*row) for row in states}
        self._ids = itertools.count(10**12)

    def run(self, postmaster: int, transfers: list[Movement]) -> Cost:
        """Write the rows of `transfers`, which are made before the clock starts."""
        plans = [self._plan(call) for call in _calls(transfers)]
        clock = Clock(postmaster)
        for transactions, entries, touched in plans:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                for statement, text in (
                    (journal.COPY_TRANSACTIONS, transactions),
                    (journal.COPY_ENTRIES, entries),
                ):
                    with cursor.copy(statement) as copy:
                        copy.write(text)
                cursor.execute(_UPDATE, touched)
        return clock.cost(len(transfers))

    def _plan(self, call: list[Movement]) -> tuple[str, str, list[list[int]]]:
        plan = planner.plan(
            [Group(call)], self._accounts, {}, datetime.now(UTC), self._ids, salts=_SALTS
        )
        last = {entry.account_id: entry for entry in plan.entries()}
        for number, entry in last.items():
            old = self._accounts[number]
            self._accounts[number] = Account(
                old.id, old.currency, old.currency_number, old.exponent, entry.balance, entry.held,
                entry.seq, old.floor, plan.recorded_at,
            )  # fmt: skip
        columns = [list(last), [e.balance for e in last.values()], [e.seq for e in last.values()]]
        head = f"1\t{plan.recorded_at.isoformat()}\t"
        transactions = "".join(rows.copied(head, plan.transactions))
        return transactions, "".join(rows.copied_entries(head, plan.entries())), columns


_UPDATE = """
UPDATE ledger.accounts a SET balance = u.balance, version = u.version, last_recorded_at = now()
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS u (id, balance, version)
WHERE a.ledger_id = 1 AND a.id = u.id
"""


def stream(
    base: str, postmaster: int, service: int, name: str, transfers: list[Movement]
) -> tuple[Cost, load.Run]:
    """One run of lines over HTTP. `service` is the process id of the server."""
    lines = [
        b'{"type":"TRANSFER","from_account_id":%d,"to_account_id":%d,"amount":"%b",'
        b'"idempotency_key":"%b"}\n'
        % (m.account_id, m.counterparty_id or 0, m.amount.encode(), m.key.encode())
        for m in transfers
    ]
    body = b"".join(lines)
    url = urlsplit(base)
    head = (
        f"POST /batches HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port)) as connection:
        clock = Clock(postmaster, service)
        sending = threading.Thread(target=connection.sendall, args=(head.encode() + body,))
        sending.start()
        answers = bytearray()
        while data := connection.recv(262_144):
            answers += data
        cost = clock.cost(len(transfers))
        sending.join()
    ids = [int(number) for number in re.findall(rb'"transaction_id":(\d+)', bytes(answers))]
    return cost, _run(name, ids, len(transfers) - bytes(answers).count(b'"status":200'), cost)


@contextmanager
def opened(url: str) -> Iterator[tuple[asyncio.Runner, Ledger]]:
    """A `Ledger` in this process, and the event loop in which it runs."""
    with asyncio.Runner() as runner:
        opening = Ledger.open(url)
        ledger = runner.run(opening.__aenter__())
        try:
            yield runner, ledger
        finally:
            runner.run(opening.__aexit__(None, None, None))
