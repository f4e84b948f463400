"""The comparison of a store with the journal: the first row that differs.

The store is compared up to its position, which is read first. It may have later rows, and these
must be the journal's too. The journal is read once, and once more for what only the store has. What
has come from another shard was published there: the store need not have it.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice, pairwise
from typing import NamedTuple

from ledgerservice.feed.stores import (
    BUCKET_VERSIONS,
    OPENED,
    Account,
    Head,
    Place,
    Row,
    Span,
    Store,
    WholeHead,
)
from ledgerservice.feed.targets import Published
from ledgerservice.postgres.changes import Arrival, list_arrivals
from ledgerservice.postgres.entries import (
    Entered,
    EntryPlace,
    find_entries,
    find_versions,
    list_entries,
)
from ledgerservice.postgres.epochs import current_epoch
from ledgerservice.postgres.pipeline import Wire

ROWS_AT_ONCE = 2_000
START = EntryPlace(0, -(2**62), 0)


class Difference(NamedTuple):
    """Where a store differs from the journal. `version` 0 is the head of the account."""

    kind: str
    """nothing published, missing, extra, twice, out of order, differing or gone back"""
    ledger_id: int
    account_id: int
    version: int
    detail: str

    def __str__(self) -> str:
        """One line for a person."""
        row = f"version {self.version}" if self.version else "head"
        place = f"ledger {self.ledger_id}, account {self.account_id}, {row}"
        return f"{self.kind}: {place}: {self.detail}" if self.ledger_id else self.detail


class Compared(NamedTuple):
    """How far a comparison is, and what it found last."""

    place: EntryPlace
    rows: int
    difference: Difference | None


async def compare(
    wire: Wire, store: Store, after: EntryPlace = START
) -> AsyncGenerator[Compared, None]:
    """Walk the journal after a place. The first difference is the last thing that it yields.

    Raises TargetFault and psycopg.Error; then it can go on from the last place.
    """
    published = await asyncio.to_thread(store.open)
    fault = await _unpublished(wire, store, published)
    if published is None or fault is not None:
        yield Compared(after, 0, fault)
        return
    walk = _Walk(wire, store, published, await _unpublished_here(wire))
    while listed := await list_entries(wire, after, ROWS_AT_ONCE + 1):
        entries, beyond = listed[:ROWS_AT_ONCE], listed[ROWS_AT_ONCE:]
        goes_on = bool(beyond) and _place(beyond[0])[:2] == _place(entries[-1])[:2]
        difference = await walk.check(entries, is_last=not goes_on)
        after = _place(entries[-1])
        yield Compared(after, len(entries), difference)
        if difference is not None:
            return
    yield Compared(after, 0, await walk.check_places())


async def _unpublished(wire: Wire, store: Store, published: Published | None) -> Difference | None:
    epoch = (await current_epoch(wire, published.witness if published else None)).number
    if published is not None and published.epoch == epoch:
        return None
    detail = f"{store.name} has nothing of epoch {epoch} of the journal."
    return Difference("nothing published", 0, 0, 0, detail)


async def _unpublished_here(wire: Wire) -> dict[int, list[Arrival]]:
    """What was published by another shard, by ledger."""
    arrivals: dict[int, list[Arrival]] = {}
    for one in await list_arrivals(wire):
        arrivals.setdefault(one.ledger, []).append(one)
    return arrivals


def _place(entry: Entered) -> EntryPlace:
    return EntryPlace(entry.ledger_id, entry.line.account_id, entry.line.version)


class _Part(NamedTuple):
    """The entries of an account in a chunk, and whether its last one is among them."""

    account: Account
    rows: dict[int, Row]
    is_last: bool

    @property
    def span(self) -> Span:
        """The versions to look for: beyond the last one to the end of the next bucket."""
        last = max(self.rows)
        if self.is_last:
            last = (last // BUCKET_VERSIONS + 2) * BUCKET_VERSIONS - 1
        return Span(self.account, min(self.rows), last)


class _Walk:
    """The comparison of chunks of the journal with a store."""

    def __init__(
        self,
        wire: Wire,
        store: Store,
        published: Published,
        arrivals: Mapping[int, Sequence[Arrival]],
    ) -> None:
        self._wire = wire
        self._arrivals = arrivals
        self._store = store
        self._epoch = published.epoch
        self._last_id = published.id

    async def check(self, entries: Sequence[Entered], *, is_last: bool) -> Difference | None:
        """The first difference in the accounts of a chunk. `is_last`: it ends with an account."""
        parts = self._parts(entries, is_last=is_last)
        stored = self._store.rows(self._epoch, [part.span for part in parts])
        whole = [part.account for part in parts if part.is_last]
        found_heads = self._store.heads(self._epoch, whole)
        heads = dict(zip(whole, found_heads or (), strict=found_heads is not None))
        later = await self._later(parts, stored, heads)
        for number, part in enumerate(parts):
            known = part.rows | later.get(part.account, {})
            if stored is not None:
                differences = self._row_differences(part, known, stored[number])
                if (difference := next(differences, None)) is not None:
                    return difference
            if part.account in heads:
                difference = self._head_difference(part, known, heads[part.account])
                if difference is not None:
                    return difference
        return None

    def _parts(self, entries: Sequence[Entered], *, is_last: bool) -> list[_Part]:
        parts = [
            _Part(account, {row.version: row for row in self._rows(of_account)}, is_last=True)
            for account, of_account in groupby(entries, lambda one: Account(*_place(one)[:2]))
        ]
        if not is_last:
            parts[-1] = parts[-1]._replace(is_last=False)
        return parts

    def _rows(self, entries: Iterable[Entered]) -> Iterator[Row]:
        for ledger, line in entries:
            yield Row.of(self._epoch, Account(ledger, line.account_id), line)

    async def _later(
        self,
        parts: Sequence[_Part],
        stored: Sequence[Sequence[Row]] | None,
        heads: dict[Account, Head | WholeHead | None],
    ) -> dict[Account, dict[int, Row]]:
        """The journal's rows for what only the store has: what was recorded since it was read."""
        requested: list[EntryPlace] = []
        for number, part in enumerate(parts):
            head = heads.get(part.account)
            versions = {row.version for row in stored[number]} if stored is not None else set()
            if head is not None and head.version is not None:
                versions.add(head.version)
            requested += [
                EntryPlace(*part.account, version) for version in versions - set(part.rows)
            ]
        later: dict[Account, dict[int, Row]] = {}
        for entry in await find_entries(self._wire, requested) if requested else ():
            account = Account(entry.ledger_id, entry.line.account_id)
            [row] = self._rows([entry])
            later.setdefault(account, {})[row.version] = row
        return later

    def _row_differences(
        self, part: _Part, known: dict[int, Row], stored_rows: Sequence[Row]
    ) -> Iterator[Difference]:
        yield from _disorder(part.account, [row.version for row in stored_rows])
        stored = {row.version: row for row in stored_rows}
        for version in sorted(part.rows.keys() | stored.keys()):
            place = *part.account, version
            if version not in known:
                yield Difference("extra", *place, "The journal does not have this row.")
            elif version in stored:
                if stored[version] != known[version]:
                    detail = _fields(known[version], stored[version])
                    yield Difference("differing", *place, detail)
            elif self._is_due(part.account, known[version]):
                yield Difference("missing", *place, "The store does not have this row.")

    def _is_due(self, account: Account, row: Row) -> bool:
        """Whether the store must have a row."""
        return row.transaction_id <= self._last_id and not any(
            one.after < row.transaction_id <= one.last
            for one in self._arrivals.get(account.ledger_id, ())
        )

    def _lacks_opening(self, account: Account) -> bool:
        """Whether a store of whole accounts may know no owner, because that came from elsewhere."""
        return self._store.head is WholeHead and account.ledger_id in self._arrivals

    def _head_difference(
        self, part: _Part, known: dict[int, Row], head: Head | WholeHead | None
    ) -> Difference | None:
        place = *part.account, 0
        rows = part.rows.values()
        due = [row.version for row in rows if self._is_due(part.account, row)]
        newest = max(due, default=0)
        if head is None:
            detail = f"It must have version {newest}."
            is_due = newest and not self._lacks_opening(part.account)
            return Difference("missing", *place, detail) if is_due else None
        if head.version is not None and head.version < newest:
            detail = f"It has version {head.version}, and must have {newest}."
            return Difference("gone back", *place, detail)
        if head.version not in known:
            return Difference("extra", *place, f"The journal has no version {head.version}.")
        row = known[head.version]
        expected = self._store.head.of(row)
        if head == expected:
            return None
        return Difference("differing", *place, _fields(expected, head))

    async def check_places(self) -> Difference | None:
        """What the store has of accounts and versions that the journal has not."""
        places = self._store.places(self._epoch)
        while part := set(islice(places, ROWS_AT_ONCE)):
            accounts = sorted({place.account for place in part})
            versions = await find_versions(self._wire, accounts)
            for place in sorted(part):
                last = versions.get(place.account, OPENED)
                first = OPENED if place.version == OPENED else max(1, place.version)
                if first > last or last == OPENED:
                    return _extra(place, max(0, last))
        return None


def _disorder(account: Account, versions: Sequence[int]) -> Iterator[Difference]:
    for before, after in pairwise(versions):
        if after == before:
            yield Difference("twice", *account, after, "A reader gets this row again.")
        elif after < before:
            detail = f"A reader gets this row after version {before}."
            yield Difference("out of order", *account, after, detail)


def _extra(place: Place, last: int) -> Difference:
    version = max(1, place.version)
    detail = f"The store has something from there on, and the journal has {last} versions."
    return Difference("extra", *place.account, version, detail)


def _fields(expected: Row | Head | WholeHead, found: Row | Head | WholeHead) -> str:
    """The fields that differ."""
    pairs = zip(expected._fields, expected, found, strict=True)
    return ", ".join(f"{name} is {b!r}, not {a!r}" for name, a, b in pairs if a != b) + "."
