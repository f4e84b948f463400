"""Accounts: entries balance, continue, and stay within policies."""

from collections import defaultdict
from itertools import groupby

from tests.proof.history import PLAIN
from tests.proof.journal import Account, Entry, Transaction
from tests.proof.judging.crossings import CROSS_KINDS, is_debit, is_its_step
from tests.proof.judging.evidence import CLOSED, CREDITS, DEBITS, Case, Found
from tests.proof.judging.exchanges import is_at_its_rate, is_rounded
from tests.proof.judging.matching import requests_of


def transactions_balance(case: Case) -> Found:
    for transaction in case.journal.transactions:
        totals: dict[int, int] = defaultdict(int)
        legs = case.legs.get(transaction.id, [])
        for leg in legs:
            totals[leg.currency_number] += leg.amount
            if leg.recorded_at != transaction.recorded_at:
                yield "other_moment", f"transaction {transaction.id}"
        if any(totals.values()):
            yield "unbalanced", f"transaction {transaction.id}: {dict(totals)}"
        if transaction.reason is not None and legs:
            yield "decline_moved", f"transaction {transaction.id} was declined, and has entries"
        if transaction.reason is None and not _is_what_it_says(case, transaction, legs):
            yield (
                "content_broken",
                f"transaction {transaction.id}: its entries are not what it says",
            )
    for number in case.legs.keys() - case.transactions.keys():
        yield "orphan_entries", f"transaction {number} does not exist"


def _is_what_it_says(case: Case, t: Transaction, legs: list[Entry]) -> bool:
    """Whether the entries of a posted transaction are those of its kind, amount and parent."""
    found = {(leg.account, leg.amount, leg.held_change) for leg in legs}
    if t.kind in PLAIN:
        amount = t.amount if t.kind == "deposit" else -t.amount
        return found == {(t.account, amount, 0), (t.other, -amount, 0)}
    if t.kind == "general":
        return len(legs) > 1 and not any(leg.held_change for leg in legs)
    if t.kind == "reversal":
        return t.parent in case.transactions and not any(leg.held_change for leg in legs)
    if t.kind in ("policy", "schedule", "cancellation"):
        asked = {"policy": t.policy, "schedule": case.schedules.get(t.id)}
        parent = case.schedules.get(t.parent or 0)
        return found == {(t.account, 0, 0)} and asked.get(t.kind, parent) is not None
    if t.kind in CROSS_KINDS:
        return is_its_step(case, t, found)
    hold = case.holds.get(t.id if t.kind == "hold" else t.parent or 0)
    if hold is None or hold.account != t.account:
        return False
    if t.kind == "hold":
        return found == {(t.account, 0, t.amount)} and hold.amount == t.amount
    if t.kind == "release":
        return found == {(t.account, 0, -t.amount)}
    own = [leg for leg in legs if leg.account == t.account]
    return (
        len(own) == 1
        and own[0].held_change <= -t.amount
        and found == {(t.account, -t.amount, own[0].held_change), (hold.other, t.amount, 0)}
    )


def exchanges_are_fair(case: Case) -> Found:
    """Money of two currencies is exchanged at the rate that is told, and no rounding is lost."""
    for t in case.journal.transactions:
        if t.kind != "general" or t.reason is not None:
            continue
        requests = requests_of(case, t)
        if requests and not any(is_at_its_rate(r, case.currencies) for r in requests):
            yield "rate_broken", f"transaction {t.id}"
        if requests and not any(is_rounded(r, case.currencies) for r in requests):
            yield "rounding_broken", f"transaction {t.id}"


def accounts_continue(case: Case) -> Found:
    totals: dict[int, int] = defaultdict(int)
    for account in case.journal.accounts:
        totals[account.currency_number] += account.balance
        yield from _account_continues(account, case.entries.get(account.id, []))
    for currency, total in totals.items():
        if total:
            yield "total_not_zero", f"currency {currency}: {total}"
    for number in case.entries.keys() - case.accounts.keys():
        yield "orphan_entries", f"account {number} does not exist"


def _account_continues(account: Account, rows: list[Entry]) -> Found:
    balance, held, moment = 0, 0, ""
    for place, entry in enumerate(rows, start=1):
        where = f"account {account.id}, version {entry.seq}"
        balance += entry.amount
        held += entry.held_change
        if entry.seq != place:
            yield "version_gap", f"{where} should be {place}"
        if entry.balance != balance:
            yield "balance_broken", f"{where}: {entry.balance} instead of {balance}"
        if entry.held != held or held < 0:
            yield "held_broken", f"{where}: {entry.held} instead of {held}"
        if entry.currency_number != account.currency_number:
            yield "currency_broken", where
        if entry.recorded_at < moment:
            yield "time_backwards", where
        balance, held, moment = entry.balance, entry.held, entry.recorded_at
    last = (rows[-1].balance, rows[-1].held, rows[-1].seq) if rows else (0, 0, 0)
    if (account.balance, account.held, account.version) != last:
        yield "account_differs", f"account {account.id} is not what its last entry says"


def policies_are_kept(case: Case) -> Found:
    """Nothing that lowers an account takes it below its floor, and so on; what a transaction does
    to an account is judged together.
    """
    for number, account in case.accounts.items():
        if number < 0:
            continue
        policy = account.floor, account.ceiling, account.restricted
        if policy != case.policy(number, account.version):
            yield "account_differs", f"account {number} is not what its last policy says"
        together = groupby(case.entries.get(number, []), lambda entry: entry.transaction)
        for transaction, rows in together:
            *_, last = entries = list(rows)
            amount = sum(entry.amount for entry in entries)
            held_change = sum(entry.held_change for entry in entries)
            floor, ceiling, restricted = case.policy(number, last.seq)
            where = f"account {number}, transaction {transaction}"
            below = amount < held_change and last.balance - last.held < floor
            if below and (transaction, number) not in case.forced:
                yield "overdrawn", f"{where}: {last.balance} less {last.held} held"
            if amount > 0 and ceiling is not None and last.balance > ceiling:
                yield "above_ceiling", f"{where}: {last.balance}"
            ended = transaction in case.transactions and is_debit(case.transactions[transaction])
            if not ended and any(frozen(restricted, e.amount, e.held_change) for e in entries):
                yield "moved_while_frozen", where
            if restricted & CLOSED and any(e.amount or e.held_change > 0 for e in entries):
                yield "moved_after_closing", where


def closings_are_final(case: Case) -> Found:
    """What is closed has nothing, and nothing is asked of it again; and no policy contradicts
    itself.
    """
    for t in case.journal.transactions:
        entry = next(iter(case.legs.get(t.id, [])), None)
        if t.kind not in ("policy", "schedule") or entry is None:
            continue
        where = f"account {t.account}, transaction {t.id}"
        if case.policy(t.account, entry.seq - 1)[2] & CLOSED:
            yield "moved_after_closing", where
        if t.policy is None:
            continue
        floor, ceiling, restricted = t.policy
        if restricted & CLOSED and (entry.balance or entry.held):
            yield "closed_with_money", where
        if ceiling is not None and ceiling < floor:
            yield "policy_conflicts", where


def frozen(restricted: int, amount: int, held_change: int) -> bool:
    debit = amount < 0 or held_change > 0
    return bool((debit and restricted & DEBITS) or (amount > 0 and restricted & CREDITS))


def forced_reversals_are_told(case: Case) -> Found:
    """An account is below its floor by what somebody forced, and his name and reason are kept."""
    for (number, account), kept in case.forced.items():
        t, where = case.transactions.get(number), f"account {account}, transaction {number}"
        legs = [leg for leg in case.legs.get(number, []) if leg.account == account]
        forced = [] if t is None else [r for r in requests_of(case, t) if r.force]
        if t is None or t.kind != "reversal" or not legs or not forced:
            yield "forced_unasked", where
            continue
        if (kept.actor, kept.reason) not in [(r.actor, r.description) for r in forced]:
            yield "content_differs", f"{where}: {kept.actor}, {kept.reason}"
        policy, last = case.policy(account, kept.seq), legs[-1]
        available = last.balance - last.held
        lowered = sum(leg.amount for leg in legs) < 0 and available < policy[0]
        told = kept.seq, kept.lowest, (kept.floor, kept.ceiling, kept.restricted)
        if not lowered or told != (last.seq, available, policy):
            yield "forced_differs", where


def reversals_are_bounded(case: Case) -> Found:
    """What is moved back is never more than was moved, on any account."""
    left: dict[tuple[int, int], int] = {}
    reversals = [t for t in case.journal.transactions if t.kind == "reversal" and not t.reason]
    for t in reversals:
        parent = t.parent or 0
        for leg in case.legs.get(t.id, []):
            place = parent, leg.account
            if place not in left:
                rows = case.legs.get(parent, [])
                left[place] = sum(row.amount for row in rows if row.account == leg.account)
            moved = leg.amount
            if moved * left[place] > 0 or abs(moved) > abs(left[place]):
                yield "reversal_exceeded", f"transaction {parent}, account {leg.account}"
            left[place] += moved
