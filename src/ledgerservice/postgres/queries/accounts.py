"""The list of accounts by any filter, by id or by when they were opened, a page at a time.

What each filter asks, and the indexes by which it finds its rows; `ways` has the search.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from ledgerservice.domain.views import AccountView
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.search import (
    Listing,
    Page,
    Place,
    Run,
    Values,
    Way,
    given,
    pinned,
    search,
)


class AccountFilter(msgspec.Struct, frozen=True):
    """Which accounts are listed; None: all. `status` is active, frozen or closed; `metadata` the
    text of a JSON object that theirs contain; `least` and `most` are of the balance, in minor units
    of `currency`; [since, until) is when they were opened, which the list is ordered by then.
    """

    owner: str | None = None
    currency: str | None = None
    reference: str | None = None
    status: str | None = None
    least: int | None = None
    most: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    metadata: str | None = None

    @property
    def by_time(self) -> bool:
        """Whether the list is by when the accounts were opened, instead of by id."""
        return self.since is not None or self.until is not None


# What each filter asks of an account `t`, wherever it was found. A balance has no index: each
# transfer would have to keep it.
CONDITIONS = {
    "owner": "t.owner = :owner",
    "currency": "t.currency = :currency",
    "reference": "t.reference = :reference",
    "status": """CASE WHEN t.restricted >= 4 THEN 'closed' WHEN t.restricted > 0 THEN 'frozen'
        ELSE 'active' END = :status""",
    "least": "t.balance >= :least",
    "most": "t.balance <= :most",
    "since": "t.created_at >= :since",
    "until": "t.created_at < :until",
    "metadata": """(SELECT d.metadata FROM ledger.account_details d WHERE d.ledger_id = :ledger
        AND d.account_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
}

BY_ID = Listing(by=("id",), descending=False, conditions=CONDITIONS)
BY_TIME = Listing(by=("created_at", "id"), descending=False, conditions=CONDITIONS)

# Written so that the index of metadata is entered, and not that of the ledger's accounts.
_METADATA = """SELECT d.account_id AS id FROM ledger.account_details d
    WHERE d.ledger_id + 0 = :ledger AND d.metadata::jsonb @> CAST(:metadata AS jsonb)"""


async def accounts(
    reader: Reader, wanted: AccountFilter, rows: int, after: Place | None = None
) -> tuple[list[AccountView], Place | None]:
    """Up to `rows` customers' accounts after that place; and the place after which there are more,
    which may be of a page that is not full.
    """
    async with pinned(reader) as run:
        found = await page(run, wanted, rows, after)
    return await reader.accounts([place[-1] for place in found.rows]), found.after


async def page(run: Run, wanted: AccountFilter, rows: int, after: Place | None) -> Page:
    """The places of a page of accounts."""
    values = given(wanted)
    asked = frozenset(values)
    values["rows"] = rows
    listing = BY_TIME if wanted.by_time else BY_ID
    if after is not None:
        values |= {f"after_{name}": value for name, value in zip(listing.by, after, strict=True)}
    ways = list(_ways(listing, values, after is not None))
    return await search(run, listing, ways, asked, values)


def _ways(listing: Listing, values: Values, goes_on: bool) -> Iterator[Way]:
    """All ways to what is asked; what is cheaper to try comes first."""
    rest = [_THEIRS]
    if goes_on:
        place = ", ".join(f":after_{name}" for name in listing.by)
        rest.append(f"({listing.place}) > ({place})")
    if "reference" in values:
        yield _by_matches(_some(CONDITIONS["reference"]), rest, {"reference"})
    # The index of what is not active does not tell frozen from closed.
    if values.get("status", "active") != "active":
        restricted = "t.restricted > 0"
        if listing is BY_ID:
            yield _in_order(listing.order, [restricted, *rest], set())
        else:
            yield _by_matches(_some(restricted), rest, set())
    for name in sorted({"owner", "currency"} & values.keys()):
        if listing is BY_ID:
            values.setdefault("after_id", 0)
            yield _in_order(f"ORDER BY t.{name}, t.id", [_THEIRS, _along(name)], {name})
        else:
            yield _by_matches(_some(CONDITIONS[name]), rest, {name})
    bounds = [CONDITIONS[name] for name in ("since", "until") if name in values]
    yield _in_order(listing.order, [*bounds, *rest], {"since", "until"})
    if "metadata" in values:
        yield _by_matches(_METADATA, rest, {"metadata"})


_THEIRS = "t.id > 0"  # those of customers


def _some(condition: str) -> str:
    return f"""SELECT t.id FROM ledger.accounts t
        WHERE t.ledger_id = :ledger AND {_THEIRS} AND {condition}"""


def _along(name: str) -> str:
    """Written so that it is the index of the name, and no other, which has them in order."""
    return f"(t.{name}, t.id) > (:{name}, :after_id) AND t.{name} <= :{name}"


def _in_order(order: str, conditions: list[str], fulfil: set[str]) -> Way:
    """Along an index that has what fulfils the conditions in the order of the list."""
    return Way(
        f"""SELECT t.* FROM ledger.accounts t
            WHERE t.ledger_id = :ledger AND {" AND ".join(conditions)} {order} LIMIT :budget""",
        frozenset(fulfil),
    )


def _by_matches(matches: str, rest: list[str], fulfil: set[str]) -> Way:
    """By an index that has all that match, though not in the order of the list."""
    return Way(
        f"""SELECT t.* FROM ledger.accounts t
            WHERE t.ledger_id = :ledger AND t.id = ANY (ARRAY({matches}))
              AND {" AND ".join(rest)}""",
        frozenset(fulfil),
        matches=matches,
        to_the_end=matches is _METADATA,
    )
