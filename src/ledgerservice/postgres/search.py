"""The search for a page of a list that several filters narrow.

A filter that has an index in the order of the list is a way to the page, and so is one whose index
has all that match in no order, if these are few. None knows how far its page is: so all are tried
with a small budget of rows, then with a larger one, until one has the page. That costs a few times
what the best of them does, whatever matches, rare or frequent, now or long ago. What is not found
with the largest budget is looked for by the next page: this one ends where the search has come to.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.reader import Reader

PINS = text("""
SELECT set_config(name, 'off', true)
FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) AS name
""")

FIRST_BUDGET_ROWS = 1_000
BUDGET_GROWTH = 4
LAST_BUDGET_ROWS = 64_000
FEW_SOURCES = 20
"""Each of so few is asked for its page; more are worth a try."""

Values = dict[str, Any]
Place = tuple[Any, ...]
Run = Callable[[str, Values], Awaitable[list[Any]]]
"""Runs a statement with its values; its rows."""


class Listing(msgspec.Struct, frozen=True):
    """A list in the order of the columns `by` of its rows `t`, all ascending or all descending.

    A row of a page is its place, which is its values of `by`, then `columns`; `beside` joins what
    these need. `conditions` is what each filter asks of `t`, wherever it was found.
    """

    by: tuple[str, ...]
    descending: bool
    conditions: Mapping[str, str]
    columns: tuple[str, ...] = ()
    beside: str = ""

    @property
    def place(self) -> str:
        """The columns of a place."""
        return ", ".join(f"t.{name}" for name in self.by)

    @property
    def order(self) -> str:
        """ORDER BY, as the list has it."""
        return self._ordered(self.descending)

    @property
    def backwards(self) -> str:
        """ORDER BY, the other way round."""
        return self._ordered(not self.descending)

    def _ordered(self, descending: bool) -> str:
        direction = "DESC" if descending else "ASC"
        return "ORDER BY " + ", ".join(f"t.{name} {direction}" for name in self.by)

    def farther(self, one: Place, other: Place) -> bool:
        """Whether `one` comes later in the list."""
        return one < other if self.descending else one > other


class Way(msgspec.Struct, frozen=True):
    """A way to the page: `candidates`, and the filters that all of them `fulfil`.

    In order of the list there are at most :budget of them, and so many are read for each of the
    `sources`. Where they are not in order, `matches` finds their ids, and the way can be gone if
    these are at most :budget. `to_the_end`: however few are counted, their index is read to its
    end.
    """

    candidates: str
    fulfil: frozenset[str]
    sources: int = 1
    matches: str | None = None
    to_the_end: bool = False


class Page(msgspec.Struct, frozen=True):
    """A page of a list, and the place after which the list goes on; None: it was the last."""

    rows: list[Any]
    after: Place | None


@asynccontextmanager
async def pinned(reader: Reader) -> AsyncIterator[Run]:
    """Runs statements that enter each table by an index, whatever the server believes, and all see
    the same: how far a page has reached is asked for after it.
    """
    async with reader.connection(search=True) as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(PINS)  # for this transaction

        async def run(statement: str, values: Values) -> list[Any]:
            found = await connection.execute(
                text(statement), {"ledger": reader.ledger_id, **values}
            )
            return [tuple(row) for row in found]

        yield run


def given(wanted: msgspec.Struct) -> Values:
    """The fields of a filter that are not None."""
    return {n: v for n, v in msgspec.structs.asdict(wanted).items() if v is not None}


async def search(
    run: Run, listing: Listing, ways: Sequence[Way], asked: frozenset[str], values: Values
) -> Page:
    """The page of up to values["rows"] rows which fulfil all the filters that are asked.

    There may be fewer in a page which is not the last. Each statement is put together of
    constants; whatever a caller sends is a value.
    """
    rows = values["rows"]
    values = values | {"rows": rows + 1}
    for way in ways:
        if way.matches is None and asked <= way.fulfil and way.sources <= FEW_SOURCES:
            found = await run(_listed(listing, way, asked), values | {"budget": rows + 1})
            return _page(listing, found, rows)
    budget = max(FIRST_BUDGET_ROWS, rows + 1)
    counted: dict[Way, int] = {}
    while True:
        farthest: Page | None = None
        for way in ways:
            within = values | {"budget": budget}
            if way.matches is not None and not await _are_few(run, way, within, counted):
                continue
            page = await _gone(run, listing, way, asked, within)
            if page is None:
                continue
            if page.after is None:
                return _page(listing, page.rows, rows)
            if not (farthest and farthest.after and listing.farther(farthest.after, page.after)):
                farthest = page
        if farthest and budget >= LAST_BUDGET_ROWS:
            return farthest
        budget *= BUDGET_GROWTH


def _page(listing: Listing, found: list[Any], rows: int) -> Page:
    """What was found, of which one more than there is room for says that the list goes on."""
    after = found[rows - 1][: len(listing.by)] if len(found) > rows else None
    return Page(found[:rows], after)


async def _gone(
    run: Run, listing: Listing, way: Way, asked: frozenset[str], values: Values
) -> Page | None:
    """What the budget finds on this way, and how far that was, if not to the end of the list."""
    if way.matches is not None:
        return Page(await run(_listed(listing, way, asked), values), None)
    budget = values["budget"] // way.sources
    if budget < values["rows"]:
        return None
    values = values | {"budget": budget}
    found = await run(_listed(listing, way, asked), values)
    if len(found) == values["rows"]:
        return Page(found, None)
    reached = await run(
        f"""SELECT {listing.place}, count(*) OVER () FROM ({way.candidates}) t
            {listing.backwards} LIMIT 1""",
        values,
    )
    if not reached or reached[0][-1] < budget:
        return Page(found, None)
    return Page(found, tuple(reached[0][:-1]))


async def _are_few(run: Run, way: Way, values: Values, counted: dict[Way, int]) -> bool:
    """Whether a way's matches are within the budget. Those whose index is read to its end for that
    are counted once, for all tries.
    """
    assert way.matches is not None
    budget = int(values["budget"])
    if not way.to_the_end:
        return await count(run, way.matches, values) <= budget
    if way not in counted:
        most = max(budget, LAST_BUDGET_ROWS)
        counted[way] = await count(run, way.matches, values | {"budget": most})
    return counted[way] <= budget


async def count(run: Run, statement: str, values: Values) -> int:
    """The number of rows, counted up to one more than the budget."""
    counted = f"SELECT count(*) FROM (SELECT FROM ({statement}) t LIMIT :budget + 1) t"
    [(number,)] = await run(counted, values)
    return int(number)


def _listed(listing: Listing, way: Way, asked: frozenset[str]) -> str:
    """What of a way's candidates is asked for, as many as there is room for."""
    rest = [listing.conditions[name] for name in sorted(asked - way.fulfil)]
    return f"""
        SELECT {", ".join([listing.place, *listing.columns])}
        FROM (SELECT t.* FROM ({way.candidates}) t
              WHERE {" AND ".join(["true", *rest])} {listing.order} LIMIT :rows) t
        {listing.beside} {listing.order}
    """
