"""A database in memory, on an event loop's virtual time, that fails at random.

It understands the statements of the write path and nothing else, with PostgreSQL's locks, unique
key and commit; what it refuses, delays, loses and leaves in doubt comes from a seed.
"""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.transactions import Entry
from ledgerservice.postgres import journal, locking
from ledgerservice.postgres.pipeline import Request, Result
from ledgerservice.postgres.rows import (
    FIND_DETAILS,
    FIND_ENTRIES,
)
from tests.posting.simulated_rows import (
    COPIED,
    CURRENCY,
    INSERTED,
    entry_row,
    found_row,
    inserted_rows,
    known_rows,
    lines,
    numbers,
    row_of,
    texts_of,
)
from tests.proof.journal import Account as AccountRow
from tests.proof.journal import Entry as EntryRow
from tests.proof.journal import Journal
from tests.proof.journal import Transaction as TransactionRow

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
OUTSIDE = -1
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


JUDGE = "the trigger on entries"


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
        self.pending: dict[Any, _Session] = {}
        """Unique keys that are not yet committed: whoever inserts one too waits for their end."""
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
        await self.begin_copy(statement, chunks)
        await self.end_copy()

    async def begin_copy(self, statement: str, chunks: Iterable[str]) -> None:
        """The server takes the rows while the client goes on; what they violate, the end says."""
        request = Request(statement, ["".join(chunks).encode()])
        self._rows_of_copy = asyncio.ensure_future(self._wait(self._session.run([request], [])))
        self._rows_of_copy.add_done_callback(_retrieve)
        await asyncio.sleep(0)

    async def end_copy(self) -> None:
        await self._rows_of_copy
        await self._wait(self._session.run([Request(JUDGE)], []))

    async def _wait(self, work: Any) -> Any:
        if self._lost.done():
            work.close()
            raise psycopg.OperationalError("the connection is closed")
        task = asyncio.ensure_future(work)
        self._database.sessions.add(task)
        task.add_done_callback(self._database.sessions.discard)
        task.add_done_callback(_retrieve)
        await asyncio.wait([task, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
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


def _retrieve(done: "asyncio.Future[Any]") -> None:
    """Nobody may be there any more to whom an error matters."""
    if not done.cancelled():
        done.exception()


class _ConnectionLost(Exception):
    """The client hears nothing more."""


class _Session:
    """The server's side of a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: list[asyncio.Lock] = []
        self._ended = asyncio.Event()
        self._judged = 0  # entries
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
        self._held, self._rows, self._entries, self._judged = [], [], [], 0
        self.open = self._aborted = False
        pending = self._database.pending
        for key in [key for key, session in pending.items() if session is self]:
            del pending[key]
        self._ended.set()
        self._ended = asyncio.Event()

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
        for key, session in self._database.pending.items():
            if session is self:
                self._database.pending[key] = later
        self._judged = 0
        self._ended.set()

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
            return Result(await self._lock(*map(numbers, parameters[1:])), "SELECT")
        elif statement == locking.READ_ACCOUNTS:
            return Result(self._read(self._wanted(*map(numbers, parameters[1:]))), "SELECT")
        elif statement == locking.FIND_EARLIER:
            wanted = zip(numbers(parameters[1]), texts_of(parameters[3]), strict=True)
            rows = [database.rows[key] for key in wanted if key in database.rows]
            return Result([found_row(row) for row in dict.fromkeys(rows)], "SELECT")
        elif statement == FIND_ENTRIES:
            ids = set(numbers(parameters[1]))
            found = [entry for entry, _ in database.entries if entry.transaction_id in ids]
            return Result([entry_row(entry) for entry in found], "SELECT")
        elif statement == FIND_DETAILS:
            return Result([], "SELECT")
        elif statement == locking.TAKE_XID:
            assert self.open
            return Result([("1",)], "SELECT")
        elif statement == locking.TAKE_CLOCK_AND_IDS:
            blocks = range(database.blocks, database.blocks + int(parameters[0] or 0))
            database.blocks = blocks.stop
            return Result([(database.now(), [block * 100 + 1 for block in blocks])], "SELECT")
        elif statement == journal.RECORD_KNOWN:
            return Result(await self._record_known(parameters), "SELECT")
        else:
            await self._write(statement, parameters)
        return Result([], "OK")

    async def _lock(self, named: list[int], outside: list[int]) -> list[tuple[Any, ...]]:
        wanted = self._wanted(named, outside)
        for number in wanted:
            lock = self._database.locks.setdefault(number, asyncio.Lock())
            await lock.acquire()
            self._held.append(lock)
        return self._read(wanted)

    def _wanted(self, named: list[int], outside: list[int]) -> list[int]:
        accounts = self._database.accounts
        wanted = {number for number in named if number in accounts}
        return sorted(wanted | ({OUTSIDE} if any(one in accounts for one in outside) else set()))

    def _read(self, accounts: list[int]) -> list[tuple[Any, ...]]:
        states = (self._database.accounts[number] for number in accounts)
        return [tuple(getattr(a, name) for name in Account.__struct_fields__) for a in states]

    async def _judge(self) -> None:
        """What the trigger checks: lock the accounts, and see whether the entries continue them."""
        database = self._database
        entries, self._judged = self._entries[self._judged :], len(self._entries)
        for number in sorted({entry.account_id for entry, _ in entries}):
            lock = database.locks.setdefault(number, asyncio.Lock())
            if lock not in self._held:
                await _unless_deadlocked(lock.acquire())
                self._held.append(lock)
        states = {number: (a.version, a.balance) for number, a in database.accounts.items()}
        for entry, moment in entries:
            version, balance = states[entry.account_id]
            account = database.accounts[entry.account_id]
            late = moment < account.last_recorded_at
            if late or (entry.seq, entry.balance) != (version + 1, balance + entry.amount):
                raise errors.CheckViolation("its new entries do not continue it")
            states[entry.account_id] = entry.seq, entry.balance

    async def _take_key(self, key: Any) -> None:
        """Wait for whoever has inserted it and not yet committed."""
        pending = self._database.pending
        while (holder := pending.get(key, self)) is not self:
            await _unless_deadlocked(holder._ended.wait())
        pending[key] = self

    async def _write(self, statement: str, parameters: Any) -> None:
        if statement in COPIED:
            names = COPIED[statement]
            await self._add(row_of(names, line.split("\t")[1:]) for line in lines(parameters))
        elif statement in INSERTED:
            await self._add(inserted_rows(INSERTED[statement], parameters))
        elif statement == JUDGE:
            await self._judge()
        elif statement == journal.COPY_ENTRIES:
            for line in lines(parameters):
                _, moment, *columns = line.split("\t")
                entry = Entry(*map(int, columns))
                await self._add_entry(entry, datetime.fromisoformat(moment))
        elif statement == journal.INSERT_ENTRIES.statement:
            recorded_at = datetime.fromisoformat(parameters[1].decode())
            for values in zip(*map(numbers, parameters[2:]), strict=True):
                await self._add_entry(Entry(*values), recorded_at)
            await self._judge()
        else:
            assert statement == journal.WRITE_BARRIER, statement

    async def _record_known(self, parameters: Any) -> list[tuple[int, datetime]]:
        """A whole batch, with an id and a time from here; nothing, if an account has moved."""
        ids, versions = map(numbers, parameters[2:4])
        await self._lock(ids, [])
        if [self._database.accounts[one].version for one in ids] != versions:
            return []
        first_id, self._database.blocks = self._database.blocks * 100 + 1, self._database.blocks + 1
        recorded_at = max(datetime.fromisoformat(parameters[1].decode()), self._database.now())
        rows, entries = known_rows(parameters, first_id, recorded_at)
        await self._add(rows)
        for entry in entries:
            await self._add_entry(entry, recorded_at)
        await self._judge()
        return [(first_id, recorded_at)]

    async def _add(self, rows: Iterable[Any]) -> None:
        for row in rows:
            place = row.account_id, row.idempotency_key
            await self._take_key(place)
            if place in self._database.rows:
                raise KeyTaken("the key is there")
            self._rows.append(row)

    async def _add_entry(self, entry: Entry, moment: datetime) -> None:
        await self._take_key((entry.account_id, entry.seq))
        if entry.seq <= self._database.accounts[entry.account_id].version:
            raise errors.UniqueViolation("the seq is there")
        self._entries.append((entry, moment))


async def _unless_deadlocked(waiting: Any) -> None:
    """PostgreSQL looks for a cycle after a second; here nobody waits for longer."""
    try:
        await asyncio.wait_for(waiting, 1.0)
    except TimeoutError:
        raise errors.DeadlockDetected("deadlock detected") from None
