"""A database in memory, on an event loop's virtual time, that fails at random.

It understands the statements of the write path and nothing else, with PostgreSQL's locks, unique
key and commit; what it refuses, delays, loses and leaves in doubt comes from a seed.
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import asdict, make_dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.transactions import Entry
from ledgerservice.postgres import journal, locking, rows
from ledgerservice.postgres.pipeline import Request, Result
from ledgerservice.postgres.rows import (
    FIND_DETAILS,
    FIND_ENTRIES,
    PLAIN_CONSTANTS,
    PLAIN_WRITTEN,
    WRITTEN,
)
from tests.proof.journal import Account as AccountRow
from tests.proof.journal import Entry as EntryRow
from tests.proof.journal import Journal
from tests.proof.journal import Transaction as TransactionRow

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CURRENCY, OUTSIDE = ("USD", 1, 2), -1
KINDS = {1: "deposit", 2: "withdraw", 3: "transfer"}
STATEMENT_ERRORS: list[type[psycopg.Error]] = [
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.DiskFull,
    errors.QueryCanceled,
    errors.IdleInTransactionSessionTimeout,
    errors.AdminShutdown,
]
STATEMENT_TIMEOUT_S = 30.0


class KeyTaken(errors.UniqueViolation):
    """As the unique key of transactions says it."""

    diag: Any = SimpleNamespace(constraint_name="transactions_idempotency_key")


class Faults(NamedTuple):
    """How likely each is: of a connection, of a statement, of a commit."""

    refused: float = 0.0
    failing: float = 0.0
    slow: float = 0.0
    cut: float = 0.0
    never: float = 0.0
    commit: float = 0.0


Row: Any = make_dataclass("Row", ["recorded_at", *WRITTEN], frozen=True)
"""A stored transaction, without its ledger."""


class Database:
    """What is committed, and who holds what locked."""

    def __init__(self, accounts: int, seed: str) -> None:
        self.chance = random.Random(seed)
        self.faults = Faults()
        self.accounts = {OUTSIDE: Account(OUTSIDE, *CURRENCY, 0, 0, 0, None, BEGAN)}
        for number in range(1, accounts + 1):
            self.accounts[number] = Account(number, *CURRENCY, 0, 0, 0, 0, BEGAN)
        self.rows: dict[tuple[int, str], Any] = {}
        self.entries: list[tuple[Entry, datetime]] = []
        self.locks: dict[int, asyncio.Lock] = {}
        self.blocks = 0
        self.sessions: set[asyncio.Task[None]] = set()

    async def connect(self) -> "Connection":
        """A new connection, if one is to be had."""
        await asyncio.sleep(self.chance.random() * 0.01)
        if self.chance.random() < self.faults.refused:
            raise self.chance.choice([errors.TooManyConnections, psycopg.OperationalError])("no")
        return Connection(self)

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=asyncio.get_running_loop().time())

    def dump(self) -> Journal:
        """All that is committed, for the checker."""
        return Journal(
            [
                AccountRow(a.id, a.currency_number, a.balance, a.held, a.version, a.floor)
                for a in self.accounts.values()
            ],
            [
                TransactionRow(
                    r.id, KINDS[r.kind], r.account_id, r.counterparty_id, r.amount,
                    r.idempotency_key, _text(r.recorded_at), r.decline_reason,
                    r.deciding_account_id, r.deciding_version, r.deciding_available,
                )
                for r in self.rows.values()
            ],
            [
                EntryRow(e.account_id, e.seq, e.transaction_id, e.currency_number, e.amount,
                         e.balance, e.held, _text(moment))
                for e, moment in self.entries
            ],
        )  # fmt: skip


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Connection:
    """The port that the write path speaks to, in place of `pipeline.Wire`."""

    server_version = locking.ORDERED_ARRAYS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lost = asyncio.get_running_loop().create_future()
        self._session = _Session(database)
        self.warnings: list[str] = []

    @property
    def idle(self) -> bool:
        return not self._session.open

    async def exchange(self, *requests: Request) -> list[Result]:
        """Run the requests; the server goes on with what has begun, whatever becomes of us."""
        self.warnings.clear()
        return await self._wait(self._session.run(requests, self.warnings))

    async def copy(self, statement: str, chunks: Iterable[str]) -> None:
        text = "".join(chunks)
        await self._wait(self._session.run([Request(statement, [text.encode()])], []))

    async def _wait(self, work: Any) -> Any:
        if self._lost.done():
            work.close()
            raise psycopg.OperationalError("the connection is closed")
        task = asyncio.ensure_future(work)
        self._database.sessions.add(task)
        task.add_done_callback(self._database.sessions.discard)
        await asyncio.wait([task, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise psycopg.OperationalError("the connection is lost")
        try:
            return task.result()
        except _ConnectionLost as lost:
            self.cut()
            raise psycopg.OperationalError("server closed the connection") from lost

    def cut(self) -> None:
        """The server rolls back, once it has done with what it is at."""
        if not self._lost.done():
            self._lost.set_result(None)
            self._session.abandon()

    async def close(self) -> None:
        self.cut()


class _ConnectionLost(Exception):
    """The client hears nothing more."""


class _Session:
    """The server's side of a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: list[asyncio.Lock] = []
        self._rows: list[Any] = []
        self._entries: list[tuple[Entry, datetime]] = []
        self._busy = False
        self._abandoned = False
        self._aborted = False
        self.open = False

    def abandon(self) -> None:
        self._abandoned = True
        if not self._busy:
            self._end()

    def _end(self) -> None:
        for lock in self._held:
            lock.release()
        self._held, self._rows, self._entries = [], [], []
        self.open = self._aborted = False

    async def run(self, requests: Iterable[Request], warnings: list[str]) -> list[Result]:
        self._busy = True
        try:
            return [await self._statement(request, warnings) for request in requests]
        except psycopg.Error:
            self._aborted = self.open
            raise
        finally:
            self._busy = False
            if self._abandoned:
                self._end()

    async def _statement(self, request: Request, warnings: list[str]) -> Result:
        chance, faults = self._database.chance, self._database.faults
        if chance.random() < faults.slow:
            await asyncio.sleep(chance.expovariate(1.0))
        if chance.random() < faults.never:
            await asyncio.sleep(STATEMENT_TIMEOUT_S)
            if request.statement != journal.COMMIT:
                raise errors.QueryCanceled("statement timeout")
        if self._aborted:
            return self._refuse(request)
        if request.statement == journal.COMMIT:
            return await self._commit(warnings)
        if chance.random() < faults.cut:
            self._end()
            raise _ConnectionLost
        if chance.random() < faults.failing:
            raise chance.choice(STATEMENT_ERRORS)("so it is")
        return await self._execute(request)

    def _refuse(self, request: Request) -> Result:
        """An aborted transaction takes nothing but its end."""
        if request.statement not in (journal.COMMIT, journal.ROLLBACK):
            raise errors.InFailedSqlTransaction("current transaction is aborted")
        self._end()
        return Result([], "ROLLBACK")

    async def _commit(self, warnings: list[str]) -> Result:
        chance = self._database.chance
        if chance.random() < self._database.faults.commit:
            how = chance.choice(["committed, cut", "aborted, cut", "in doubt", "warned", "aborted"])
            if how == "in doubt":
                self._decide_later()
                raise _ConnectionLost
            # What a failover may take back has only a warning to tell of it.
            if how == "committed, cut" or (how == "warned" and chance.random() < 0.5):
                self._apply()
            self._end()
            if how == "warned":
                warnings.append("canceling wait for synchronous replication")
                return Result([], "COMMIT")
            if how == "aborted":
                return Result([], "ROLLBACK")
            raise _ConnectionLost
        self._apply()
        self._end()
        return Result([], "COMMIT")

    def _decide_later(self) -> None:
        """The client is told nothing; some time later it is committed or not, locks held."""
        held, rows, entries = self._held, self._rows, self._entries
        self._held, self._rows, self._entries, self.open = [], [], [], False
        later = _Session(self._database)
        later._held, later._rows, later._entries = held, rows, entries

        async def decide() -> None:
            await asyncio.sleep(self._database.chance.expovariate(0.5))
            if self._database.chance.random() < 0.5:
                later._apply()
            later._end()

        task = asyncio.ensure_future(decide())
        self._database.sessions.add(task)
        task.add_done_callback(self._database.sessions.discard)

    def _apply(self) -> None:
        database = self._database
        for row in self._rows:
            place = row.account_id, row.idempotency_key
            assert place not in database.rows
            database.rows[place] = row
        for entry, moment in self._entries:
            account = database.accounts[entry.account_id]
            assert (entry.seq, entry.balance) == (
                account.version + 1,
                account.balance + entry.amount,
            )
            assert account.floor is None or entry.balance >= account.floor
            database.accounts[entry.account_id] = Account(
                account.id, *CURRENCY, entry.balance, 0, entry.seq, account.floor, moment
            )
            database.entries.append((entry, moment))

    async def _execute(self, request: Request) -> Result:
        statement, parameters = request
        database = self._database
        if statement == journal.BEGIN:
            assert not self.open
            self.open = True
        elif statement == journal.ROLLBACK:
            self._end()
        elif statement == locking.LOCK_ACCOUNTS:
            return Result(await self._lock(*map(_numbers, parameters[1:])), "SELECT")
        elif statement == locking.FIND_EARLIER:
            wanted = zip(_numbers(parameters[1]), _texts(parameters[3]), strict=True)
            rows = [database.rows[key] for key in wanted if key in database.rows]
            return Result([_found(row) for row in dict.fromkeys(rows)], "SELECT")
        elif statement == FIND_ENTRIES:
            ids = set(_numbers(parameters[1]))
            found = [entry for entry, _ in database.entries if entry.transaction_id in ids]
            return Result([_entry(entry) for entry in found], "SELECT")
        elif statement == FIND_DETAILS:
            return Result([], "SELECT")
        elif statement == locking.TAKE_XID:
            assert self.open
            return Result([("1",)], "SELECT")
        elif statement == locking.TAKE_CLOCK_AND_IDS:
            blocks = range(database.blocks, database.blocks + int(parameters[0] or 0))
            database.blocks = blocks.stop
            return Result([(database.now(), [block * 100 + 1 for block in blocks])], "SELECT")
        else:
            self._write(statement, parameters)
        return Result([], "OK")

    async def _lock(self, named: list[int], outside: list[int]) -> list[tuple[Any, ...]]:
        database = self._database
        wanted = {number for number in named if number in database.accounts}
        if any(number in database.accounts for number in outside):
            wanted.add(OUTSIDE)
        rows = []
        for number in sorted(wanted):
            lock = database.locks.setdefault(number, asyncio.Lock())
            await lock.acquire()
            self._held.append(lock)
            a = database.accounts[number]
            rows.append(tuple(getattr(a, name) for name in Account.__struct_fields__))
        return rows

    def _write(self, statement: str, parameters: Any) -> None:
        if statement in _COPIED:
            names = _COPIED[statement]
            self._add(_row(names, line.split("\t")[1:]) for line in _lines(parameters))
        elif statement in _INSERTED:
            self._add(_inserted_rows(_INSERTED[statement], parameters))
        elif statement == journal.COPY_ENTRIES:
            for line in _lines(parameters):
                _, moment, *columns = line.split("\t")
                entry = Entry(*map(int, columns))
                self._entries.append((entry, datetime.fromisoformat(moment)))
        elif statement == journal.INSERT_ENTRIES.statement:
            recorded_at = datetime.fromisoformat(parameters[1].decode())
            for numbers in zip(*map(_numbers, parameters[2:]), strict=True):
                self._entries.append((Entry(*numbers), recorded_at))
        else:
            assert statement == journal.WRITE_BARRIER, statement

    def _add(self, rows: Iterable[Any]) -> None:
        for row in rows:
            if (row.account_id, row.idempotency_key) in self._database.rows:
                raise KeyTaken("the key is there")
            self._rows.append(row)


def _numbers(array: bytes | None) -> list[Any]:
    inside = (array or b"{}").decode()[1:-1]
    return [None if item == "NULL" else int(item) for item in inside.split(",")] if inside else []


def _texts(array: bytes | None) -> list[Any]:
    """Only keys without quotes, commas and backslashes are used here."""
    inside = (array or b"{}").decode()[1:-1]
    items = inside.split(",") if inside else []
    return [None if item == "NULL" else item.strip('"') for item in items]


def _lines(parameters: Any) -> list[str]:
    return str(parameters[0].decode()).splitlines()


_COPIED = {
    journal.COPY_TRANSACTIONS: tuple(WRITTEN),
    journal.COPY_PLAIN: (*PLAIN_CONSTANTS, *PLAIN_WRITTEN),
}
_INSERTED = {
    journal.INSERT_TRANSACTIONS.statement: tuple(WRITTEN),
    journal.INSERT_PLAIN.statement: tuple(PLAIN_WRITTEN),
}


def _row(names: tuple[str, ...], texts: list[str]) -> Any:
    """A row of its columns in COPY's text format; the others have their defaults."""
    moment, *rest = texts
    values: dict[str, Any] = {"origin": 0, "has_details": False, **PLAIN_CONSTANTS}
    values |= {n: _value(WRITTEN[n], text) for n, text in zip(names, rest, strict=True)}
    return Row(datetime.fromisoformat(moment), *(values.get(name) for name in WRITTEN))


def _value(kind: str, text: str) -> Any:
    if text == "\\N":
        return None
    if kind == "boolean":
        return text == "t"
    return text if kind == "text" else int(text)


def _inserted_rows(names: tuple[str, ...], parameters: Any) -> Iterable[Any]:
    moment = parameters[1].decode()
    columns = [_texts(values) for values in parameters[2:]]
    for texts in zip(*columns, strict=True):
        yield _row(names, [moment, *("\\N" if text is None else text for text in texts)])


def _found(row: Any) -> tuple[Any, ...]:
    values = asdict(row) | {
        "key": row.idempotency_key,
        "currency": CURRENCY[0],
        "exponent": CURRENCY[2],
    }
    return tuple(values[name] for name in rows.TransactionRow._fields)


def _entry(e: Entry) -> tuple[Any, ...]:
    return (e.account_id, e.seq, e.transaction_id, e.currency_number, e.amount, e.held_change,
            e.balance, e.held)  # fmt: skip
