"""Calls of blocking clients, each in a thread of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def call(thread: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    """Call a blocking function. A cancellation waits for its end."""
    work = asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
