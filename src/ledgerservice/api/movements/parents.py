"""The accounts of what instructions build on, for callers whose grants are limited to accounts."""

from collections.abc import Iterable

from ledgerservice.access.covering import CREDIT, DEBIT, Parent, Use, parent_of
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Instruction, Kind
from ledgerservice.postgres.queries.parents import MovedView, find_moved
from ledgerservice.postgres.reader import Reader

_NOT_FOUND = {
    "holds": "hold_not_found",
    "schedules": "schedule_not_found",
    "transactions": "transaction_not_found",
}


async def with_parents(call: Call, instructions: Iterable[Instruction]) -> Call:
    """The call, and what is known of the accounts of all that the instructions build on."""
    if call.ledger not in call.caller.by_accounts:
        return call
    ids: dict[str, set[int]] = {}
    for parent in filter(None, map(parent_of, instructions)):
        ids.setdefault(parent[0], set()).add(parent[1])
    parents: dict[Parent, list[Use]] = {}
    for table, numbers in ids.items():
        for ledger_id, some in await _by_home(call, numbers):
            for moved in await find_moved(await _reader_of(call, ledger_id), table, some):
                parents.setdefault((table, moved.id), []).extend(_uses(moved))
    for number in ids.get("transactions", ()):
        if uses := await _uses_of_crossing(call, number):
            parents["transactions", number] = uses
    return call._replace(parents=parents)


async def _reader_of(call: Call, ledger_id: int) -> Reader:
    if ledger_id == call.ledger:
        return call.runtime.reader.of(ledger_id)
    return await call.runtime.crossings.reader_of(ledger_id)


async def _by_home(call: Call, ids: Iterable[int]) -> list[tuple[int, list[int]]]:
    """The ids of each part of the ledger; of a ledger without parts all of them."""
    parts = await call.runtime.parts_of(call.ledger)
    if parts is None:
        return [(call.ledger, sorted(ids))]
    homes: dict[int, list[int]] = {}
    for number in sorted(ids):
        homes.setdefault(await call.runtime.routes.home_of(parts, number), []).append(number)
    return list(homes.items())


async def _uses_of_crossing(call: Call, transaction_id: int) -> list[Use]:
    """What the reversal of a transfer between parts moves; nothing if it is another transaction."""
    parts, routes = await call.runtime.parts_of(call.ledger), call.runtime.routes
    home = None if parts is None else await routes.find_home(parts, transaction_id)
    credit = None if home is None else await routes.find_arrival(home)
    if home is None or credit is None:
        return []
    reader = await routes.reader_of(credit.ledger_id)
    moved = [
        use for one in await find_moved(reader, "transactions", [credit.id]) for use in _uses(one)
    ]
    return [*moved, *(Use(home.account_id, CREDIT, use.amount) for use in moved)]


def not_found(parent: Parent) -> ProblemError:
    """The refusal of an instruction that builds on what does not exist for its caller."""
    return ProblemError(_NOT_FOUND[parent[0]])


def _uses(moved: MovedView) -> list[Use]:
    """The use of an account. That outside of a deposit or withdrawal is nobody's."""
    if moved.account_id < 0 and moved.kind is not Kind.GENERAL:
        return []
    amount = to_major(moved.amount, moved.exponent)
    return [Use(moved.account_id, CREDIT if moved.credited else DEBIT, amount)]
