"""Posts transfers, 8,000 a call, with the `ledgerservice` that PYTHONPATH says; for against.py.

Opens accounts with money and prints the first's id; then, for each line `{"workload": ...,
"name": ...}` that it reads, posts 40,000 transfers and prints how many were posted.
"""

import asyncio
import json
import random
import sys

from ledgerservice.ledger import Ledger, deposit, transfer

FUNDS = "1000000000.00"
AT_ONCE = 2_000
CALL, CALLS = 8_000, 5


async def main(url: str, accounts: int) -> None:
    """Open the accounts, then do what is asked."""
    async with Ledger.open(url) as ledger:
        ids: list[int] = []
        for start in range(0, accounts, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, accounts))
            opened = await asyncio.gather(
                *(ledger.open_account(f"owner {n}", "USD", key=f"open-{n}") for n in numbers)
            )
            new = [account.account_id for account in opened]
            await ledger.post([deposit(number, FUNDS, "funds") for number in new])
            ids += new
        print(min(ids), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await _run(ledger, sorted(ids), **json.loads(line)), flush=True)


async def _run(ledger: Ledger, ids: list[int], workload: str, name: str) -> int:
    posted = 0
    for call in range(CALLS):
        asked = []
        for number in range(CALL):
            if workload == "hot":
                of, to = ids[0], random.choice(ids[1:])
            else:
                of, to = random.sample(ids, 2)
            asked.append(transfer(of, to, "0.01", f"{name}:{call}:{number}"))
        posted += sum(outcome.posted for outcome in await ledger.post(asked))
    return posted


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
