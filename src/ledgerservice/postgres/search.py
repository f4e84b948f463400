"""The search for a page of a list that several filters narrow.

An access path reads one index. Either this index has the order of the list, or it finds all rows
that match a filter, in no order, which is usable when they are few. How many rows an access path
reads before it has the page is not known in advance. So all of them are tried with a small budget
of rows, then with a larger one, until one has the page. This costs a few times what the best access
path costs, whether matching rows are rare or frequent, recent or old. If none has the page within
the largest budget, the page ends where the search has stopped, and the next page continues there.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.reader import Reader

PINS = text("""
SELECT set_config(name, 'off', true)
FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'enable_sort', 'jit'])
    AS name
""")

FIRST_BUDGET_ROWS = 1_000
BUDGET_GROWTH = 4
LAST_BUDGET_ROWS = 64_000
FEW_SOURCES = 20
"""An access path with at most so many sources reads a whole page from each, without a budget."""

Values = dict[str, Any]
Place = tuple[Any, ...]
Run = Callable[[str, Values], Awaitable[list[Any]]]
"""Runs a statement with its values and returns its rows."""


class Page(msgspec.Struct, frozen=True):
    """A page of a list, and the place after which the next page begins; None: it is the last."""

    rows: list[Any]
    after: Place | None


class AccessPath(msgspec.Struct, frozen=True):
    """SQL for candidate rows `t`, all of which match the filters that it `fulfils`.

    Candidates in the order of the list are at most :budget rows, read from each of `sources`
    places of the index. Candidates in no order are those whose ids `matches` finds. The access path
    is then usable when at most :budget rows match. `reads_whole_index`: even a bounded count of
    the matches reads the index to its end.
    """

    candidates: str
    fulfils: frozenset[str]
    sources: int = 1
    matches: str | None = None
    reads_whole_index: bool = False

    def is_enough(self, filters: frozenset[str]) -> bool:
        """Whether the first candidates are the page, so that no other access path is needed."""
        return self.matches is None and filters <= self.fulfils and self.sources <= FEW_SOURCES


class Listing(msgspec.Struct, frozen=True):
    """A list of rows `t`, ordered by the columns `by`, all in the same direction.

    `source` is the SQL of these rows: a table, or a subquery of one that has further columns.
    A row of a page consists of its place, which is its values of `by`, and of `columns`; `joins`
    joins the tables of these. `conditions` has the SQL condition of each filter.
    """

    source: str
    by: tuple[str, ...]
    descending: bool
    conditions: Mapping[str, str]
    columns: tuple[str, ...] = ()
    joins: str = ""

    @property
    def place(self) -> str:
        """The columns of a place."""
        return ", ".join(f"t.{name}" for name in self.by)

    def order(self, *, reverse: bool = False) -> str:
        """ORDER BY, in the order of the list or in the opposite one."""
        direction = "DESC" if self.descending != reverse else "ASC"
        return "ORDER BY " + ", ".join(f"t.{name} {direction}" for name in self.by)

    def farthest(self, pages: list[Page]) -> Page:
        """The page that ends last in the order of the list."""
        return (min if self.descending else max)(pages, key=lambda page: page.after or ())

    def matching(self, conditions: Iterable[str]) -> str:
        """SQL for all rows that match the conditions."""
        return f"""SELECT t.* FROM {self.source} t
            WHERE t.ledger_id = :ledger AND {" AND ".join(conditions)}"""

    def first(self, conditions: Iterable[str], order: str = "") -> str:
        """SQL for the first :budget rows that match the conditions."""
        return f"{self.matching(conditions)} {order or self.order()} LIMIT :budget"

    def in_order(self, conditions: Iterable[str], fulfils: Set[str], order: str = "") -> AccessPath:
        """By an index that has the rows of the conditions in the order of the list."""
        return AccessPath(self.first(conditions, order), frozenset(fulfils))

    def by_matches(
        self,
        matches: str,
        conditions: Iterable[str],
        fulfils: Set[str],
        *,
        reads_whole_index: bool = False,
    ) -> AccessPath:
        """By an index that finds all matching rows in no order. They are few, and OFFSET 0 lets
        them be sorted, instead of being picked out of an index that has the order.
        """
        candidates = self.matching([f"t.id = ANY (ARRAY({matches}))", *conditions]) + " OFFSET 0"
        return AccessPath(
            candidates, frozenset(fulfils), 1, matches, reads_whole_index=reads_whole_index
        )


@asynccontextmanager
async def pinned(reader: Reader) -> AsyncIterator[Run]:
    """Runs statements that use an index for each table, whatever the statistics say. All of them
    see one snapshot, so that nothing is committed between a page and the search for its end.
    """
    async with reader.connection(search=True) as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(PINS)  # for this transaction

        async def run(statement: str, values: Values) -> list[Any]:
            result = await connection.execute(
                text(statement), {"ledger": reader.ledger_id, **values}
            )
            return [tuple(row) for row in result]

        yield run


def filter_values(filters: msgspec.Struct) -> Values:
    """The fields of a filter struct that are not None."""
    return {n: v for n, v in msgspec.structs.asdict(filters).items() if v is not None}


async def find_page(
    run: Run,
    listing: Listing,
    access_paths: Sequence[AccessPath],
    filters: frozenset[str],
    values: Values,
) -> Page:
    """The page of up to values["rows"] rows that match all `filters`.

    A page that is not the last can have fewer rows. The statements are made of constants; what a
    caller sends is only ever a value.
    """
    rows = values["rows"]
    page = await _Search(run, listing, filters, values | {"rows": rows + 1}).page(access_paths)
    if len(page.rows) <= rows:
        return page
    return Page(page.rows[:rows], page.rows[rows - 1][: len(listing.by)])


@dataclass
class _Search:
    """One search. `values["rows"]` is one more than the page has, to see whether more follow."""

    run: Run
    listing: Listing
    filters: frozenset[str]
    values: Values
    counts: dict[tuple[AccessPath, int], int] = field(default_factory=dict)

    async def page(self, access_paths: Sequence[AccessPath]) -> Page:
        """A page with up to values["rows"] rows, or with `after` if the search has stopped."""
        for path in access_paths:
            if path.is_enough(self.filters):
                return Page(await self._found_rows(path, self.values["rows"]), None)
        budget = max(FIRST_BUDGET_ROWS, self.values["rows"])
        while True:
            unfinished_pages = []
            for path in access_paths:
                page = await self._try(path, budget)
                if page is not None and page.after is None:
                    return page
                unfinished_pages += [] if page is None else [page]
            if unfinished_pages and budget >= LAST_BUDGET_ROWS:
                return self.listing.farthest(unfinished_pages)
            budget *= BUDGET_GROWTH

    async def _try(self, path: AccessPath, budget: int) -> Page | None:
        """What an access path finds within the budget, and the place that it has reached if that
        is not the end of the list. None if it is not usable.
        """
        if path.matches is not None:
            usable = await self._count_of_matches(path, path.matches, budget) <= budget
            return Page(await self._found_rows(path, budget), None) if usable else None
        budget //= path.sources
        if budget < self.values["rows"]:
            return None
        rows = await self._found_rows(path, budget)
        is_full = len(rows) == self.values["rows"]
        return Page(rows, None if is_full else await self._reached(path, budget))

    async def _count_of_matches(self, path: AccessPath, matches: str, budget: int) -> int:
        """The number of matches, counted up to the budget and one. For all budgets at once if each
        count reads the whole index.
        """
        bound = max(budget, LAST_BUDGET_ROWS) if path.reads_whole_index else budget
        if (path, bound) not in self.counts:
            number = await count(self.run, matches, self.values | {"budget": bound})
            self.counts[path, bound] = number
        return self.counts[path, bound]

    async def _reached(self, path: AccessPath, budget: int) -> Place | None:
        """The place of the last candidate; None if there are fewer than the budget."""
        statement = f"""SELECT {self.listing.place}, count(*) OVER () FROM ({path.candidates}) t
            {self.listing.order(reverse=True)} LIMIT 1"""
        rows = await self.run(statement, self.values | {"budget": budget})
        return tuple(rows[0][:-1]) if rows and rows[0][-1] >= budget else None

    async def _found_rows(self, path: AccessPath, budget: int) -> list[Any]:
        """The first candidates that match the filters which the access path does not fulfil."""
        listing, order = self.listing, self.listing.order()
        rest = [listing.conditions[name] for name in sorted(self.filters - path.fulfils)]
        conditions = " AND ".join(["true", *rest])
        statement = f"""
            SELECT {", ".join([listing.place, *listing.columns])}
            FROM (SELECT t.* FROM ({path.candidates}) t
                  WHERE {conditions} {order} LIMIT :rows) t
            {listing.joins} {order}
        """
        return await self.run(statement, self.values | {"budget": budget})


def merged(
    pages: Sequence[Page],
    rows: int,
    place_of: Callable[[Any], Place],
    *,
    descending: bool = False,
) -> Page:
    """A page of up to `rows` rows of a ledger with parts, of a page of each part.

    A place is one in the order of all parts, so the same place continues each of them. Only what
    each part has looked through is returned: a part that stopped early may have rows after that.
    """
    ends = [page.after for page in pages if page.after is not None]
    end = (max if descending else min)(ends, default=None)
    by_place = {place_of(row): row for page in pages for row in page.rows}
    places = sorted(by_place, reverse=descending)
    if end is not None:
        places = [one for one in places if (one >= end if descending else one <= end)]
    if len(places) > rows:
        places, end = places[:rows], places[rows - 1]
    return Page([by_place[one] for one in places], end)


async def count(run: Run, statement: str, values: Values) -> int:
    """The number of rows of a statement, counted up to the budget and one."""
    counted = f"SELECT count(*) FROM (SELECT FROM ({statement}) t LIMIT :budget + 1) t"
    [(number,)] = await run(counted, values)
    return int(number)
