"""Transfers between parts of a ledger: a hold, a credit, and the end of the hold.

Each step is a group commit of one part, and each has a key: whoever repeats a step gets its first
answer. So a request that is sent again, another process and the sweeper all finish what is open in
the same way, and the recorded outcome of the credit decides for all of them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import (
    CrossCredit,
    CrossDebit,
    CrossRelease,
    Detail,
    Group,
    Instruction,
    Kind,
    Origin,
)
from ledgerservice.domain.ledgers import Parts, credit_key, end_key
from ledgerservice.domain.transactions import (
    Entry,
    Failed,
    HoldTerms,
    Outcome,
    Outcomes,
    Recorded,
    Rejected,
    Transaction,
)
from ledgerservice.errors import Overloaded, Unavailable
from ledgerservice.postgres.queries.accounts import AccountView
from ledgerservice.postgres.queries.gathered.accounts import AccountRead
from ledgerservice.postgres.queries.transactions import Sited, find_by_key, find_by_keys
from ledgerservice.postgres.reader import Reader
from ledgerservice.posting.overlapping import OverlappingPoster
from ledgerservice.posting.parts.routing import Place, Routes
from ledgerservice.posting.remote import RemotePoster

log = logging.getLogger(__name__)


class PartHome(NamedTuple):
    """What posts on a part, opens accounts in it, and reads it: on the shard that has it."""

    post: Callable[[Group], Awaitable[Outcomes]]
    open: Callable[[Opening], Awaitable[Opened | Rejected]]
    read_account: Callable[[AccountRead], Awaitable[AccountView | None]]
    reader: Reader


HomeOf = Callable[[int], Awaitable[PartHome]]
"""The home of the part with this id. Raises Unavailable."""


class OpenHold(NamedTuple):
    """The first step of a transfer, which is recorded, and the part that has it."""

    ledger_id: int
    transaction: Transaction

    @property
    def terms(self) -> HoldTerms:
        """Where it goes."""
        extra = self.transaction.extra
        assert extra is not None
        assert isinstance(extra.terms, HoldTerms)
        return extra.terms

    @property
    def to_ledger_id(self) -> int:
        """The part that it goes to."""
        assert self.terms.to_ledger_id is not None
        return self.terms.to_ledger_id

    def credit(self) -> CrossCredit:
        """The second step. It is the same whoever makes it."""
        hold, terms = self.transaction, self.terms
        assert hold.extra is not None
        assert terms.to_account_id is not None
        return CrossCredit(
            account_id=terms.to_account_id,
            from_ledger_id=self.ledger_id,
            hold_id=hold.id,
            clearing_id=terms.counterparty_id,
            amount=to_major(hold.amount, hold.exponent),
            key=credit_key(self.ledger_id, hold.id),
            detail=_texts(hold.extra.detail),
        )

    def end(self, credit: Transaction) -> CrossDebit | CrossRelease:
        """The third step."""
        hold = self.transaction
        assert hold.extra is not None
        form = CrossDebit if credit.refusal is None else CrossRelease
        detail = _texts(hold.extra.detail)
        return form(hold.id, end_key(hold.id), detail, origin=Origin.CROSSING)


def _is_first_step(transaction: Transaction) -> bool:
    """Whether there is more of a transfer to another part."""
    return transaction.kind is Kind.CROSSING and transaction.refusal is None


def _texts(detail: Detail) -> Detail | None:
    return None if detail == Detail() else detail


class Crossings:
    """Posts the groups of a ledger with parts: each instruction on its part, or between two.

    A process has one for all of its shards.
    """

    def __init__(self, deadline_s: float) -> None:
        self.parts: dict[int, Parts] = {}
        """The ledgers with parts that are known, by id."""
        self._home_of: HomeOf | None = None
        self.routes = Routes(self.reader_of)
        self._deadline_s = deadline_s
        self._tasks: set[asyncio.Task[Outcomes]] = set()
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(Overloaded),
            stop=stop_after_delay(deadline_s),
            wait=wait_random(0.02, 0.1),
            reraise=True,
        )

    def find_with(self, home_of: HomeOf) -> None:
        """From now on the homes of parts are known."""
        self._home_of = home_of

    async def home_of(self, ledger_id: int) -> PartHome:
        """The home of a part. Raises Unavailable."""
        if self._home_of is None:
            raise Unavailable
        return await self._home_of(ledger_id)

    async def reader_of(self, ledger_id: int) -> Reader:
        """A reader of a part. Raises Unavailable."""
        return (await self.home_of(ledger_id)).reader

    def enter(self, parts: Parts, group: Group) -> asyncio.Future[Outcomes]:
        """The future of the outcomes. What was begun goes on when nobody waits for it any more."""
        task = asyncio.create_task(self._post(parts, group))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return asyncio.create_task(self._in_time(task))

    def _forget(self, task: asyncio.Task[Outcomes]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a group of a ledger with parts failed: %s", error)

    async def _in_time(self, task: asyncio.Task[Outcomes]) -> Outcomes:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise Unavailable from None

    async def shown(self, ledger_id: int, transaction: Transaction) -> Transaction:
        """A transaction of a part as it is shown: a transfer to another part with both halves,
        if it has ended.
        """
        if not _is_first_step(transaction):
            return transaction
        hold = OpenHold(ledger_id, transaction)
        first, second = hold.terms, hold.credit()
        source = await self.reader_of(ledger_id)
        end = await find_by_key(source, first.account_id, end_key(transaction.id), Origin.CROSSING)
        credit = None
        if end is not None:
            place = await self.reader_of(hold.to_ledger_id), second.account_id, second.key
            credit = await find_by_key(*place, Origin.CROSSING)
        return transaction if credit is None else whole(transaction, credit, end)

    async def shown_all(self, listed: Sequence[Sited]) -> list[Transaction]:
        """The same of a list: transactions, each with the part that has it."""
        holds = [OpenHold(*one) for one in listed if _is_first_step(one.transaction)]
        ends = await self._by_keys(
            (one.ledger_id, one.terms.account_id, end_key(one.transaction.id)) for one in holds
        )
        credits_ = await self._by_keys(
            (one.to_ledger_id, (step := one.credit()).account_id, step.key)
            for one in holds
            if end_key(one.transaction.id) in ends
        )
        wholes = {
            hold.transaction.id: whole(hold.transaction, credit, ends[end_key(hold.transaction.id)])
            for hold in holds
            if (credit := credits_.get(hold.credit().key)) is not None
        }
        return [wholes.get(one.transaction.id, one.transaction) for one in listed]

    async def _by_keys(self, named: Iterable[tuple[int, int, str]]) -> dict[str, Transaction]:
        """Steps by their keys; each with its part and its account."""
        by_part: dict[int, list[tuple[int, str]]] = {}
        for ledger_id, account_id, key in named:
            by_part.setdefault(ledger_id, []).append((account_id, key))
        steps: dict[str, Transaction] = {}
        for ledger_id, keys in by_part.items():
            reader = await self.reader_of(ledger_id)
            recorded = await find_by_keys(reader, keys, Origin.CROSSING)
            steps |= {one.key: one for one in recorded}
        return steps

    async def close(self) -> None:
        """Wait for what was begun, as long as a request may take."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._deadline_s)

    async def _post(self, parts: Parts, group: Group) -> Outcomes:
        if group.linked:
            return await self._post_linked(parts, group)
        places = await self.routes.find_all(parts, group.movements)
        outcomes = await self._post_places(places, group)
        opened = {
            index: OpenHold(place.ledger_id, outcome.transaction)
            for index, (place, outcome) in enumerate(zip(places, outcomes, strict=True))
            if isinstance(place, Place) and place.crosses and outcome.posted
        }
        if opened:
            finish = self._rehearse if group.dry_run else self.finish
            finished = await finish(list(opened.values()))
            for index, transaction in zip(opened, finished, strict=True):
                outcomes[index] = Recorded(transaction, outcomes[index].replayed)
        return outcomes

    async def _post_linked(self, parts: Parts, group: Group) -> Outcomes:
        """All are posted on one part, or nothing is."""
        [place] = await self.routes.find_all(parts, [tuple(group.instructions())])
        if not isinstance(place, Place):
            return place  # type: ignore[return-value]
        linked = msgspec.structs.replace(group, ledger=place.ledger_id)
        return await (await self.home_of(place.ledger_id)).post(linked)

    async def _post_places(
        self, places: Sequence[Place | Rejected | Failed], group: Group
    ) -> list[Any]:
        """The outcomes of the first steps, and of what stays in its part. All parts at once."""
        steps = [
            (place.ledger_id, group.principal_id, place.item)
            for place in places
            if isinstance(place, Place)
        ]
        posted = iter(await self._post_steps(steps, dry_run=group.dry_run))
        return [next(posted) if isinstance(place, Place) else place for place in places]

    async def _post_steps(
        self, steps: Sequence[tuple[int, int, Any]], *, dry_run: bool = False
    ) -> list[Any]:
        """Post each item on its part, as its principal: those with both the same together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (ledger_id, principal_id, _) in enumerate(steps):
            groups.setdefault((ledger_id, principal_id), []).append(index)
        # All of them first: nothing is begun if one is away.
        homes = {ledger_id: await self.home_of(ledger_id) for ledger_id, _ in groups}
        posting = [
            homes[ledger_id].post(
                Group([steps[i][2] for i in indexes], False, ledger_id, dry_run, principal_id)
            )
            for (ledger_id, principal_id), indexes in groups.items()
        ]
        outcomes: dict[int, Any] = {}
        for indexes, answers in zip(groups.values(), await asyncio.gather(*posting), strict=True):
            assert not isinstance(answers, Failed)
            outcomes.update(zip(indexes, answers, strict=True))
        return [outcomes[index] for index in range(len(steps))]

    async def finish(self, holds: Sequence[OpenHold]) -> list[Transaction]:
        """The whole transfers of these holds, ended by now. Raises what posting raises."""
        credits_ = await self._step([(hold.to_ledger_id, hold, hold.credit()) for hold in holds])
        ended = zip(holds, credits_, strict=True)
        ends = await self._step([(hold.ledger_id, hold, hold.end(one)) for hold, one in ended])
        return [
            whole(hold.transaction, credit, end)
            for hold, credit, end in zip(holds, credits_, ends, strict=True)
        ]

    async def _step(self, steps: list[tuple[int, OpenHold, Instruction]]) -> list[Transaction]:
        """The records of a step. It waits for room in the queue: what is open should end."""
        named = [(ledger, hold.transaction.principal_id, step) for ledger, hold, step in steps]
        outcomes: list[Any] = await self._retrying.copy()(self._post_steps, named)
        return [_recorded(step, one) for (*_, step), one in zip(steps, outcomes, strict=True)]

    async def _rehearse(self, holds: Sequence[OpenHold]) -> list[Transaction]:
        """What the transfers would come to. The holds are not there."""
        steps = [(hold.to_ledger_id, 0, hold.credit()) for hold in holds]
        credits_ = await self._post_steps(steps, dry_run=True)
        return [
            whole(hold.transaction, _recorded(step, credit), None)
            for hold, (*_, step), credit in zip(holds, steps, credits_, strict=True)
        ]


def _recorded(step: Instruction, outcome: Outcome) -> Transaction:
    """The record of a step of the service's, which nothing can reject."""
    if isinstance(outcome, Recorded):
        return outcome.transaction
    log.error("a transfer between parts cannot go on: %s was rejected: %s", step, outcome.reason)
    raise Unavailable


def whole(hold: Transaction, credit: Transaction, end: Transaction | None) -> Transaction:
    """The transfer as its caller sees it: both halves, or what declined the credit.

    Without an `end` its entry is the one that would come next.
    """
    if credit.refusal is not None:
        return msgspec.structs.replace(hold, entries=(), refusal=credit.refusal)
    debited = _next_entry(hold) if end is None else _entry_on(hold.account_id, end)
    return msgspec.structs.replace(hold, entries=(debited, _entry_on(credit.account_id, credit)))


def _entry_on(account_id: int, transaction: Transaction) -> Entry:
    return next(one for one in transaction.entries if one.account_id == account_id)


def _next_entry(hold: Transaction) -> Entry:
    [entry] = hold.entries
    balance, held = entry.balance - hold.amount, entry.held - hold.amount
    return msgspec.structs.replace(
        entry,
        seq=entry.seq + 1,
        amount=-hold.amount,
        held_change=-hold.amount,
        balance=balance,
        held=held,
    )


class PartsPoster:
    """What a queue of movements does with groups of a ledger with parts: they go to their parts."""

    crossings: Crossings
    check_room: Callable[[], None]
    post_on_part: Callable[[Group], asyncio.Future[Outcomes]]
    """Posts on a ledger that is a part, or has none."""

    def serve_parts(self, crossings: Crossings) -> None:
        """Hand the groups of ledgers with parts over to `crossings`."""
        self.crossings = crossings
        self._parts = crossings.parts

    def enter(self, request: Group) -> asyncio.Future[Outcomes]:
        """As `Poster.enter`."""
        if request.ledger in self._parts:
            self.check_room()
            return self.crossings.enter(self._parts[request.ledger], request)
        return self.post_on_part(request)


class MovementPoster(PartsPoster, OverlappingPoster):
    """The poster of movements."""

    post_on_part = OverlappingPoster.enter


class RemoteMovementPoster(PartsPoster, RemotePoster):
    """The queue of movements of another process."""

    post_on_part = RemotePoster.enter
