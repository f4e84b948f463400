"""What the ledger says of itself: accounts, histories, transactions. Each read is one statement
of an account's row or of pages by key, so that its cost does not depend on how far back it looks.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Text,
    bindparam,
    case,
    cast,
    exists,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledgerservice.domain.instructions import BIGGEST_ID, Kind, Origin
from ledgerservice.domain.transactions import Entry, Status, Transaction
from ledgerservice.domain.views import (
    AccountView,
    Child,
    CurrencyView,
    HistoryEntry,
    HoldView,
    LedgerView,
    PolicyView,
    ScheduleView,
)
from ledgerservice.errors import InternalFault, Unavailable
from ledgerservice.postgres import rows
from ledgerservice.postgres.rows import TransactionRow, transactions_of
from ledgerservice.postgres.tables import (
    account_details,
    accounts,
    currencies,
    details,
    entries,
    holds,
    ledgers,
    policies,
    schedules,
    secrets,
    transactions,
)

log = logging.getLogger(__name__)


_ledger: Any = bindparam("ledger")

# An expired hold reserves nothing, also before the release is written.
EXPIRED = (
    select(func.coalesce(func.sum(holds.c.remaining), 0).cast(BigInteger))
    .where(
        holds.c.ledger_id == accounts.c.ledger_id,
        holds.c.account_id == accounts.c.id,
        holds.c.remaining > 0,
        holds.c.ends_at <= func.clock_timestamp(),
    )
    .correlate(accounts)
    .scalar_subquery()
)
_HELD = case((accounts.c.held == 0, 0), else_=accounts.c.held - EXPIRED).label("held")
_METADATA = (
    select(cast(account_details.c.metadata, Text))
    .where(
        account_details.c.ledger_id == accounts.c.ledger_id,
        account_details.c.account_id == accounts.c.id,
    )
    .correlate(accounts)
    .scalar_subquery()
)
_DERIVED = {"held": _HELD, "metadata": _METADATA}
_ACCOUNT_COLUMNS = [
    _DERIVED[name] if name in _DERIVED else accounts.c[name]
    for name in AccountView.__struct_fields__
]

FIND_ACCOUNT = select(*_ACCOUNT_COLUMNS).where(
    accounts.c.ledger_id == _ledger, accounts.c.id == bindparam("account")
)

FIND_ACCOUNTS = select(*_ACCOUNT_COLUMNS).where(
    accounts.c.ledger_id == _ledger,
    accounts.c.id == func.any(bindparam("accounts", type_=ARRAY(BigInteger))),
)

LIST_HISTORY = (
    select(
        entries.c.seq,
        entries.c.transaction_id,
        transactions.c.kind,
        entries.c.amount,
        entries.c.held_change,
        accounts.c.exponent,
        entries.c.balance,
        entries.c.held,
        transactions.c.idempotency_key,
        entries.c.recorded_at,
    )
    .join(
        transactions,
        (transactions.c.ledger_id == entries.c.ledger_id)
        & (transactions.c.id == entries.c.transaction_id),
    )
    .join(
        accounts,
        (accounts.c.ledger_id == entries.c.ledger_id) & (accounts.c.id == entries.c.account_id),
    )
    .where(
        entries.c.ledger_id == _ledger,
        entries.c.account_id == bindparam("account"),
        entries.c.seq < bindparam("before"),
    )
    .order_by(entries.c.seq.desc())
    .limit(bindparam("rows"))
)

TRANSACTION = f"""
SELECT {rows.TRANSACTION} FROM ledger.transactions t
JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
WHERE t.ledger_id = :ledger AND """

FIND_TRANSACTION = text(TRANSACTION + "t.id = :transaction")

FIND_KEY = text(
    f"{TRANSACTION} t.account_id = :account AND t.origin = {Origin.CALLER:d}"
    " AND t.idempotency_key = :key"
)

LIST_ENTRIES = select(*(entries.c[name] for name in Entry.__struct_fields__)).where(
    entries.c.ledger_id == _ledger,
    entries.c.transaction_id == func.any(bindparam("transactions", type_=ARRAY(BigInteger))),
)

_CURRENCY = select(currencies.c.code, currencies.c.exponent, currencies.c.name, currencies.c.number)

FIND_CURRENCY = _CURRENCY.where(currencies.c.code == bindparam("code"))

LIST_CURRENCIES = (
    _CURRENCY.where(
        currencies.c.code
        > func.coalesce(
            select(currencies.c.code)
            .where(currencies.c.number == bindparam("after"))
            .scalar_subquery(),
            "",
        )
    )
    .order_by(currencies.c.code)
    .limit(bindparam("rows"))
)

FIND_DETAILS = text(
    rows.FIND_DETAILS.replace("$1", ":ledger").replace("$2::bigint[]", "CAST(:ids AS bigint[])")
)

_expiry = transactions.alias()
_HOLD = (
    select(
        holds.c.transaction_id,
        holds.c.account_id,
        holds.c.counterparty_id,
        holds.c.amount,
        holds.c.captured,
        holds.c.remaining,
        func.coalesce(holds.c.ends_at <= func.clock_timestamp(), False)
        & (
            (holds.c.remaining > 0)
            | exists().where(
                _expiry.c.status == Status.POSTED,
                _expiry.c.ledger_id == holds.c.ledger_id,
                _expiry.c.account_id == holds.c.account_id,
                _expiry.c.origin == Origin.EXPIRY,
                _expiry.c.idempotency_key == func.concat("expiry ", holds.c.transaction_id),
            )
        ),
        accounts.c.currency,
        accounts.c.exponent,
        holds.c.expires_at,
        holds.c.capture_at,
        transactions.c.recorded_at,
        holds.c.ends_at,
    )
    .join(
        accounts,
        (accounts.c.ledger_id == holds.c.ledger_id) & (accounts.c.id == holds.c.account_id),
    )
    .join(
        transactions,
        (transactions.c.ledger_id == holds.c.ledger_id)
        & (transactions.c.id == holds.c.transaction_id),
    )
    .where(holds.c.ledger_id == _ledger)
)
FIND_HOLD = _HOLD.where(holds.c.transaction_id == bindparam("hold"))

_moment: Any = bindparam("moment", type_=DateTime(timezone=True))
_number: Any = bindparam("number", type_=BigInteger)


def _after(*order: Any) -> tuple[Any, ...]:
    """An account's rows after a moment and id, in an order that begins with the account.

    Written so that it is the index of this order and no other: that of all accounts' moments was
    taken, and read to the end where many have the same.
    """
    account = bindparam("account", type_=BigInteger)
    return tuple_(*order) > tuple_(account, _moment, _number), order[0] <= account


# Those that end, then those that do not.
_by_end = (holds.c.account_id, holds.c.ends_at, holds.c.transaction_id)
_open = (
    select(holds.c.transaction_id)
    .where(holds.c.ledger_id == _ledger, holds.c.remaining > 0)
    .order_by(*_by_end)
    .limit(bindparam("rows"))
)
_ending = _open.where(*_after(*_by_end), holds.c.ends_at > func.statement_timestamp())
_endless = _open.where(
    holds.c.account_id == bindparam("account"),
    holds.c.ends_at.is_(None),
    holds.c.transaction_id > case((_moment.is_(None), _number), else_=0),
)
LIST_HOLDS = (
    _HOLD.where(
        holds.c.transaction_id
        == func.any(func.array(union_all(_ending, _endless).scalar_subquery()))
    )
    .order_by(holds.c.ends_at, holds.c.transaction_id)
    .limit(bindparam("rows"))
)

_asked_by, _settled_by = transactions.alias(), transactions.alias()
_SCHEDULE = (
    select(
        schedules.c.transaction_id,
        schedules.c.account_id,
        schedules.c.counterparty_id,
        schedules.c.amount,
        accounts.c.currency,
        accounts.c.exponent,
        schedules.c.execute_at,
        _asked_by.c.recorded_at,
        schedules.c.settled_by,
        _settled_by.c.kind,
        _settled_by.c.status,
    )
    .join(
        accounts,
        (accounts.c.ledger_id == schedules.c.ledger_id) & (accounts.c.id == schedules.c.account_id),
    )
    .join(
        _asked_by,
        (_asked_by.c.ledger_id == schedules.c.ledger_id)
        & (_asked_by.c.id == schedules.c.transaction_id),
    )
    .outerjoin(
        _settled_by,
        (_settled_by.c.ledger_id == schedules.c.ledger_id)
        & (_settled_by.c.id == schedules.c.settled_by),
    )
    .where(schedules.c.ledger_id == _ledger)
)
FIND_SCHEDULE = _SCHEDULE.where(schedules.c.transaction_id == bindparam("schedule"))
_by_time = (schedules.c.account_id, schedules.c.execute_at, schedules.c.transaction_id)
LIST_SCHEDULES = (
    _SCHEDULE.where(*_after(*_by_time), schedules.c.settled_by.is_(None))
    .order_by(*_by_time)
    .limit(bindparam("rows"))
)

LIST_POLICIES = (
    select(
        policies.c.seq,
        policies.c.transaction_id,
        policies.c.floor,
        policies.c.ceiling,
        policies.c.restricted,
        policies.c.lowest,
        policies.c.actor,
        policies.c.reason,
        accounts.c.exponent,
        transactions.c.recorded_at,
    )
    .join(
        accounts,
        (accounts.c.ledger_id == policies.c.ledger_id) & (accounts.c.id == policies.c.account_id),
    )
    .join(
        transactions,
        (transactions.c.ledger_id == policies.c.ledger_id)
        & (transactions.c.id == policies.c.transaction_id),
    )
    .where(
        policies.c.ledger_id == _ledger,
        policies.c.account_id == bindparam("account"),
        policies.c.seq < bindparam("before"),
    )
    .order_by(policies.c.seq.desc())
    .limit(bindparam("rows"))
)

LIST_CHILDREN = (
    select(details.c.transaction_id, transactions.c.kind, transactions.c.status)
    .join(
        transactions,
        (transactions.c.ledger_id == details.c.ledger_id)
        & (transactions.c.id == details.c.transaction_id),
    )
    .where(
        details.c.ledger_id == _ledger,
        details.c.parent_id == bindparam("transaction"),
        transactions.c.status == Status.POSTED,
    )
    .order_by(details.c.transaction_id)
)

_LEDGER = select(ledgers.c.ledger_id, ledgers.c.name, ledgers.c.created_at)
FIND_LEDGER = _LEDGER.where(ledgers.c.name == bindparam("name"))
LIST_LEDGERS = (
    _LEDGER.where(ledgers.c.ledger_id > bindparam("after"))
    .order_by(ledgers.c.ledger_id)
    .limit(bindparam("rows"))
)

CURSOR_SECRET = select(secrets.c.secret).where(secrets.c.name == "cursors")

PAST_ALL_VERSIONS = BIGGEST_ID

Ending = tuple[datetime | None, int]
"""When a hold ends or a transfer is to be made, and its id: its place in an account's list."""

AT_FIRST: Ending = (datetime.min.replace(tzinfo=UTC), 0)

Fields = tuple[Any, ...]


class Reader:
    """Reads one ledger.

    Every method raises Unavailable while the database is away, or silent for `deadline_s`, and
    InternalFault if it refuses.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        ledger: int,
        deadline_s: float,
        searches: asyncio.Semaphore | None = None,
    ) -> None:
        """`searches` bounds the connections that look for pages and sum up reports."""
        self._engine = engine
        self.ledger_id = ledger
        self._deadline_s = deadline_s
        self._searches = searches

    async def account(self, account_id: int) -> AccountView | None:
        """The account as it stands, or None."""
        row = await self.row(FIND_ACCOUNT, account=account_id)
        return None if row is None else AccountView(*row)

    async def accounts(self, account_ids: list[int]) -> list[AccountView]:
        """The accounts as they stand, in that order."""
        found = await self.rows(FIND_ACCOUNTS, accounts=account_ids)
        views = {row[0]: AccountView(*row) for row in found}
        return [views[number] for number in account_ids]

    async def history(
        self, account_id: int, rows: int, before: int = PAST_ALL_VERSIONS
    ) -> list[HistoryEntry]:
        """Up to `rows` entries with versions below `before`, newest first."""
        found = await self.rows(LIST_HISTORY, account=account_id, before=before, rows=rows)
        return [HistoryEntry(*(*row[:2], Kind(row[2]), *row[3:])) for row in found]

    async def transaction(self, transaction_id: int) -> Transaction | None:
        """The recorded transaction of that id, or None."""
        return await self._transaction(FIND_TRANSACTION, transaction=transaction_id)

    async def outcome(self, account_id: int, key: str) -> Transaction | None:
        """The recorded outcome of a key, or None."""
        return await self._transaction(FIND_KEY, account=account_id, key=key)

    async def currency(self, code: str) -> CurrencyView | None:
        """The currency of that code, or None."""
        row = await self.row(FIND_CURRENCY, code=code)
        return None if row is None else CurrencyView(*row)

    async def currencies(self, after: int, rows: int) -> list[CurrencyView]:
        """Up to `rows` currencies by code, after the one of that number (0: from the first)."""
        found = await self.rows(LIST_CURRENCIES, after=after, rows=rows)
        return [CurrencyView(*row) for row in found]

    async def hold(self, transaction_id: int) -> HoldView | None:
        """The hold that a transaction made, as it stands, or None."""
        row = await self.row(FIND_HOLD, hold=transaction_id)
        return None if row is None else HoldView(*row)

    async def schedule(self, transaction_id: int) -> ScheduleView | None:
        """The transfer that a transaction scheduled, as it stands, or None."""
        row = await self.row(FIND_SCHEDULE, schedule=transaction_id)
        return None if row is None else ScheduleView(*row)

    async def holds(self, account_id: int, rows: int, after: Ending = AT_FIRST) -> list[HoldView]:
        """Up to `rows` open holds of an account, by when they end; those that do not come last."""
        found = await self.rows(
            LIST_HOLDS, account=account_id, rows=rows, moment=after[0], number=after[1]
        )
        return [HoldView(*row) for row in found]

    async def schedules(
        self, account_id: int, rows: int, after: Ending = AT_FIRST
    ) -> list[ScheduleView]:
        """Up to `rows` pending transfers from an account, by when they are to be made."""
        found = await self.rows(
            LIST_SCHEDULES, account=account_id, rows=rows, moment=after[0], number=after[1]
        )
        return [ScheduleView(*row) for row in found]

    async def policies(
        self, account_id: int, rows: int, before: int = PAST_ALL_VERSIONS
    ) -> list[PolicyView]:
        """Up to `rows` changes of an account's policy, newest first."""
        found = await self.rows(LIST_POLICIES, account=account_id, before=before, rows=rows)
        return [PolicyView(*row) for row in found]

    async def children(self, transaction_id: int) -> list[Child]:
        """The posted transactions that build on one."""
        return [
            Child(number, Kind(kind), Status(status))
            for number, kind, status in await self.rows(LIST_CHILDREN, transaction=transaction_id)
        ]

    async def ledger(self, name: str) -> LedgerView | None:
        """The ledger of that name, or None."""
        row = await self.row(FIND_LEDGER, name=name)
        return None if row is None else LedgerView(*row)

    async def ledgers(self, after: int, rows: int) -> list[LedgerView]:
        """Up to `rows` ledgers with numbers above `after` (0: from the first)."""
        return [LedgerView(*row) for row in await self.rows(LIST_LEDGERS, after=after, rows=rows)]

    def of(self, ledger: int) -> "Reader":
        """A reader of another ledger of the database."""
        return Reader(self._engine, ledger, self._deadline_s, self._searches)

    async def scalar(self, statement: Any) -> Any:
        """The one value of a statement, such as the schema's revision."""
        async with self.connection() as connection:
            return await connection.scalar(statement)

    async def _transaction(self, statement: Any, **values: Any) -> Transaction | None:
        row = await self.row(statement, **values)
        return None if row is None else (await self.completed([row]))[0]

    async def completed(self, transaction_rows: list[Fields]) -> list[Transaction]:
        """Transactions of their rows, with their entries and what else they have."""
        found = [TransactionRow(*row) for row in transaction_rows]
        entry_rows = await self.rows(LIST_ENTRIES, transactions=[row.id for row in found])
        detailed = [row.id for row in found if row.has_details]
        details_rows = await self.rows(FIND_DETAILS, ids=detailed) if detailed else []
        return list(transactions_of(found, entry_rows, details_rows))

    async def row(self, statement: Any, **values: Any) -> Fields | None:
        """The first row of a statement, which has a parameter `ledger`; or None."""
        rows = await self.rows(statement, **values)
        return rows[0] if rows else None

    async def rows(self, statement: Any, *, search: bool = False, **values: Any) -> list[Fields]:
        """All rows of a statement, which has a parameter `ledger`."""
        async with self.connection(search=search) as connection:
            found = await connection.execute(statement, {"ledger": self.ledger_id, **values})
            return [tuple(row) for row in found]

    @asynccontextmanager
    async def connection(self, *, search: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection, each of whose statements is a transaction by itself.

        What may take long is a `search`: it leaves some connections to what never does.
        """
        turn = self._searches if search and self._searches else nullcontext()
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                turn,
                self._engine.connect() as connection,
            ):
                yield connection
        except (DBAPIError, PoolTimeout, OSError) as error:  # TimeoutError is an OSError
            log.warning("a read failed: %s", " ".join(str(error).split()) or "no answer in time")
            if isinstance(error, ProgrammingError):
                raise InternalFault from error
            raise Unavailable from error
