"""The service, with batches that overlap from a few movements on; it logs those that did.

`python -m tests.proof.servers.overlapping serve ...`. It is the same code: only what counts as
large is smaller, because no client of a proof sends as many movements as fast as a bulk load.
"""

import logging
from typing import Any

from ledgerservice import cli
from ledgerservice.postgres import journal
from ledgerservice.posting import movements, overlapping

LARGE = 3  # movements
OVERLAPPED = "a batch has overlapped"

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


if __name__ == "__main__":
    overlap_more()
    cli.main()
