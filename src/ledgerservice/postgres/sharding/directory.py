"""Where each ledger is, as a process knows it: read together with the keys, every second."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from ledgerservice.postgres.pipeline import Request, Rows
from ledgerservice.postgres.sharding.identity import MAIN

STALE_S = 5.0
"""A directory that was read longer ago is not used: a ledger may have been moved meanwhile."""

READ_DIRECTORY = Request(
    """
SELECT s.name, h.ledgers, h.generations FROM ledger.shards s, LATERAL (
    SELECT array_agg(ledger_id) AS ledgers, array_agg(generation) AS generations
    FROM ledger.homes WHERE shard = s.name) h
ORDER BY s.number
"""
)


class Homes(NamedTuple):
    """The shards in the order in which they were added, and the shard of each ledger in `homes`.

    Of those that were moved, or were to be moved, also the generation. Without other shards all
    are empty.
    """

    shards: tuple[str, ...] = ()
    by_ledger: Mapping[int, str] = {}
    generations: Mapping[int, int] = {}


def homes_of(rows: Rows) -> Homes:
    """What the rows of READ_DIRECTORY say."""
    homes = {ledger: name for name, ledgers, _ in rows for ledger in ledgers or ()}
    generations = {
        ledger: generation
        for _, *pair in rows
        for ledger, generation in zip(*(one or () for one in pair), strict=True)
        if generation
    }
    return Homes(tuple(name for name, *_ in rows), homes, generations)


class Directory:
    """The homes as they were last read, and the first homes of ledgers that were looked up since.

    A ledger that was added after the last reading is found by its name, together with its home.
    """

    def __init__(self) -> None:
        self.homes = Homes()
        self.first: dict[int, str] = {}
        self._fresh_until = 0.0

    def update(self, rows: Rows, read_s: float) -> None:
        """Take the rows of READ_DIRECTORY; `read_s` is when it was sent, on the monotonic clock."""
        self.homes = homes_of(rows)
        self._fresh_until = read_s + STALE_S

    @property
    def is_usable(self) -> bool:
        """Whether it was read recently, or there is one database only."""
        return not self.homes.shards or time.monotonic() < self._fresh_until

    def home_of(self, ledger: int) -> str | None:
        """The shard of a ledger; None if the ledger was not looked up yet."""
        return self.homes.by_ledger.get(ledger) or self.first.get(ledger)

    def generation_of(self, ledger: int) -> int:
        """The generation of a ledger's home, which each run of a move raises; 0: it never moved."""
        return self.homes.generations.get(ledger, 0)

    def emptiest(self, among: set[str]) -> str:
        """The shard with the fewest ledgers, of those that are not main; main if there is none."""
        return next(iter(self.by_room(among)), MAIN)

    def by_room(self, among: set[str]) -> list[str]:
        """The shards that are not main, those with the fewest ledgers first."""
        counts = dict.fromkeys([name for name in self.homes.shards if name in among], 0)
        counts.pop(MAIN, None)
        for shard in self.homes.by_ledger.values():
            if shard in counts:
                counts[shard] += 1
        return sorted(counts, key=counts.__getitem__)
