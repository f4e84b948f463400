"""Verifying all the time: what is new at once, and everything in passes, range by range.

A pass reads every row and every guard, as `verify` does, but each range in a snapshot of its own.
It rests three times as long as it works, and the next one begins half a day after it began. Between
its ranges, at every interval, the guards and the new transactions are verified. What these read
depends on the number of new transactions, not on that of all.

Transaction ids do not commit in order. So new transactions are verified when they are seen, and
once more when they have been there for longer than a database transaction of the service can be
open. This needs no write, so a standby can do it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.errors import LedgerError
from ledgerservice.postgres.contents import driver
from ledgerservice.postgres.verification import (
    ACCOUNTS,
    BIGGEST,
    NEW,
    PARTS,
    SMALLEST,
    TRANSACTIONS,
    Violation,
    find_violations,
    guards,
    list_ledgers,
    without_unknown,
)
from ledgerservice.postgres.verification.checks import CATALOGUE, WHOLE, Check
from ledgerservice.postgres.verification.progress import (
    SHOWN_VIOLATIONS,
    Mark,
    Place,
    Progress,
    Witness,
    load,
    save,
)
from ledgerservice.postgres.verification.requests import TRY_LOCK, is_requested, listen

log = logging.getLogger(__name__)

SETTLED_AFTER_S = 600.0  # as in epochs
PASS_EVERY_S = 43_200.0  # so that one begins and ends within a day
REST = 3.0  # times the work
CANCEL_S = 5.0
POLL_S = 0.5  # between two looks for a request

# By key, whatever the statistics say of rows that are newer than they: a plan that reads a whole
# table would do so at every interval.
_BY_KEY = text(
    "SELECT set_config(name, 'off', true)"
    " FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin']) AS name"
)
_CUSTOM_PLANS = text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_LAST = text("""
SELECT t.ledger_id, t.id FROM ledger.ledgers l
CROSS JOIN LATERAL (
    SELECT ledger_id, id FROM ledger.transactions
    WHERE ledger_id = l.ledger_id ORDER BY ledger_id DESC, id DESC LIMIT 1) t
ORDER BY t.id DESC LIMIT 1
""")
# Of entries too: they may name a transaction that is not there.
_LAST_ID = text("""
SELECT coalesce(max(greatest(t.id, e.transaction_id)), 0) FROM ledger.ledgers l
LEFT JOIN LATERAL (
    SELECT id FROM ledger.transactions
    WHERE ledger_id = l.ledger_id ORDER BY ledger_id DESC, id DESC LIMIT 1) t ON true
LEFT JOIN LATERAL (
    SELECT transaction_id FROM ledger.entries
    WHERE ledger_id = l.ledger_id
    ORDER BY ledger_id DESC, transaction_id DESC LIMIT 1) e ON true
""")
_LAST_SETTLED = text("""
SELECT max(t.id) FROM ledger.ledgers l
CROSS JOIN LATERAL (
    SELECT id FROM ledger.transactions
    WHERE ledger_id = l.ledger_id
      AND recorded_at < clock_timestamp() - make_interval(secs => :seconds)
    ORDER BY ledger_id DESC, id DESC LIMIT 1) t
""")
_DIGEST = text("""
SELECT encode(sha256(convert_to(t::text, 'UTF8')), 'hex') FROM ledger.transactions t
WHERE ledger_id = :ledger AND id = :id
""")
_LAST_ACCOUNT = text("SELECT max(id) FROM ledger.accounts WHERE ledger_id = :ledger")
_LAST_TRANSACTION = text("SELECT max(id) FROM ledger.transactions WHERE ledger_id = :ledger")


def nothing() -> Iterable[Violation]:
    """Nothing else is verified."""
    return ()


class Watch:
    """Continues the verification of one database.

    Its attributes may be read from any thread: `position` (the last transaction id that was
    verified), `violations` (how many stand), `last_success_s` (when the last pass ended without
    one, in seconds since 1970, 0 if none has), `pass_ratio` (how much of the present pass is done),
    `is_elsewhere` (another process verifies, and knows the present values of these).
    """

    def __init__(
        self,
        engine: Engine,
        schema: str,
        file: Path | None = None,
        also: Callable[[], Iterable[Violation]] = nothing,
    ) -> None:
        """`file` keeps the progress for the next process; without it a pass begins anew. `also` is
        verified at the end of a pass.
        """
        self._engine = engine
        self._schema = schema
        self._file = file
        self._also = also
        self._progress = load(file)
        self._connection: Connection | None = None
        self._next_step_s = 0.0
        self._guards_are_known = True
        self._is_requested = False
        self.is_elsewhere = False
        self._publish()

    def verify_new(self) -> list[Violation]:
        """Verify the guards, and what has been recorded since the last call. Raises as SQLAlchemy
        does; the next call takes up where the last one ended.
        """
        with self._snapshot() as connection:
            connection.execute(_BY_KEY)
            self._begin_again_if_another(connection)
            now_s, last_id = float(connection.scalar(_CLOCK)), int(connection.scalar(_LAST_ID))
            if not self._progress.is_begun:
                self._begin(connection, last_id)
            violations = list(self._run_whole(connection, CATALOGUE))
            for low, high in self._new_ranges(now_s, last_id):
                violations += self._verify_range(connection, low, high)
            self._progress.witness = _witness(connection)
        self._passed(now_s, last_id)
        self._note(violations)
        return violations

    def step(self) -> list[Violation]:
        """Verify the next range of the present pass. The last one ends the pass."""
        begun_s, place, time_s = time.monotonic(), self._progress.place, time.time()
        try:
            with self._snapshot() as connection:
                if place is None:
                    violations = list(self._run_whole(connection, WHOLE))
                    following = _first(list_ledgers(connection))
                else:
                    violations, following = _verify_place(connection, place)
                ratio = _ratio(connection, following)
            if following is None:
                violations += self._also()
        finally:
            self._next_step_s = time.monotonic() + REST * (time.monotonic() - begun_s)
        if place is None:
            self._begin_pass(time_s)
        self._progress.pass_ratio = ratio
        self._note(violations, following, moved=True)
        return violations

    def _run_whole(self, connection: Connection, checks: Sequence[Check]) -> Iterator[Violation]:
        known = without_unknown(connection, checks)
        # A pass without the guards is no success: whoever changed one could say so of the schema.
        self._guards_are_known = len(known) == len(checks)
        return _run(connection, known, guards(self._schema))

    def _begin_pass(self, time_s: float) -> None:
        """Not before its first step has ended: one that fails leaves the pass due."""
        progress = self._progress
        progress.standing, progress.fresh = progress.violations, []
        progress.pass_begun_s = time_s
        self._is_requested = False

    @property
    def pass_is_due(self) -> bool:
        """Whether a pass is running, or the next one should begin. One that was requested while
        another one ran begins after it.
        """
        progress = self._progress
        if progress.place is not None or self._is_requested:
            return True
        return time.time() >= progress.pass_begun_s + PASS_EVERY_S

    def verify_all(self) -> list[Violation]:
        """A whole pass, from the place where it is, without rests."""
        violations = self.step()
        while self._progress.place is not None:
            violations += self.step()
        return violations

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Verify until `stop`, if no other process does so. The database may be away meanwhile."""
        while not stop.is_set():
            try:
                self._rest(stop, interval_s)
                if not stop.is_set() and self._has_lock():
                    self.verify_new()
                    self._step_until(stop, time.monotonic() + interval_s)
            except (SQLAlchemyError, psycopg.Error, LedgerError, OSError) as error:
                self.close()
                if not stop.is_set():
                    log.warning("could not verify: %s", " ".join(str(error).split()))
        self.close()

    def _rest(self, stop: threading.Event, interval_s: float) -> None:
        """Wait for the interval, or until somebody requests a pass."""
        end_s = time.monotonic() + interval_s
        while (left_s := end_s - time.monotonic()) > 0 and not stop.wait(min(left_s, POLL_S)):
            if self._connection is not None and is_requested(self._connection):
                self._is_requested = True
                return

    def _step_until(self, stop: threading.Event, end_s: float) -> None:
        """Go on with the pass until the next interval, as far as the rests allow."""
        while self.pass_is_due and not stop.is_set():
            rest_s = self._next_step_s - time.monotonic()
            if time.monotonic() + rest_s >= end_s:
                return
            if not stop.wait(max(0.0, rest_s)):
                self.step()

    def interrupt(self) -> None:
        """End the statement that runs, from another thread. The server may be gone by then."""
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error, SQLAlchemyError):
                driver(connection).cancel_safe(timeout=CANCEL_S)

    def close(self) -> None:
        """Close the connection, and with it leave the lock to other processes."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            self._connection = self._engine.connect().execution_options(**options)
        return self._connection

    def _has_lock(self) -> bool:
        """Whether this is the process that verifies: the lock is held as long as the connection."""
        if self._connection is not None:
            return True
        connection = self._connected()
        with connection.begin():
            held = bool(connection.scalar(TRY_LOCK))
        if held:
            self._take_over()
            listen(connection)
        else:
            self.close()
        self.is_elsewhere = not held
        return held

    def _take_over(self) -> None:
        """Go on where the process that had the lock ended, with what it has found."""
        known = load(self._file)
        if known.is_begun:
            self._progress = known
            self._publish()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        connection = self._connected()
        with connection.begin():
            connection.execute(_CUSTOM_PLANS)
            yield connection

    def _begin_again_if_another(self, connection: Connection) -> None:
        """The journal is another one if it lacks the witness, as after a restore."""
        known = self._progress.witness
        if known is None or connection.scalar(_DIGEST, _key(known)) == known.digest:
            return
        log.error(
            "transaction %d of ledger %d is not the one that was verified: the database is another "
            "one, or was restored or changed; everything is verified again",
            known.id,
            known.ledger,
        )
        self._progress = Progress()

    def _begin(self, connection: Connection, last_id: int) -> None:
        """From here on what comes is new. What is there is left to the pass."""
        settled = connection.scalar(_LAST_SETTLED, {"seconds": SETTLED_AFTER_S}) or 0
        self._progress.is_begun = True
        self._progress.settled_id, self._progress.checked_id = settled, last_id

    def _new_ranges(self, now_s: float, last_id: int) -> list[tuple[int, int]]:
        """What is new, and what has been there long enough to be verified again."""
        progress = self._progress
        settled = self._settled_at(now_s)
        ranges = [(progress.settled_id + 1, settled), (progress.checked_id + 1, last_id)]
        return [(low, high) for low, high in ranges if low <= high]

    def _settled_at(self, now_s: float) -> int:
        limit_s = now_s - SETTLED_AFTER_S
        old = [mark.last_id for mark in self._progress.marks if mark.seen_at_s <= limit_s]
        return max([self._progress.settled_id, *old])

    def _passed(self, now_s: float, last_id: int) -> None:
        progress = self._progress
        settled = self._settled_at(now_s)
        marks = [mark for mark in progress.marks if mark.last_id > settled]
        if not marks or marks[-1].last_id < last_id:
            marks.append(Mark(now_s, last_id))
        progress.settled_id, progress.marks = settled, marks
        progress.checked_id = max(progress.checked_id, last_id)

    def _verify_range(self, connection: Connection, low: int, high: int) -> list[Violation]:
        violations: list[Violation] = []
        for ledger in list_ledgers(connection):
            start = low
            while start <= high:
                bounds = PARTS[TRANSACTIONS].next_range(connection, ledger, start)
                end = min(high, bounds["high"])
                violations += _run(connection, NEW, {**bounds, "high": end})
                start = end + 1
        return violations

    def _note(
        self, violations: list[Violation], place: Place | None = None, *, moved: bool = False
    ) -> None:
        """Log violations that are new, and keep the progress."""
        progress, known = self._progress, set(self._progress.violations)
        texts = [str(violation) for violation in violations]
        for line in dict.fromkeys(texts):
            if line not in known:
                log.error("violation: %s", line)
        progress.fresh = list(dict.fromkeys([*progress.fresh, *texts]))[:SHOWN_VIOLATIONS]
        if moved:
            progress.place = place
            if place is None:
                progress.standing = progress.fresh
                if self._guards_are_known and not progress.fresh:
                    progress.last_success_s = time.time()
        self._publish()
        save(self._file, progress)

    @property
    def progress(self) -> Progress:
        """What has been verified. It is not to be changed."""
        return self._progress

    @property
    def lines(self) -> list[str]:
        """The violations that stand, as text."""
        return self._progress.violations

    def _publish(self) -> None:
        self.position = self._progress.checked_id
        self.pass_ratio = self._progress.pass_ratio
        self.violations = len(self._progress.violations)
        self.last_success_s = self._progress.last_success_s


def _run(
    connection: Connection, checks: Iterable[Check], values: Mapping[str, Any]
) -> Iterator[Violation]:
    for check in checks:
        yield from find_violations(connection, check, values)


def _verify_place(connection: Connection, place: Place) -> tuple[list[Violation], Place | None]:
    """The violations of the range at a place, and the place after it; None after the last."""
    ledgers = list_ledgers(connection)
    following = _first([one for one in ledgers if one > place.ledger])
    if place.ledger not in ledgers:  # it has begun to arrive from another shard
        return [], following
    part = PARTS[place.part]
    bounds = part.next_range(connection, place.ledger, place.low)
    violations = list(_run(connection, part.checks, bounds))
    if bounds["high"] < BIGGEST:
        return violations, Place(place.ledger, place.part, bounds["high"] + 1)
    if place.part == ACCOUNTS:
        return violations, Place(place.ledger, TRANSACTIONS, SMALLEST)
    return violations, following


def _first(ledgers: list[int]) -> Place | None:
    return Place(ledgers[0], ACCOUNTS, SMALLEST) if ledgers else None


def _ratio(connection: Connection, place: Place | None) -> float:
    """How much of a pass is done at a place, by the ids."""
    if place is None:
        return 1.0
    ledgers = list_ledgers(connection)
    query = _LAST_ACCOUNT if place.part == ACCOUNTS else _LAST_TRANSACTION
    last_id = connection.scalar(query, {"ledger": place.ledger}) or 1
    part = min(1.0, max(0.0, place.low / last_id))
    before = sum(one < place.ledger for one in ledgers)
    return (before + (part + (place.part == TRANSACTIONS)) / 2) / len(ledgers)


def _witness(connection: Connection) -> Witness | None:
    row = connection.execute(_LAST).one_or_none()
    if row is None:
        return None
    place = {"ledger": row.ledger_id, "id": row.id}
    return Witness(row.ledger_id, row.id, connection.scalar(_DIGEST, place) or "")


def _key(witness: Witness) -> dict[str, int]:
    return {"ledger": witness.ledger, "id": witness.id}
