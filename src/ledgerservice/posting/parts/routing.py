"""Where an instruction on a ledger with parts belongs: on one part, or between two."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ledgerservice.domain.instructions import (
    Crossing,
    CrossingBack,
    Detail,
    General,
    Instruction,
    Kind,
    Leg,
    Movement,
    Reversal,
    Step,
)
from ledgerservice.domain.ledgers import Parts, credit_key
from ledgerservice.domain.rules import RULES
from ledgerservice.domain.transactions import Failed, Rejected, Rejection
from ledgerservice.errors import Unavailable
from ledgerservice.postgres.queries.parts import (
    AccountNumber,
    Credit,
    Home,
    find_credit,
    find_homes,
    find_numbers,
)
from ledgerservice.postgres.reader import Reader

MOST_REMEMBERED = 100_000
"""Accounts and transactions whose place is kept in memory: it never changes."""


class Place(NamedTuple):
    """The part that an item is posted on. `crosses`: it is the first step to another part."""

    ledger_id: int
    item: Instruction | tuple[Instruction, ...]
    crosses: bool = False


Placed = Place | Rejected | Failed


def named_accounts(instruction: Instruction) -> Iterable[int]:
    """The accounts that a caller's instruction names."""
    if isinstance(instruction, Movement):
        other = instruction.counterparty_id
        return (instruction.account_id,) if other is None else (instruction.account_id, other)
    return RULES[type(instruction)].names(instruction)


class Routes:
    """Finds the places of instructions. What they name is looked up once."""

    def __init__(self, reader_of: Callable[[int], Awaitable[Reader]]) -> None:
        """`reader_of` has a reader of each part, wherever its home is."""
        self.reader_of = reader_of
        self._numbers: dict[int, int] = {}
        self._homes: dict[int, Home] = {}

    async def find_all(
        self, parts: Parts, items: Sequence[Instruction | tuple[Instruction, ...]]
    ) -> list[Placed]:
        """The place of each item. What is linked has one part, or fails."""
        await self._learn(parts, list(_flat(items)))
        return [
            self._place_linked(parts, item)
            if isinstance(item, tuple)
            else await self._place(parts, item)
            for item in items
        ]

    def _place_linked(self, parts: Parts, linked: tuple[Instruction, ...]) -> Placed:
        first: int | None = None
        for index, one in enumerate(linked):
            homes = self._homes_of(parts, one)
            first = homes[0] if first is None else first
            if set(homes) != {first} or self._is_crossing(one):
                return Failed(index, _refused(one))
        assert first is not None
        return Place(first, linked)

    def _is_crossing(self, one: Instruction) -> bool:
        """Whether it reverses a transfer between parts."""
        home = self._homes.get(one.parent_id) if isinstance(one, Reversal) else None
        return home is not None and home.kind is Kind.CROSSING

    def _homes_of(self, parts: Parts, one: Instruction) -> list[int]:
        if not isinstance(one, Step):
            return [parts.home(number) for number in named_accounts(one)]
        home = self._homes.get(one.parent_id)
        legs = one.legs if isinstance(one, Reversal) and one.legs else ()
        own = parts.ids[0] if home is None else home.ledger_id  # it is not found there
        return [own, *(own for _ in legs)]

    async def _place(self, parts: Parts, one: Instruction) -> Placed:
        homes = self._homes_of(parts, one)
        if self._is_crossing(one):
            assert isinstance(one, Reversal)
            return await self._place_back(parts, one)
        if set(homes) == {homes[0]}:
            return Place(homes[0], one)
        pair = _pair_of(one)
        if pair is None:
            return _refused(one)
        return self._place_crossing(parts, one, *pair)

    def _place_crossing(
        self, parts: Parts, one: Any, to_account_id: int, amount: str, detail: Detail | None
    ) -> Place:
        """A transfer to an account that does not exist is rejected by the part of the other."""
        own = parts.home(one.account_id)
        number = self._numbers.get(to_account_id)
        if number is None:
            return Place(own, one)
        to_ledger_id = parts.home(to_account_id)
        clearing_id = parts.clearing_id(one.account_id, to_account_id, number)
        facts = one.account_id, to_account_id, to_ledger_id, clearing_id, amount
        return Place(own, Crossing(*facts, one.key, detail), crosses=True)

    async def _place_back(self, parts: Parts, one: Reversal) -> Placed:
        """A transfer is reversed by one the other way, if it has arrived."""
        home = self._homes[one.parent_id]
        credit = await self.find_arrival(home)
        if credit is None:
            return Place(home.ledger_id, one)  # it is rejected there
        if one.legs is not None or one.force:
            return _refused(one)
        clearing = parts.clearing_id(credit.account_id, home.account_id, credit.currency_number)
        back = CrossingBack(
            parent_id=credit.id,
            key=one.key,
            detail=one.detail,
            counterparty_id=home.account_id,
            to_ledger_id=home.ledger_id,
            clearing_id=clearing,
            amount=one.amount,
        )
        return Place(credit.ledger_id, back, crosses=True)

    async def _learn(self, parts: Parts, instructions: Sequence[Instruction]) -> None:
        """Look up the currencies of the accounts in other parts, and what steps build on."""
        others = {
            pair[0] for one in instructions if (pair := self._pair_between(parts, one)) is not None
        }
        await self._learn_numbers(parts, others - self._numbers.keys())
        parents = {one.parent_id for one in instructions if isinstance(one, Step)}
        await self._learn_homes(parts, parents - self._homes.keys())

    def _pair_between(
        self, parts: Parts, one: Instruction
    ) -> tuple[int, str, Detail | None] | None:
        if isinstance(one, Step) or len(set(self._homes_of(parts, one))) == 1:
            return None
        return _pair_of(one)

    async def _learn_numbers(self, parts: Parts, account_ids: set[int]) -> None:
        by_home: dict[int, list[int]] = {}
        for number in account_ids:
            if number > 0:
                by_home.setdefault(parts.home(number), []).append(number)
        for ledger_id, ids in by_home.items():
            rows: list[AccountNumber] = await find_numbers(await self.reader_of(ledger_id), ids)
            _remember(self._numbers, {row.id: row.currency_number for row in rows})

    async def _learn_homes(self, parts: Parts, transaction_ids: set[int]) -> None:
        """Raises Unavailable if what no part has may be in one that is away."""
        missing = set(transaction_ids)
        fault: Unavailable | None = None
        for ledger_id in parts.ids:
            if missing:
                try:
                    homes = await find_homes(await self.reader_of(ledger_id), sorted(missing))
                except Unavailable as error:
                    fault = error
                    continue
                _remember(self._homes, {home.id: home for home in homes})
                missing -= {home.id for home in homes}
        if missing and fault is not None:
            raise fault

    async def home_of(self, parts: Parts, transaction_id: int) -> int:
        """The part that has a transaction; the first, if there is no such transaction."""
        home = await self.find_home(parts, transaction_id)
        return parts.ids[0] if home is None else home.ledger_id

    async def find_home(self, parts: Parts, transaction_id: int) -> Home | None:
        """The part that has a transaction, and where it goes; None if there is none."""
        await self._learn_homes(parts, {transaction_id} - self._homes.keys())
        return self._homes.get(transaction_id)

    async def find_arrival(self, home: Home) -> Credit | None:
        """The posted credit of a transfer to another part, or None."""
        if home.kind is not Kind.CROSSING or home.to_ledger_id is None:
            return None
        key = credit_key(home.ledger_id, home.id)
        reader = await self.reader_of(home.to_ledger_id)
        return await find_credit(reader, home.to_account_id or 0, key)


def _remember(memory: dict[int, Any], news: dict[int, Any]) -> None:
    if len(memory) + len(news) > MOST_REMEMBERED:
        memory.clear()
    memory.update(news)


def _flat(items: Iterable[Instruction | tuple[Instruction, ...]]) -> Iterator[Instruction]:
    for item in items:
        if isinstance(item, tuple):
            yield from item
        else:
            yield item


def _refused(one: Instruction) -> Rejected:
    return Rejected(Rejection.DIFFERENT_PARTS, getattr(one, "account_id", None))


def _pair_of(one: Instruction) -> tuple[int, str, Detail | None] | None:
    """The account, the amount and the texts of what can go from one part to another."""
    if isinstance(one, Movement) and one.counterparty_id is not None:
        return one.counterparty_id, one.amount, one.detail
    if isinstance(one, General) and len(one.legs) == 2 and one.exchange is None:
        debit, credit = one.legs
        if debit == Leg(debit.account_id, f"-{credit.amount}") and credit == Leg(
            credit.account_id, credit.amount
        ):
            return credit.account_id, credit.amount, one.detail
    return None
