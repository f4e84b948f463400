"""Conditions of legs, on their accounts before the transaction."""

from tests.proof.history import Request
from tests.proof.journal import Transaction
from tests.proof.judging.evidence import Case, Found
from tests.proof.judging.matching import requests_of


def conditions_are_met(case: Case) -> Found:
    """Nothing is posted unless all that its legs demand was so, at the versions before it."""
    for t in case.journal.transactions:
        if t.kind == "general" and t.reason is None:
            requests = requests_of(case, t)
            if requests and all(_is_unmet(case, t, request) for request in requests):
                yield "condition_not_met", f"transaction {t.id}"


def _is_unmet(case: Case, t: Transaction, request: Request) -> bool:
    before: dict[int, int] = {}
    for leg in case.legs.get(t.id, []):
        before[leg.account] = min(leg.seq - 1, before.get(leg.account, leg.seq))
    return any(fails(case, request, account, version) for account, version in before.items())


def fails(case: Case, request: Request, account: int, version: int) -> bool:
    """Whether a request demands of an account what was not so at a version."""
    state = case.state(account, version)
    if state is None:
        return False
    balance, held = state
    found = {
        "available_at_least": balance - held,
        "balance_at_least": balance,
    }
    return any(
        version != value if name == "version" else found[name] < value
        for of, name, value in request.conditions
        if of == account
    )
