"""Posts transfers, many or few a call, with the `ledgerservice` on PYTHONPATH; for against.py.

It opens accounts with money and prints the first id. Then it reads lines `{"workload": ...,
"name": ..., "at_once": ..., "size": ..., "calls": ...}`; for each it makes so many calls of so many
transfers each, with that many calls in flight, and prints the number of transfers that was posted.
"""

import asyncio
import gc
import json
import random
import sys

from ledgerservice.domain.instructions import Movement
from ledgerservice.ledger import Ledger, deposit, transfer

FUNDS = "1000000000.00"
AT_ONCE = 2_000


async def main(url: str, accounts: int) -> None:
    """Open the accounts, then post a run for each line of the input."""
    async with Ledger.open(url) as ledger:
        ids: list[int] = []
        for start in range(0, accounts, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, accounts))
            opened = await asyncio.gather(
                *(ledger.open_account(f"owner {n}", "USD", key=f"open-{n}") for n in numbers)
            )
            ids_of_opened = (account.account_id for account in opened)
            new = [number for number in ids_of_opened if number is not None]
            await ledger.post([deposit(number, FUNDS, "funds") for number in new])
            ids += new
        # A full collection takes as long as 2,000 transfers, so a ratio would say which tree's runs
        # it fell into. The service freezes what it has at its start, too.
        gc.collect()
        gc.freeze()
        print(min(ids), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await _run(ledger, sorted(ids), **json.loads(line)), flush=True)


async def _run(
    ledger: Ledger, ids: list[int], workload: str, name: str, at_once: int, size: int, calls: int
) -> int:
    numbers = iter(range(calls))

    async def caller() -> int:
        posted = 0
        for number in numbers:
            outcomes = await ledger.post(_transfers(ids, workload, f"{name}:{number}", size))
            posted += sum(outcome.posted for outcome in outcomes)
        return posted

    return sum(await asyncio.gather(*(caller() for _ in range(at_once))))


def _transfers(ids: list[int], workload: str, name: str, size: int) -> list[Movement]:
    hot, *others = ids
    transfers = []
    for number in range(size):
        if workload == "hot":
            sender, receiver = hot, random.choice(others)
        else:
            sender, receiver = random.sample(ids, 2)
        transfers.append(transfer(sender, receiver, "0.01", f"{name}:{number}"))
    return transfers


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
