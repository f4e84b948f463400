"""Work on many items, in pieces: between them other requests are answered."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeVar

PIECE_S = 0.001

Item = TypeVar("Item")
Done = TypeVar("Done")


async def in_turns(
    turn: asyncio.Lock, work: Callable[[Item], Done], items: Sequence[Item]
) -> list[Done]:
    """The results of `work` on each of the items, in order.

    All large requests share the lock `turn`, so that each round of the event loop has one piece, of
    about PIECE_S.
    """
    results: list[Done] = []
    remaining = iter(items)
    while len(results) < len(items):
        async with turn:
            end_s = perf_counter() + PIECE_S
            for item in remaining:
                results.append(work(item))
                if perf_counter() >= end_s:
                    break
            await asyncio.sleep(0)
    return results
