"""Transfers between parts of a ledger: each is over in both, or in neither."""

from collections import defaultdict
from typing import Any

from tests.proof.history import CROSSING
from tests.proof.journal import Hold, Transaction
from tests.proof.judging.evidence import CROSS_CREDIT, DECLINED, ENDS, OK, Case, Found, outcome
from tests.proof.parts import ids_of

CROSS_DEBIT, CROSS_RELEASE = ENDS
CROSS_KINDS = (CROSSING, CROSS_CREDIT, *ENDS)
CLEARING = -32_768
"""Clearing accounts have ids below this one."""

Steps = tuple[list[Transaction], list[Transaction]]
"""The credits of a hold, and its ends."""


def steps_of(case: Case, hold: int) -> Steps:
    steps = case.steps.get(hold, [])
    return [t for t in steps if t.kind == CROSS_CREDIT], [t for t in steps if t.kind in ENDS]


def is_debit(t: Transaction) -> bool:
    """Whether it ends a hold because the money has arrived, whatever the policy is by then."""
    return t.kind == CROSS_DEBIT


def is_its_step(case: Case, t: Transaction, found: set[tuple[int, int, int]]) -> bool:
    """Whether the entries of a posted step are those of its kind, and of its hold."""
    hold = case.holds.get(t.id if t.kind == CROSSING else case.hold_of(t))
    if hold is None or hold.to_account is None or t.amount != hold.amount:
        return False
    if t.kind == CROSS_CREDIT:
        clearing = next((account for account, *_ in found if account < 0), 0)
        is_same = ids_of(clearing)[1] == ids_of(hold.other)[1]
        return is_same and found == {(clearing, -t.amount, 0), (hold.to_account, t.amount, 0)}
    if t.account != hold.account:
        return False
    if t.kind == CROSS_DEBIT:
        return found == {(t.account, -t.amount, -t.amount), (hold.other, t.amount, 0)}
    return found == {(t.account, 0, t.amount if t.kind == CROSSING else -t.amount)}


def crossings_are_whole(case: Case) -> Found:
    """The hold of each is captured if it was credited, and released if that was declined; once."""
    for t in case.journal.transactions:
        if t.kind != CROSSING or t.reason is not None:
            continue
        credits_, ends = steps_of(case, t.id)
        where = f"transaction {t.id}"
        posted = [credit for credit in credits_ if credit.reason is None]
        if len(posted) > 1 or len(ends) > 1:
            yield "crossed_twice", f"{where}: {[step.id for step in (*posted, *ends)]}"
        elif not ends:
            yield "crossing_open", where
        elif not credits_ or bool(posted) != is_debit(ends[0]):
            yield "half_done", f"{where}: {ends[0].kind}, {len(posted)} credits"


def steps_are_of_their_holds(case: Case) -> Found:
    """Nothing is credited or ended but for a hold; each step has its account, amount, key, texts
    and principal.
    """
    for hold_id, steps in case.steps.items():
        hold, t = case.holds.get(hold_id), case.transactions.get(hold_id)
        for step in steps:
            if hold is None or t is None or hold.to_account is None:
                yield "step_unfounded", f"transaction {step.id}, {step.key}"
            elif not _is_step_of(case, step, hold, t):
                yield "step_differs", f"transaction {step.id}, {step.key}"


def _is_step_of(case: Case, step: Transaction, hold: Hold, t: Transaction) -> bool:
    source = case.parts[hold.account % len(case.parts)]
    place = hold.account, f"x:{hold.id}:end"
    if step.kind == CROSS_CREDIT:
        place = hold.to_account or 0, f"x:{source}:{hold.id}"
    same = (step.account, step.key) == place and step.amount == hold.amount == t.amount
    return same and (step.detail, step.principal) == (t.detail, t.principal)


def holds_go_to_their_parts(case: Case) -> Found:
    """What is held for another part names the part that has the account."""
    for hold in case.journal.holds:
        if hold.to_account is None:
            continue
        number = hold.to_account % len(case.parts)
        if hold.to_ledger != case.parts[number] or number == hold.account % len(case.parts):
            yield "step_differs", f"hold {hold.id} is for account {hold.to_account}"


def clearing_accounts_agree(case: Case) -> Found:
    """Those of a pair of parts are equal and opposite, but for credits whose holds are open."""
    totals: dict[int, int] = defaultdict(int)
    for account in case.accounts.values():
        _, number = ids_of(account.id)
        if account.id < 0 and number < CLEARING:
            totals[number] += account.balance
    for hold in case.journal.holds:
        if hold.to_account is not None and hold.remaining:
            credits_, _ = steps_of(case, hold.id)
            posted = sum(credit.amount for credit in credits_ if credit.reason is None)
            totals[ids_of(hold.other)[1]] += posted
    for number, total in totals.items():
        if total:
            yield "clearing_differs", f"account {number}: {total}"


def parts_balance(case: Case) -> Found:
    """The books of each part balance."""
    totals: dict[tuple[int, str], int] = defaultdict(int)
    for account in case.accounts.values():
        part = account.id % len(case.parts) if account.id > 0 else ids_of(account.id)[0]
        totals[part, account.currency] += account.balance
    for (part, currency), total in totals.items():
        if total:
            yield "part_not_zero", f"part {part}: {total} {currency}"


def reads_say_what_was_answered(case: Case) -> Found:
    """A transfer that is read later is what its caller was answered."""
    answered: dict[int, Any] = {}
    for attempt in case.attempts:
        if attempt.request.kind == CROSSING and outcome(attempt) in (OK, DECLINED):
            answered[attempt.body["transaction_id"]] = attempt.body
    for attempt in case.attempts:
        if attempt.request.kind != "transaction" or outcome(attempt) != OK:
            continue
        body = answered.get(attempt.request.parent, {})
        differing = [name for name in body if attempt.body.get(name) != body[name]]
        if not body or set(differing) - ONLY_IN_PROBLEMS:
            yield "read_differs", f"transaction {attempt.request.parent}: {differing}"


ONLY_IN_PROBLEMS = frozenset({"type", "title", "status", "detail", "retry"})
PROMISES = (
    crossings_are_whole,
    steps_are_of_their_holds,
    holds_go_to_their_parts,
    clearing_accounts_agree,
    parts_balance,
    reads_say_what_was_answered,
)
"""Of ledgers with parts."""
