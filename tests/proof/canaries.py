"""Promises broken on purpose: a proof that holds on one of these proves nothing.

`python -m tests.proof.canaries NAME serve ...` is the service with a fault of that name put in.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ledgerservice import cli, journal, lookups
from ledgerservice.wire import Request, Wire


class Canary(NamedTuple):
    """What is broken, and the fault under which that shows.

    `options` are PostgreSQL's, `statement` is run on the ledger's schema, `patched` says that the
    service is the one of this module.
    """

    fault: str
    options: tuple[str, ...] = ()
    statement: str = ""
    patched: bool = False


CANARIES = {
    "fsync_off": Canary("cut_power", options=("-c", "fsync=off")),
    "synchronous_commit_off": Canary("stop_immediately", options=("-c", "synchronous_commit=off")),
    "keys_not_unique": Canary(
        "vanish",
        statement="ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_idempotency_key",
        patched=True,
    ),
    "answer_before_commit": Canary("kill_service", patched=True),
}


def keys_not_unique() -> None:
    """No key is ever found; the constraint that would object is gone too."""
    find = lookups.earlier
    lookups.earlier = lambda ledger, _asked, parents: find(ledger, (), parents)


def answer_before_commit() -> None:
    """A batch is committed when the next one begins."""

    async def begin(
        wire: Wire, ledger: int, asked: Any, blocks: int, *, look: bool = True
    ) -> journal.Locked:
        before = [] if wire.idle else [Request(journal.COMMIT)]
        parents = await lookups.find_parents(wire, ledger, asked)
        begun = [*before, Request(journal.BEGIN)]
        return await journal.lock(wire, ledger, asked, parents, blocks, *begun, look=look)

    journal.begin = begin
    journal.record = journal.write


PATCHES: dict[str, Callable[[], None]] = {
    "keys_not_unique": keys_not_unique,
    "answer_before_commit": answer_before_commit,
}

if __name__ == "__main__":
    PATCHES[sys.argv.pop(1)]()
    cli.main()
