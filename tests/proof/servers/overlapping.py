"""The service, with batches that overlap from a few movements on. It logs those that did, and those
that were posted on known accounts.

`python -m tests.proof.servers.overlapping serve ...`. It is the same code: only what counts as
large is smaller, because no client of a proof sends as many movements as fast as a bulk load.
"""

import logging
from typing import Any

from ledgerservice import cli
from ledgerservice.postgres import journal
from ledgerservice.posting import known, movements, overlapping

LARGE = 3  # movements
OVERLAPPED = "a batch has overlapped"
KNEW = "a batch was of known accounts"

log = logging.getLogger("ledgerservice.proof")


def overlap_more() -> None:
    """Let most batches overlap, and say so."""
    journal.COPY_FROM_TRANSACTIONS = LARGE
    overlapping.BATCHES_UNDER_LOCKS = 2
    finish = movements.Overlap.finish

    async def noted(overlap: movements.Overlap) -> Any:
        answers = await finish(overlap)
        log.warning(OVERLAPPED)
        return answers

    movements.Overlap.finish = noted  # type: ignore[assignment, method-assign]


def note_known() -> None:
    """Say which batches of known accounts were committed."""
    known.BATCHES_UNDER_LOCKS = 2
    record = journal.record_known

    async def noted(*arguments: Any) -> bool:
        committed = await record(*arguments)
        if committed:
            log.warning(KNEW)
        return committed

    journal.record_known = noted  # type: ignore[assignment]


if __name__ == "__main__":
    overlap_more()
    note_known()
    cli.main()
