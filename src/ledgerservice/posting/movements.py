"""One batch of instructions: lock, plan, write; in a transaction of its own."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from ledgerservice.domain import planner
from ledgerservice.domain.digests import SALT_BYTES
from ledgerservice.domain.instructions import General, Group, Instruction, Kind, Movement
from ledgerservice.domain.planner import Plan
from ledgerservice.domain.transactions import Failed, Outcomes, Rejected, Transaction
from ledgerservice.postgres import journal, locking
from ledgerservice.postgres.locking import Locked
from ledgerservice.postgres.pipeline import Request, Wire
from ledgerservice.posting.known import MOST_MOVEMENTS, KnownAccounts
from ledgerservice.telemetry import batches
from ledgerservice.telemetry.metrics import INSTRUCTIONS, KNOWN_BATCHES

LEGS_OF_A_MOVEMENT = 2
MOST_REMEMBERED = 10_000
"""Holds for other parts that are kept in memory."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Instead of the clock: the time of the batch is then the earliest that its accounts allow."""


def weight_of(group: Group) -> int:
    """The weight of a group in movements; a transaction of many legs weighs as many as its legs."""
    instructions = group.instructions()
    weight = len(instructions)
    if weight == 1 and type(instructions[0]) is Movement:
        return 1
    if General in set(map(type, instructions)):
        legs = sum(len(one.legs) for one in instructions if isinstance(one, General))
        weight += legs // LEGS_OF_A_MOVEMENT
    return weight


def salts() -> Iterator[bytes]:
    """Random bytes for the digests of side rows."""
    return iter(partial(secrets.token_bytes, SALT_BYTES), None)


class Ahead(NamedTuple):
    """The plan of a batch that is about to be committed, in a ledger."""

    ledger: int
    plan: Plan


Announce = Callable[[Ahead | None], None]


def _not_overlapping(_: Ahead | None) -> None:
    """Nobody overlaps a batch that is posted by itself."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A batch that is written but for the end of its entries, while the one `before` it is not yet
    committed. It must not be finished before that one is.
    """

    wire: Wire
    before: Ahead
    ahead: Ahead

    async def finish(self) -> list[Outcomes]:
        """Let the database judge it, and commit; the answers. Raises psycopg's errors."""
        await journal.finish_recording(self.wire)
        plan = self.ahead.plan
        _count(plan, all_new=True)
        return plan.answers


class MovementBatch:
    """Posts one batch of instructions, for each ledger in turn.

    `announce` is called with the plan of a large batch of movements before it is written, and with
    None if it will not be committed after all.

    A large batch of plain movements is posted without looking up its keys, which saves a tenth of
    the server's work, as long as all keys are new: each movement writes a row then, and the unique
    key judges it. After a batch with a replay or a rejection, which write no row, the next batch
    looks its keys up first.

    A small batch of plain movements is posted on what this process knows of its accounts, in one
    round trip, and the database judges it; under locks only if it objects.

    A hold for another part is remembered until its end, which is posted soon and builds on it; not
    on another connection, which can be to a server that has lost it.
    """

    def __init__(self) -> None:
        self._all_new = True
        self._crossings: dict[tuple[int, int], Transaction] = {}
        self._known = KnownAccounts()
        self._wire: Wire | None = None
        self.announce: Announce = _not_overlapping

    async def __call__(self, wire: Wire, groups: list[Group]) -> list[Outcomes]:
        """The answers to `groups`, in order, durable; a dry run only gets an answer."""
        first = groups[0]
        if all(g.ledger == first.ledger and g.dry_run == first.dry_run for g in groups):
            return await self._post(wire, groups, self.announce)
        parts: dict[tuple[int, bool], list[int]] = {}
        for place, group in enumerate(groups):
            parts.setdefault((group.ledger, group.dry_run), []).append(place)
        answers: dict[int, Outcomes] = {}
        for places in parts.values():
            outcomes = await self._post(wire, [groups[place] for place in places])
            answers.update(zip(places, outcomes, strict=True))
        return [answers[place] for place in range(len(groups))]

    async def _post(
        self, wire: Wire, groups: list[Group], announce: Announce = _not_overlapping
    ) -> list[Outcomes]:
        ledger, instructions = groups[0].ledger, _instructions(groups)
        self._meet(wire)
        if groups[0].dry_run:
            return await self._rehearse(wire, groups)
        answers = await self._post_known(wire, groups, instructions)
        if answers is not None:
            return answers
        plan = None
        if self._all_new and _many_movements(instructions):
            plan = await self._plan(wire, groups, instructions, look_up_keys=False)
            announce(Ahead(ledger, plan))
            if not await journal.record_new(wire, ledger, plan, len(instructions)):
                announce(None)
                plan = None
        if plan is None:
            plan = await self._plan(wire, groups, instructions)
            await journal.record(wire, ledger, plan)
            self._remember(ledger, plan.transactions)
        self._learn(ledger, plan, instructions)
        self._all_new = len(plan.transactions) - plan.service_initiated == len(instructions)
        _count(plan, all_new=self._all_new)
        return plan.answers

    async def _post_known(
        self, wire: Wire, groups: list[Group], instructions: list[Instruction]
    ) -> list[Outcomes] | None:
        """Post a small batch in one round trip, on accounts that are known; None if it is to be
        posted under locks: it is another one, or something would not be posted, or the database
        objects.
        """
        ledger, few = groups[0].ledger, len(instructions) < journal.COPY_FROM_TRANSACTIONS
        accounts = self._known.of(ledger, instructions) if few and self._all_new else None
        if accounts is None:
            return None
        plan = planner.plan(groups, accounts, {}, LONG_AGO, count(), salts=salts())
        if len(plan.transactions) != len(instructions) or not plan.is_plain():
            return None
        batches.end_phase(batches.PLAN)
        committed = await journal.record_known(wire, ledger, accounts, plan)
        KNOWN_BATCHES.add(1, "committed" if committed else "refused")
        if not committed:
            self._known.refuse()
            return None
        self._known.learn(ledger, plan)
        _count(plan, all_new=True)
        return plan.answers

    def _learn(self, ledger: int, plan: Plan, instructions: list[Instruction]) -> None:
        """Know the accounts of a committed batch of movements; forget those of others."""
        few = len(instructions) <= MOST_MOVEMENTS and not plan.service_initiated
        if few and all(type(one) is Movement for one in instructions):
            self._known.learn(ledger, plan)
        else:
            self._known.forget(ledger, plan.states)

    def _meet(self, wire: Wire) -> None:
        """Forget what was known from another connection: it may be to another server."""
        if wire is not self._wire:
            self._crossings.clear()
            self._known.clear()
            self._wire = wire

    def _remember(self, ledger: int, transactions: Sequence[Transaction]) -> None:
        """Remember the recorded holds for other parts, and forget those that have ended."""
        for one in transactions:
            if one.kind is Kind.CROSSING and one.refusal is None:
                if len(self._crossings) >= MOST_REMEMBERED:
                    self._crossings.clear()
                self._crossings[ledger, one.id] = one
            elif one.kind in (Kind.CROSS_DEBIT, Kind.CROSS_RELEASE) and one.extra is not None:
                self._crossings.pop((ledger, one.extra.parent_id or 0), None)

    async def overlap(self, wire: Wire, groups: list[Group], before: Ahead) -> Overlap | None:
        """Write a batch on the states that the one before it leaves, without locks and look-ups.

        None, with nothing done, if the batch is not one that the database can judge: a large one of
        plain movements that are all posted, with new keys, on accounts without holds.
        """
        ledger, instructions = before.ledger, _instructions(groups)
        same = all(one.ledger == ledger and not one.dry_run for one in groups)
        if not (same and self._all_new and _many_movements(instructions)):
            return None
        begin, known = Request(journal.BEGIN), before.plan.states
        glimpse = await locking.glimpse(wire, ledger, instructions, known, begin)
        batches.end_phase(batches.LOCK)
        plan = planner.plan(
            groups,
            glimpse.accounts,
            {},
            glimpse.now,
            locking.ids_of(glimpse.blocks),
            salts=salts(),
            continued=glimpse.continued,
            after=before.plan.recorded_at,
        )
        batches.end_phase(batches.PLAN)
        if len(plan.transactions) != len(instructions) or not plan.is_plain():
            await journal.abandon(wire)
            return None
        self._known.clear()
        await journal.begin_recording(wire, ledger, plan)
        return Overlap(wire, before, Ahead(ledger, plan))

    async def _rehearse(self, wire: Wire, groups: list[Group]) -> list[Outcomes]:
        """The answer of each group if it came now, and alone. Nothing is written."""
        locked = await self._lock(wire, groups[0].ledger, _instructions(groups))
        await journal.abandon(wire)
        answers: list[Outcomes] = []
        for group in groups:
            answers += planned([group], locked, locked.ids()).answers
        return answers

    async def _plan(
        self,
        wire: Wire,
        groups: list[Group],
        instructions: list[Instruction],
        *,
        look_up_keys: bool = True,
    ) -> Plan:
        ledger = groups[0].ledger
        locked = await self._lock(wire, ledger, instructions, look_up_keys=look_up_keys)
        batches.end_phase(batches.LOCK)
        plan = planned(groups, locked, locked.ids())
        batches.end_phase(batches.PLAN)
        return plan

    async def _lock(
        self,
        wire: Wire,
        ledger: int,
        instructions: list[Instruction],
        *,
        look_up_keys: bool = True,
    ) -> Locked:
        """Begin, and lock the state to decide on."""
        parents = await locking.find_parents(wire, ledger, instructions, self._crossings)
        begin = Request(journal.BEGIN)
        return await locking.lock(
            wire, ledger, instructions, parents, begin, look_up_keys=look_up_keys
        )


def _count(plan: Plan, *, all_new: bool) -> None:
    """Count what was decided. The answers are gone through only if some are no new records."""
    refusals = [one.refusal.reason.value for one in plan.transactions if one.refusal is not None]
    posted = len(plan.transactions) - len(refusals)
    INSTRUCTIONS.add(posted, "posted", "")
    for code in refusals:
        INSTRUCTIONS.add(1, "declined", code)
    if not all_new:
        _count_others(plan.answers)


def _count_others(answers: Iterable[Any]) -> None:
    for answer in answers:
        if isinstance(answer, list):
            _count_others(answer)
        elif isinstance(answer, Failed):
            INSTRUCTIONS.add(1, "failed_together", "")
        elif isinstance(answer, Rejected):
            INSTRUCTIONS.add(1, "rejected", answer.reason.value)
        elif answer.replayed:
            INSTRUCTIONS.add(1, "replayed", "")


def planned(groups: list[Group], locked: Locked, ids: Iterator[int]) -> Plan:
    """The decisions on `groups`, on the state that was locked."""
    return planner.plan(
        groups,
        locked.accounts,
        locked.earlier,
        locked.now,
        ids,
        salts=salts(),
        parents=locked.parents,
    )


def _many_movements(instructions: Sequence[Instruction]) -> bool:
    many = len(instructions) >= journal.COPY_FROM_TRANSACTIONS
    return many and set(map(type, instructions)) == {Movement}


def _instructions(groups: list[Group]) -> list[Instruction]:
    return [instruction for group in groups for instruction in group.instructions()]
