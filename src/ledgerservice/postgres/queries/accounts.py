"""Accounts, their entries and their policies; and the list of accounts by any filter.

The list is ordered by id, or by the time of opening if that is filtered. Each filter has its
condition here, and its access paths (see `search`).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, Table, bindparam, text

from ledgerservice.domain.instructions import BIGGEST_ID, Frozen, Kind, Origin
from ledgerservice.postgres import search
from ledgerservice.postgres.epochs import FIND_EPOCH, PLACE
from ledgerservice.postgres.queries.structs import find_all, find_one, select_list, select_recorded
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.search import AccessPath, Listing, Page, Place, Run, Values
from ledgerservice.postgres.tables import policies


class AccountView(msgspec.Struct, frozen=True):
    """An account as it stands. Amounts are in minor units of a currency with `exponent` digits;
    `metadata` is the text of a JSON object.
    """

    id: int
    owner: str
    currency: str
    exponent: int
    reference: str | None
    balance: int
    held: int
    version: int
    floor: int | None
    ceiling: int | None
    restricted: int
    created_at: datetime
    metadata: str | None = None
    principal_id: int | None = None


class NamedAccount(msgspec.Struct, frozen=True):
    """An account by its names: id and reference."""

    id: int
    reference: str | None
    currency: str


class HistoryEntry(msgspec.Struct, frozen=True):
    """One entry of an account. `version` is its seq; `balance` and `held` are its results."""

    version: int
    transaction_id: int
    kind: Kind
    amount: int
    held_change: int
    exponent: int
    balance: int
    held: int
    key: str
    origin: Origin
    recorded_at: datetime


class Extent(NamedTuple):
    """The last version of an account with its balances, and the present epoch of the feed; None if
    it is not known, because the journal was found elsewhere.
    """

    version: int
    balance: int
    held: int
    epoch: int | None


class PolicyView(msgspec.Struct, frozen=True):
    """An account's policy from the entry `version` on, and who changed it and why."""

    version: int
    transaction_id: int
    floor: int
    ceiling: int | None
    restricted: int
    lowest: int | None
    actor: str | None
    reason: str | None
    exponent: int
    recorded_at: datetime


class AccountFilter(msgspec.Struct, frozen=True):
    """Which accounts are listed; a field that is None does not filter.

    `status` is active, frozen or closed. The balances are in minor units of `currency`. Accounts
    opened in [since, until) are listed in the order of opening. `metadata` is the text of a JSON
    object: only accounts whose metadata contains it. With `ids` only these accounts are read.
    """

    owner: str | None = None
    currency: str | None = None
    reference: str | None = None
    status: str | None = None
    min_balance: int | None = None
    max_balance: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: str | None = None
    ids: list[int] | None = None

    @property
    def by_time(self) -> bool:
        """Whether the list is ordered by the time of opening, instead of by id."""
        return self.since is not None or self.until is not None


# An expired hold reserves nothing, even before its release is recorded.
HELD = """CASE WHEN a.held = 0 THEN 0 ELSE a.held - (
    SELECT coalesce(sum(h.remaining), 0)::bigint FROM (
        SELECT remaining FROM ledger.holds
        WHERE ledger_id = a.ledger_id AND account_id BETWEEN a.id AND a.id
          AND remaining > 0 AND ends_at <= statement_timestamp()
        ORDER BY account_id, ends_at) h) END"""
METADATA = """(SELECT d.metadata::text FROM ledger.account_details d
    WHERE d.ledger_id = a.ledger_id AND d.account_id = a.id)"""

_ACCOUNTS = f"""
SELECT {select_list(AccountView, "a", held=HELD, metadata=METADATA)}
FROM ledger.accounts a WHERE a.ledger_id = :ledger AND
"""
FIND_ACCOUNT = text(f"{_ACCOUNTS} a.id = :account")
FIND_ACCOUNTS = text(f"{_ACCOUNTS} a.id = ANY (CAST(:accounts AS bigint[]))")


def _newest_first(
    shape: type[msgspec.Struct], table: Table, **expressions: ColumnElement[Any]
) -> Select[Any]:
    return (
        select_recorded(shape, table, version=table.c.seq, **expressions)
        .where(table.c.account_id == bindparam("account"), table.c.seq < bindparam("before"))
        .order_by(table.c.seq.desc())
        .limit(bindparam("rows"))
    )


LIST_POLICIES = _newest_first(PolicyView, policies)
FIND_EXTENT = text(f"""
SELECT a.version, a.balance, a.held,
       (SELECT known.epoch FROM ({FIND_EPOCH}) known
        JOIN ({PLACE}) place USING (system_identifier, timeline, database_id, journal_id)) AS epoch
FROM ledger.accounts a WHERE a.ledger_id = :ledger AND a.id = :account
""")


async def find(reader: Reader, account_id: int) -> AccountView | None:
    """The account as it stands, or None."""
    return await find_one(reader, AccountView, FIND_ACCOUNT, account=account_id)


async def find_extent(reader: Reader, account_id: int) -> Extent | None:
    """How far an account's entries go, or None."""
    rows = await reader.rows(FIND_EXTENT, account=account_id)
    return Extent._make(rows[0]) if rows else None


async def list_policies(
    reader: Reader, account_id: int, rows: int, before: int = BIGGEST_ID
) -> list[PolicyView]:
    """Up to `rows` policies of an account with versions below `before`, newest first."""
    values = {"account": account_id, "rows": rows, "before": before}
    return await find_all(reader, PolicyView, LIST_POLICIES, **values)


# The condition of each filter on an account `t`. There is no index of balances: each transfer would
# have to update it.
CONDITIONS = {
    "owner": "t.owner = :owner",
    "currency": "t.currency = :currency",
    "reference": "t.reference = :reference",
    "status": f"""CASE WHEN t.restricted >= {Frozen.CLOSED:d} THEN 'closed'
        WHEN t.restricted > 0 THEN 'frozen' ELSE 'active' END = :status""",
    "min_balance": "t.balance >= :min_balance",
    "max_balance": "t.balance <= :max_balance",
    "since": "t.created_at >= :since",
    "until": "t.created_at < :until",
    "metadata": """(SELECT d.metadata FROM ledger.account_details d WHERE d.ledger_id = :ledger
        AND d.account_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
    "ids": "t.id = ANY (CAST(:ids AS bigint[]))",
}

BY_ID = Listing("ledger.accounts", by=("id",), descending=False, conditions=CONDITIONS)
BY_TIME = Listing(
    "ledger.accounts", by=("created_at", "id"), descending=False, conditions=CONDITIONS
)

_IS_CUSTOMERS = "t.id > 0"

# `+ 0` makes PostgreSQL use the index of metadata, and not the primary key.
_METADATA_MATCHES = """SELECT d.account_id AS id FROM ledger.account_details d
    WHERE d.ledger_id + 0 = :ledger AND d.metadata::jsonb @> CAST(:metadata AS jsonb)"""


async def list_filtered(
    reader: Reader, filters: AccountFilter, rows: int, after: Place | None = None
) -> tuple[list[AccountView], Place | None]:
    """Up to `rows` customers' accounts after the place `after`, and the place after which the next
    page begins; None: there is none. A page can have fewer rows although it is not the last.
    """
    async with search.pinned(reader) as run:
        page = await find_page(run, filters, rows, after)
    ids = [row[-1] for row in page.rows]
    views = await find_all(reader, AccountView, FIND_ACCOUNTS, accounts=ids)
    by_id = {view.id: view for view in views}
    return [by_id[number] for number in ids], page.after


async def list_filtered_of_all(
    readers: Sequence[Reader], filters: AccountFilter, rows: int, after: Place | None = None
) -> tuple[list[AccountView], Place | None]:
    """The same of a ledger with parts, each in a snapshot of its own, in one order."""
    pages = [Page(*await list_filtered(one, filters, rows, after)) for one in readers]
    if len(pages) == 1:
        return pages[0].rows, pages[0].after

    def place_of(view: AccountView) -> Place:
        return (view.created_at, view.id) if filters.by_time else (view.id,)

    page = search.merged(pages, rows, place_of)
    return page.rows, page.after


async def find_page(run: Run, filters: AccountFilter, rows: int, after: Place | None) -> Page:
    """The places of a page of accounts."""
    values = search.filter_values(filters)
    names = frozenset(values)
    values["rows"] = rows
    listing = BY_TIME if filters.by_time else BY_ID
    if after is not None:
        values |= {f"after_{name}": value for name, value in zip(listing.by, after, strict=True)}
    access_paths = list(_access_paths(listing, values, after is not None))
    return await search.find_page(run, listing, access_paths, names, values)


def _access_paths(listing: Listing, values: Values, continues: bool) -> Iterator[AccessPath]:
    """All access paths to the page, in the order in which they are tried: the cheapest first."""
    conditions = [_IS_CUSTOMERS]
    if continues:
        place = ", ".join(f":after_{name}" for name in listing.by)
        conditions.append(f"({listing.place}) > ({place})")
    if "ids" in values:
        yield listing.by_matches(_matches(CONDITIONS["ids"]), conditions, {"ids"})
        return
    if "reference" in values:
        matches = _matches(CONDITIONS["reference"])
        yield listing.by_matches(matches, conditions, {"reference"})
    # The index of restricted accounts does not distinguish frozen from closed ones.
    if values.get("status", "active") != "active":
        restricted = "t.restricted > 0"
        if listing is BY_ID:
            yield listing.in_order([restricted, *conditions], set())
        else:
            yield listing.by_matches(_matches(restricted), conditions, set())
    for name in sorted({"owner", "currency"} & values.keys()):
        if listing is BY_ID:
            values.setdefault("after_id", 0)
            by_name = f"ORDER BY t.{name}, t.id"
            yield listing.in_order([_IS_CUSTOMERS, _within(name)], {name}, by_name)
        else:
            yield listing.by_matches(_matches(CONDITIONS[name]), conditions, {name})
    bounds = [CONDITIONS[name] for name in ("since", "until") if name in values]
    yield listing.in_order([*bounds, *conditions], {"since", "until"})
    if "metadata" in values:
        yield listing.by_matches(
            _METADATA_MATCHES, conditions, {"metadata"}, reads_whole_index=True
        )


def _matches(condition: str) -> str:
    return f"""SELECT t.id FROM ledger.accounts t
        WHERE t.ledger_id = :ledger AND {_IS_CUSTOMERS} AND {condition}"""


def _within(name: str) -> str:
    """In this form PostgreSQL can use only the index of `name` and id, which has their order."""
    return f"(t.{name}, t.id) > (:{name}, :after_id) AND t.{name} <= :{name}"


# Each by its own index.
LIST_NAMED = text("""
SELECT id, reference, currency FROM ledger.accounts
WHERE ledger_id = :ledger AND reference IS NOT NULL AND reference = ANY(:references)
UNION
SELECT id, reference, currency FROM ledger.accounts
WHERE ledger_id = :ledger AND id > 0 AND id = ANY(:ids)
""")


async def list_named(
    reader: Reader, references: Sequence[str], ids: Sequence[int]
) -> list[NamedAccount]:
    """The accounts that have one of these references or ids."""
    rows = await reader.rows(LIST_NAMED, references=list(references), ids=list(ids))
    return [NamedAccount(row.id, row.reference, row.currency) for row in rows]
