"""Promises broken on purpose: a proof that holds on one of these proves nothing.

`python -m tests.proof.servers.canaries NAME serve ...` is the service with that fault put in.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection

from ledgerservice import cli
from ledgerservice.access.rulebook import Rulebook
from ledgerservice.domain import planner
from ledgerservice.domain.instructions import Capture, CrossCredit
from ledgerservice.domain.rules import RULES
from ledgerservice.domain.transactions import Transaction
from ledgerservice.feed import publisher
from ledgerservice.postgres import journal, locking, migrations
from ledgerservice.postgres.migrations import revisions
from ledgerservice.postgres.moving import mover
from ledgerservice.postgres.pipeline import Request, Wire
from ledgerservice.posting.known import KnownAccounts
from ledgerservice.posting.parts import recovery
from ledgerservice.posting.parts.crossing import Crossings, OpenHold, whole


class Canary(NamedTuple):
    """What is broken, and the fault under which that shows.

    `options` are PostgreSQL's, `statement` is run on the ledger's schema, `patched` says that the
    service is the one of this module, `sweep_s` how often it looks for what is due.
    """

    fault: str
    options: tuple[str, ...] = ()
    statement: str = ""
    patched: bool = False
    sweep_s: float = 1.0


# By itself the log would be written after 0.2 s at the latest, in which by chance nothing is lost.
LATE_WAL = (
    *("-c", "synchronous_commit=off"),
    *("-c", "wal_writer_delay=10s"),
    *("-c", "wal_writer_flush_after=1GB"),
)

CANARIES = {
    "fsync_off": Canary("cut_power", options=("-c", "fsync=off")),
    "synchronous_commit_off": Canary("stop_immediately", options=LATE_WAL),
    "keys_not_unique": Canary(
        "vanish",
        statement="ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_idempotency_key",
        patched=True,
    ),
    "answer_before_commit": Canary("kill_service", patched=True),
    "expiry_late": Canary("vanish", patched=True, sweep_s=6.0),  # or it seldom shows
    "final_ignored": Canary("vanish", patched=True),
    "groups_torn": Canary("vanish", patched=True),
    "rules_ignored": Canary("vanish", patched=True),
    "position_first": Canary("kill_publisher", patched=True),
    "move_unfenced": Canary("move_ledgers", patched=True),
    "credited_again": Canary("move_ledgers", patched=True),
    "captured_early": Canary("move_ledgers", patched=True),
    "left_open": Canary("move_ledgers", patched=True),
}


def _do_nothing(*_: Any) -> None:
    pass


def keys_not_unique() -> None:
    """No key is ever found; the constraint that would object is gone too."""
    find = locking._find_earlier
    locking._find_earlier = lambda ledger, instructions, parents: find(ledger, (), parents)


def answer_before_commit() -> None:
    """A batch is committed when the next one begins."""

    lock = locking.lock

    async def commit_and_lock(wire: Wire, *arguments: Any, **options: Any) -> locking.Locked:
        ledger, instructions, parents, *begin = arguments
        before = [] if wire.idle else [Request(journal.COMMIT)]
        return await lock(wire, ledger, instructions, parents, *before, *begin, **options)

    locking.lock = commit_and_lock
    journal.record = journal.write
    KnownAccounts.of = _do_nothing  # type: ignore[assignment, method-assign]


def expiry_late() -> None:
    """What has expired reserves its money until the sweeper comes by."""
    planner._Batch.release_expired = _do_nothing  # type: ignore[assignment, method-assign]


def final_ignored() -> None:
    """A final capture goes on reserving the rest."""
    rule = RULES[Capture]
    RULES[Capture] = replace(
        rule, decide=lambda capture, state: rule.decide(replace(capture, final=False), state)
    )


def groups_torn() -> None:
    """What came before the first decline of a group stays."""
    planner._Batch._revert_to = _do_nothing  # type: ignore[assignment, method-assign]


def rules_ignored() -> None:
    """What others have to approve is posted at once."""
    Rulebook.of = _do_nothing  # type: ignore[assignment, method-assign]


def position_first() -> None:
    """A publisher writes its position, and the events after it."""
    module: Any = publisher
    call = module.call

    async def call_twice(thread: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        if arguments:
            await call(thread, function, [], arguments[1])
            await asyncio.sleep(0.3)
        return await call(thread, function, *arguments)

    module.call = call_twice


def move_unfenced() -> None:
    """A mover copies the last rows while the ledger goes on, and does not verify its copy."""
    mover._Move._leave = _do_nothing  # type: ignore[assignment, method-assign]
    mover._Move._verify = _do_nothing  # type: ignore[assignment, method-assign]


class _CreditedAgain(OpenHold):
    def credit(self) -> CrossCredit:
        step = super().credit()
        return replace(step, key=f"{step.key}:again")


def credited_again() -> None:
    """Whoever finishes what another process left open between parts credits it under a new key."""
    recovery.OpenHold = _CreditedAgain  # type: ignore[attr-defined]
    _wait_after_credits()


def _wait_after_credits() -> None:
    """There is time to be killed before the end of a hold."""
    make_step = Crossings._step

    async def step_slowly(self: Crossings, steps: Any) -> list[Transaction]:
        made = await make_step(self, steps)
        if isinstance(steps[0][-1], CrossCredit):
            await asyncio.sleep(0.3)
        return made

    Crossings._step = step_slowly  # type: ignore[method-assign]


def left_open() -> None:
    """Nobody finishes what another process left open between parts."""

    async def find_nothing(_: recovery.Recovery) -> int:
        return 0

    recovery.Recovery.sweep = find_nothing  # type: ignore[method-assign, assignment]
    _wait_after_credits()


def captured_early() -> None:
    """What is held for another part is captured first, and then credited, which may be declined."""

    async def finish_early(self: Crossings, holds: Sequence[OpenHold]) -> list[Transaction]:
        captures = [hold.end(replace(hold.transaction, refusal=None)) for hold in holds]
        ends = await self._step([(h.ledger_id, h, e) for h, e in zip(holds, captures, strict=True)])
        made = await self._step([(hold.to_ledger_id, hold, hold.credit()) for hold in holds])
        halves = zip(holds, made, ends, strict=True)
        return [whole(hold.transaction, credit, end) for hold, credit, end in halves]

    Crossings.finish = finish_early  # type: ignore[method-assign]


def _in_the_head(statements: str) -> None:
    """The head does more, in its transaction, and says that the release before can go on."""
    record = revisions._record_compatible

    def run_and_record(connection: Connection, at_revision: str) -> None:
        if at_revision == migrations.HEAD:
            connection.exec_driver_sql(statements)
        record(connection, at_revision)

    revisions._record_compatible = run_and_record


def column_dropped() -> None:
    """A migration takes a column away that the release before writes."""
    _in_the_head("ALTER TABLE ledger.details DROP COLUMN request")


def table_locked() -> None:
    """A migration keeps a table locked."""
    _in_the_head("LOCK TABLE ledger.accounts; SELECT pg_sleep(4)")


PATCHES: dict[str, Callable[[], None]] = {
    "keys_not_unique": keys_not_unique,
    "answer_before_commit": answer_before_commit,
    "expiry_late": expiry_late,
    "final_ignored": final_ignored,
    "groups_torn": groups_torn,
    "rules_ignored": rules_ignored,
    "position_first": position_first,
    "move_unfenced": move_unfenced,
    "credited_again": credited_again,
    "captured_early": captured_early,
    "left_open": left_open,
    "column_dropped": column_dropped,
    "table_locked": table_locked,
}

if __name__ == "__main__":
    PATCHES[sys.argv.pop(1)]()
    cli.main()
