"""The queue of movements, in which a key may fill its share."""

from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from ledgerservice.api.http.call import Call
from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import Overloaded
from ledgerservice.posting.movements import weight_of

T = TypeVar("T")


async def post(call: Call, group: Group) -> Outcomes:
    """The outcomes of a group, durable. Raises what Poster.post raises, and LimitReached."""
    share = call.caller.meter.queue
    if share is None:
        return await call.runtime.movements.enter(group)
    weight = weight_of(group)
    share.take(weight)
    try:
        return await call.runtime.movements.enter(group)
    finally:
        share.give(weight)


def enter(call: Call, group: Group) -> Future[Outcomes]:
    """Queue a group; the future of its outcomes. Raises Overloaded and LimitReached."""
    share = call.caller.meter.queue
    if share is None:
        return call.runtime.movements.enter(group)
    weight = weight_of(group)
    share.take(weight)
    try:
        future = call.runtime.movements.enter(group)
    except BaseException:
        share.give(weight)
        raise
    future.add_done_callback(lambda _: share.give(weight))
    return future


async def patiently(call: Call, work: Callable[[], Awaitable[T]]) -> T:
    """Wait for room in a queue instead of refusing. `work` is done again, so it is harmless to
    repeat.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Overloaded),
        stop=stop_after_delay(call.runtime.settings.request_deadline_s),
        wait=wait_random(0.02, 0.1),
        reraise=True,
    )
    return await retrying(work)
