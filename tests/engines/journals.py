"""Random histories for the journal that read models are compared with."""

import asyncio
import random

from ledgerservice.ledger import Ledger, deposit
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.files.lives import KINDS, Life


def live(database: Database, seed: int, steps: int = 60, busy: int = 0) -> None:
    """A random history with every kind; the first account gets `busy` deposits more."""
    draw = random.Random(seed)
    kinds = [*KINDS, *draw.choices(KINDS, k=steps)]
    chosen = [
        (kind, draw.randrange(10), draw.randrange(10), draw.randint(1, 400)) for kind in kinds
    ]

    async def run() -> None:
        async with posting(database) as runtime:
            life = Life(Ledger(Shards(runtime)))
            await life.open()
            await life.live(chosen)
            keys = (f"busy {number}" for number in range(busy))
            await life.ledger.post([deposit(life.accounts[0], "1", key) for key in keys])

    asyncio.run(run())
