"""A process that transfers between parts until it is killed: `python -m tests.crossing.worker`."""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ledgerservice.domain.transactions import Recorded
from ledgerservice.errors import LedgerError
from ledgerservice.ledger import Ledger
from ledgerservice.posting.parts.crossing import Crossings
from ledgerservice.runtime import running
from ledgerservice.settings import Settings
from ledgerservice.shards import sharded

TASKS = 12


def die_after(step: int) -> None:
    """Kill this process when it has made the step 1, 2 or 3 of its fortieth transfer."""
    made = 0
    post_steps = Crossings._post_steps

    async def post_and_die(self: Crossings, steps: Any, *, dry_run: bool = False) -> list[Any]:
        nonlocal made
        answers = await post_steps(self, steps, dry_run=dry_run)
        names = {type(one).__name__ for *_, one in steps}
        number = 1 if "Crossing" in names else 2 if "CrossCredit" in names else 3
        made += number == step
        if made >= 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return answers

    Crossings._post_steps = post_and_die  # type: ignore[method-assign]


async def transfer_on(ledger: Ledger, accounts: list[int], name: str, answers: int) -> None:
    """One of the tasks. An answer is written down when it is there."""
    number = 0
    while True:
        one, other = random.sample(accounts, 2)
        key, amount = f"{name} {number}", str(random.randint(1, 9))
        number += 1
        try:
            outcome = await ledger.transfer(one, other, amount, key=key)
        except LedgerError:
            continue
        assert isinstance(outcome, Recorded)
        line = [outcome.posted, one, other, int(amount) * 100, key, outcome.transaction.id]
        os.write(answers, (json.dumps(line) + "\n").encode())


async def run(url: str, accounts: list[int], name: str, file: Path) -> None:
    """Until killed. `url`: of the only database, or `environment`."""
    settings = Settings.load()
    if url != "environment":
        settings = settings.model_copy(update={"database_url": SecretStr(url)})
    answers = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    async with running(settings) as runtime, sharded(runtime, reading=True) as shards:
        ledger = await Ledger(shards).ledger("market")
        assert ledger is not None
        tasks = [transfer_on(ledger, accounts, f"{name}.{n}", answers) for n in range(TASKS)]
        await asyncio.gather(*tasks)


def main(url: str, accounts: str, name: str, file: str, step: str = "0") -> None:
    """`step` is after which it dies; 0: it goes on until it is killed."""
    if step != "0":
        die_after(int(step))
    asyncio.run(run(url, json.loads(accounts), name, Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
