"""Chunks of ids: every shard gives out ids that no other one does.

A shard's sequences end where its chunks end. The next chunk is leased when three quarters of one
are used. A lease is a row of the directory; then the shard's sequence goes on in the chunk. Whoever
finds a lease that the shard has not taken takes it.
"""

import asyncio
import time
from typing import NamedTuple

from psycopg.errors import LockNotAvailable

from ledgerservice.errors import ShardFault, WrongDatabase
from ledgerservice.postgres.pipeline import Request, Wire, number

SEQUENCES = ("transaction_id", "account_id", "webhook_id", "webhook_delivery_id")
CHUNK_BITS = 36
CHUNK_IDS = 1 << CHUNK_BITS
BLOCK_IDS = 100
"""A transaction takes as many ids at once: a sequence ends so long before its chunk does."""

GIVE_UP_S = 10.0
PAUSE_S = 0.2

# For a shard one process at a time, until its connection ends: two would lease two chunks.
LOCK = "SELECT pg_try_advisory_lock(2020084, hashtext($1::text))"
LEASED = """
SELECT sequence, max(number) FROM ledger.chunks WHERE shard = $1::text GROUP BY sequence
"""
LEASE = "SELECT ledger.lease_chunk($1::text, $2::text)"
TAKE = "SELECT ledger.take_chunk($1::text, $2::bigint)"
STATES = " UNION ALL ".join(
    f"SELECT '{name}', l.last_value, s.seqmax FROM ledger.{name} l, pg_sequence s"
    f" WHERE s.seqrelid = 'ledger.{name}'::regclass"
    for name in SEQUENCES
)


class SequenceState(NamedTuple):
    """A sequence of a shard: the last id that it gave out, and where it ends."""

    name: str
    last_value: int
    end: int


class Chunk(NamedTuple):
    """The ids of a sequence from `first` on."""

    sequence: str
    number: int

    @property
    def first(self) -> int:
        """The first id of the chunk."""
        return self.number << CHUNK_BITS

    @property
    def end(self) -> int:
        """The largest value that the sequence may have."""
        return self.first + CHUNK_IDS - BLOCK_IDS

    def is_taken(self, state: SequenceState) -> bool:
        """Whether the sequence is in the chunk, and ends with it."""
        return state.last_value >= self.first and state.end == self.end

    def is_low(self, state: SequenceState) -> bool:
        """Whether three quarters of the chunk are used."""
        return state.last_value - self.first > CHUNK_IDS * 3 // 4


async def keep(directory: Wire, shard: Wire, name: str) -> list[Chunk]:
    """Lease what a shard needs, and let its sequences go on in their chunks; return what was taken.

    The connection to the directory is closed afterwards. Raises psycopg's errors, ShardFault if
    another process does it and does not end, and WrongDatabase if the shard has ids beyond its
    chunks: then one of both was restored from a backup, and ids could be given out twice.
    """
    if not await _wanting(directory, shard, name):
        return []
    await _lock(directory, name)
    taken = []
    for state, chunk in await _wanting(directory, shard, name):
        if chunk.number < 0 or chunk.is_taken(state):
            chunk = await _lease(directory, name, state.name)  # noqa: PLW2901  (the next one)
        await _take(shard, chunk)
        taken.append(chunk)
    return taken


async def _wanting(directory: Wire, shard: Wire, name: str) -> list[tuple[SequenceState, Chunk]]:
    """The sequences that need another chunk, each with the last one that was leased for it."""
    # The states first: they are never beyond what is leased later.
    [states] = await shard.exchange(Request(STATES))
    [leased] = await directory.exchange(Request(LEASED, [name.encode()]))
    numbers: dict[str, int] = dict(leased.rows)
    wanting = []
    for state in (SequenceState(*row) for row in states.rows):
        chunk = Chunk(state.name, numbers.get(state.name, -1))
        if chunk.number >= 0 and state.last_value > chunk.end:
            raise WrongDatabase(f"{state.name} is beyond the ids that the directory has given it.")
        if chunk.number < 0 or chunk.is_low(state) or not chunk.is_taken(state):
            wanting.append((state, chunk))
    return wanting


async def _lock(directory: Wire, name: str) -> None:
    end_s = time.monotonic() + GIVE_UP_S
    while True:
        [locked] = await directory.exchange(Request(LOCK, [name.encode()]))
        if locked.rows[0][0]:
            return
        if time.monotonic() > end_s:
            raise ShardFault(f"Another process is looking after the ids of {name}.")
        await asyncio.sleep(PAUSE_S)


async def _take(shard: Wire, chunk: Chunk) -> None:
    """Take a chunk as soon as nobody has an id and has not committed. Others wait for 0.3 s."""
    end_s = time.monotonic() + GIVE_UP_S
    while True:
        try:
            await shard.exchange(Request(TAKE, [chunk.sequence.encode(), number(chunk.number)]))
        except LockNotAvailable:
            if time.monotonic() > end_s:
                raise
        else:
            return
        await asyncio.sleep(PAUSE_S)


async def _lease(directory: Wire, name: str, sequence: str) -> Chunk:
    [leased] = await directory.exchange(Request(LEASE, [name.encode(), sequence.encode()]))
    return Chunk(sequence, leased.rows[0][0])
