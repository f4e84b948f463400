"""The queue of movements, in which a key may fill its share."""

from asyncio import Future

from ledgerservice.api.http.call import Call
from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.posting.movements import weight_of


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
