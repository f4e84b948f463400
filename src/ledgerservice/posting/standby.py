"""Reads from a standby, each with its age. What is missing, late or too old is read elsewhere.

A standby has everything that was answered before the commit that it replayed last: a commit takes
its time before it writes to the log. So that this time advances while nothing is recorded, each
process that reads from a standby commits something on the primary now and then.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import psycopg

from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.errors import LedgerError, StandbyUnfit
from ledgerservice.postgres.journal import WRITE_BARRIER
from ledgerservice.postgres.pipeline import Request, Wire
from ledgerservice.postgres.queries.accounts import AccountView, HistoryEntry
from ledgerservice.postgres.queries.gathered.accounts import (
    AccountRead,
    HistoryRead,
    find_accounts,
    list_histories,
)
from ledgerservice.posting.poster import Limits, Poster

log = logging.getLogger(__name__)

DEADLINE_S = 0.5
REST_S = 1.0  # after a failure; meanwhile nothing is tried
BEATS = 4  # in the age that is allowed
BEAT_LIMIT_S = 5.0
LOOK_S = 1.0
"""Interval at which the primary is looked at, if the age that is allowed is long."""
MAX_READS = 1_000  # that wait, and that are gathered

Connect = Callable[[], Awaitable[Wire]]
Read = TypeVar("Read", bound=tuple[int, ...])
Row = TypeVar("Row")

# Before the rows are read: they are as new as this, or newer. A standby notes the timeline that it
# replays when it writes its files, so some time after its primary was replaced.
AGE = Request(
    """
    SELECT pg_is_in_recovery(), replayed_at,
           (extract(epoch FROM clock_timestamp() - replayed_at) * 1000)::bigint,
           greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                    (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
    FROM pg_last_xact_replay_timestamp() replayed_at
    """
)
# A standby has the number of its primary, and of each database.
_PLACE = """
    system_identifier, (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
    FROM pg_control_system()
"""
PLACE = Request(f"SELECT {_PLACE}")
PRIMARY = Request(
    f"""
    SELECT clock_timestamp(),
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint, {_PLACE}
    """
)


class Primary(NamedTuple):
    """The primary `at` a time by its clock; `known_s` is that time on the monotonic clock."""

    at: datetime
    timeline: int
    place: tuple[Any, ...]
    known_s: float


class Aged(NamedTuple, Generic[Row]):
    """What a standby has: all that was answered before `as_of`, by the clock of the primary.

    `age_ms` is the time since then when the row was read, by the clock of the standby.
    """

    row: Row
    as_of: datetime
    age_ms: int


class StandbyAccount(AccountView, frozen=True, kw_only=True):
    """An account as a standby has it. `as_of` and `age_ms` are those of `Aged`."""

    as_of: datetime
    age_ms: int


class Standby:
    """Reads from a standby. A read that it cannot answer is None, and no exception."""

    def __init__(self, connect: Connect, lag_s: float) -> None:
        """`lag_s` is the age up to which the standby answers."""
        self._connect = connect
        self._lag_ms = lag_s * 1_000
        self.primary: Primary | None = None
        """As it was last seen. A standby of another one lacks what this one has recorded."""
        self._rests_until_s = 0.0
        self._fault: str | None = None
        limits = Limits(MAX_READS, MAX_READS, DEADLINE_S)
        self._accounts: Poster[AccountRead, Aged[AccountView | None]] = Poster(
            self._checked, self._with_age(find_accounts), limits, name="standby_accounts"
        )
        self._histories: Poster[HistoryRead, Aged[list[HistoryEntry]]] = Poster(
            self._checked, self._with_age(list_histories), limits, name="standby_histories"
        )

    async def find(
        self, ledger_id: int, account_id: int, min_version: int = 0
    ) -> StandbyAccount | None:
        """The account, if the standby has `min_version` or a newer one."""
        aged = await self._read(self._accounts, AccountRead(ledger_id, account_id))
        if aged is None or aged.row is None or aged.row.version < min_version:
            return None
        fields = msgspec.structs.asdict(aged.row)
        return StandbyAccount(**fields, as_of=aged.as_of, age_ms=aged.age_ms)

    async def page(
        self, read: HistoryRead, min_version: int = 0
    ) -> Aged[list[HistoryEntry]] | None:
        """The entries of an account, if the newest is the one that must be: of `min_version` or
        newer, and on a later page the one next to the page before.
        """
        aged = await self._read(self._histories, read)
        if aged is None or not aged.row:
            return None
        newest = aged.row[0].version
        if read.before == BIGGEST_ID:
            return aged if newest >= min_version else None
        return aged if newest == read.before - 1 else None

    async def close(self) -> None:
        """Disconnect."""
        await self._accounts.close()
        await self._histories.close()

    async def _read(self, reads: "Poster[Read, Aged[Row]]", read: Read) -> Aged[Row] | None:
        """What is not too old; None without another try if one has failed just now."""
        now_s = asyncio.get_running_loop().time
        if now_s() < self._rests_until_s:
            return None
        try:
            aged = await reads.post(read)
        except LedgerError as error:
            self._rests_until_s = now_s() + REST_S
            self._report(str(error))
            return None
        is_late = aged.age_ms > self._lag_ms
        self._report(f"is {aged.age_ms} ms behind" if is_late else None)
        return None if is_late else aged

    def _report(self, fault: str | None) -> None:
        if (fault is None) != (self._fault is None):
            log.warning("the standby: %s", fault or "answers again")
        self._fault = fault

    async def _checked(self) -> Wire:
        """A connection. Raises Unavailable if it leads to another server or database."""
        wire = await self._connect()
        try:
            [answer] = await wire.exchange(PLACE)
            self._check(answer.rows[0])
        except BaseException:
            await wire.close()
            raise
        return wire

    def _check(self, place: tuple[Any, ...]) -> None:
        if place != self._known_primary().place:
            raise StandbyUnfit("It is of another database than DATABASE_URL.")

    def _known_primary(self) -> Primary:
        if self.primary is None:
            raise StandbyUnfit("The primary has not been seen yet.")
        return self.primary

    def _with_age(
        self, find: Callable[[Wire, list[Read]], Awaitable[list[Row]]]
    ) -> Callable[[Wire, list[Read]], Awaitable[list[Aged[Row]]]]:
        """The reads of `find`, each with the age of the standby."""

        async def find_with_age(wire: Wire, reads: list[Read]) -> list[Aged[Row]]:
            begun_s, primary = time.monotonic(), self._known_primary()
            [answer] = await wire.exchange(AGE)
            is_standby, replayed_at, age_ms, timeline = answer.rows[0]
            if not is_standby or replayed_at is None:
                raise StandbyUnfit("It was promoted, or has replayed nothing yet.")
            if timeline != primary.timeline:
                raise StandbyUnfit("It follows another primary than DATABASE_URL, or did just now.")
            rows = await find(wire, reads)
            now_s = time.monotonic()
            # Whoever was the primary then may not be it any more.
            of_primary_ms = (now_s - primary.known_s) * 1_000
            age_ms = max(age_ms + (now_s - begun_s) * 1_000, of_primary_ms, 0)
            as_of = min(replayed_at, primary.at)
            return [Aged(row, as_of, round(age_ms)) for row in rows]

        return find_with_age


async def keep_beating(connect: Connect, lag_s: float, standby: Standby) -> None:
    """Look at the primary, and commit something on it, again and again, until cancelled."""
    wire: Wire | None = None
    beat_s = 0.0
    pause_s = min(LOOK_S, lag_s / BEATS)
    try:
        while True:
            try:
                async with asyncio.timeout(BEAT_LIMIT_S):
                    wire = wire or await connect()
                    standby.primary = await look_at(wire)
                    if time.monotonic() >= beat_s:
                        await wire.exchange(Request(WRITE_BARRIER))
                        beat_s = time.monotonic() + lag_s / BEATS
            except (psycopg.Error, LedgerError, OSError) as error:  # TimeoutError is an OSError
                text = " ".join(str(error).split()) or "no answer in time"
                log.warning("no sign for the standby: %s", text)
                broken, wire = wire, None
                await _ended(broken)
            await asyncio.sleep(pause_s)
    finally:
        await _ended(wire)


async def look_at(wire: Wire) -> Primary:
    """The primary of a connection. Raises psycopg's errors; on a standby too."""
    known_s = time.monotonic()
    [answer] = await wire.exchange(PRIMARY)
    at, timeline, *place = answer.rows[0]
    return Primary(at, timeline, tuple(place), known_s)


async def _ended(wire: Wire | None) -> None:
    """End a connection, also one that does not answer."""
    if wire is not None:
        wire.cut()
        with suppress(psycopg.Error, OSError):
            await wire.close()
