"""The accounts of what instructions build on, for callers whose grants are limited to accounts."""

from collections.abc import Iterable

from ledgerservice.access.covering import CREDIT, DEBIT, Parent, Use, parent_of
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Instruction, Kind
from ledgerservice.postgres.queries.parents import MovedView, find_moved

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
        reader = call.runtime.reader.of(call.ledger)
        for moved in await find_moved(reader, table, sorted(numbers)):
            parents.setdefault((table, moved.id), []).extend(_uses(moved))
    return call._replace(parents=parents)


def not_found(parent: Parent) -> ProblemError:
    """The refusal of an instruction that builds on what does not exist for its caller."""
    return ProblemError(_NOT_FOUND[parent[0]])


def _uses(moved: MovedView) -> list[Use]:
    """The use of an account. That outside of a deposit or withdrawal is nobody's."""
    if moved.account_id < 0 and moved.kind is not Kind.GENERAL:
        return []
    amount = to_major(moved.amount, moved.exponent)
    return [Use(moved.account_id, CREDIT if moved.credited else DEBIT, amount)]
