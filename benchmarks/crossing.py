"""What a transfer between two parts of a ledger costs, beside one within a part, in turns.

    python3 benchmarks/crossing.py [--seconds 20]

Both parts are on one database, so that only the protocol differs. Singly: one client, one transfer
after another. In batches: 200 transfers a call. The quotient of each turn is taken, and its median
printed.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.movements import transfer
from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from ledgerservice.ledger import Ledger

TURN_S = 0.5
BATCH = 200
EACH = 50

_numbers = itertools.count()


async def accounts_of(ledger: Ledger) -> list[list[int]]:
    """EACH funded accounts in each of the two parts."""
    parts: list[list[int]] = [[], []]
    while min(map(len, parts)) < EACH:
        opened = await ledger.open_account("o", "USD", key=f"{next(_numbers)}")
        assert isinstance(opened, Opened)
        parts[opened.account_id % 2].append(opened.account_id)
        await ledger.deposit(opened.account_id, "1000000", key="funds")
    return parts


async def transfers_a_second(ledger: Ledger, pairs: list[tuple[int, int]], size: int) -> float:
    """For a turn; `size` transfers a call."""
    done, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < TURN_S:
        batch = [
            transfer(*pairs[next(_numbers) % len(pairs)], "1", f"k{next(_numbers)}")
            for _ in range(size)
        ]
        outcomes = await ledger.post(batch)
        assert all(one.posted for one in outcomes)
        done += size
    return done / (time.perf_counter() - began_s)


async def compare(ledger: Ledger, seconds: float) -> None:
    """Print both, and how many times as long a transfer between parts takes."""
    first, second = await accounts_of(ledger)
    local = list(itertools.pairwise(first))
    across = list(zip(first, second, strict=False))
    for size in (1, BATCH):
        quotients, speeds = [], []
        for _ in range(max(3, int(seconds / 2 / (2 * TURN_S)))):
            within = await transfers_a_second(ledger, local, size)
            between = await transfers_a_second(ledger, across, size)
            quotients.append(within / between)
            speeds.append((within, between))
        within, between = (statistics.median(column) for column in zip(*speeds, strict=True))
        print(
            f"{size:>4} a call: {within:8.0f} within a part, {between:8.0f} between two, a second;"
            f" {statistics.median(quotients):.2f} times as long"
            f" (turns from {min(quotients):.2f} to {max(quotients):.2f})"
        )


async def run(url: str, seconds: float) -> None:
    """On a new database."""
    async with Ledger.open(url) as ledger:
        await compare(await ledger.add_ledger("market", shards=2), seconds)


def with_server(work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """On a server of its own, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        binaries = bundled_binaries()
        with EmbeddedServer(Path(folder) / "data", binaries, lambda _: None) as server:
            asyncio.run(work(server.url))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    with_server(lambda url: run(url, chosen.seconds))
