"""The answers to requests for accounts, currencies and ledgers, once these are there. Pure.

The database decides who came first; what is here tells each who asked what has become of it.
"""

from collections.abc import Iterable

import msgspec

from ledgerservice.domain.instructions import is_key, unordered
from ledgerservice.domain.transactions import Currency, NewLedger, Opened, Opening, Reject, Rejected


def settle_ledgers(
    asked: Iterable[NewLedger], found: Iterable[NewLedger], fresh: Iterable[str]
) -> list[NewLedger]:
    """The answers to `asked`, in order, once their names are there; those in `fresh` are new."""
    by_name = {ledger.name: ledger for ledger in found}
    unanswered = set(fresh)
    answers: list[NewLedger] = []
    for wanted in asked:
        ledger = by_name[wanted.name]
        replayed = wanted.name not in unanswered
        unanswered.discard(wanted.name)
        answers.append(msgspec.structs.replace(ledger, replayed=replayed))
    return answers


def settle_currencies(
    asked: Iterable[Currency], found: Iterable[Currency], fresh: Iterable[str]
) -> list[Currency | Rejected]:
    """The answers to `asked`, in order, once their codes are there; those in `fresh` are new."""
    by_code = {currency.code: currency for currency in found}
    unanswered = set(fresh)
    answers: list[Currency | Rejected] = []
    for wanted in asked:
        currency = by_code[wanted.code]
        if (currency.exponent, currency.name) != (wanted.exponent, wanted.name):
            answers.append(Rejected(Reject.CURRENCY_TAKEN))
        else:
            replayed = wanted.code not in unanswered
            unanswered.discard(wanted.code)
            answers.append(msgspec.structs.replace(wanted, replayed=replayed))
    return answers


def settle_openings(
    openings: Iterable[Opening], accounts: Iterable[Opened], fresh: Iterable[int]
) -> list[Opened | Rejected]:
    """The answers to `openings`, in order, once their accounts are there.

    `accounts` are those that carry one of their keys or references; the ids in `fresh` were
    opened for this batch. A reference protects like a key: the same content is a replay, unless
    the caller gave another key, which would have two outcomes then.
    """
    by_key = {(account.ledger, account.key): account for account in accounts}
    by_reference = {(a.ledger, a.reference): a for a in by_key.values() if a.reference}
    unanswered = set(fresh)
    answers: list[Opened | Rejected] = []
    for opening in openings:
        found = by_key.get((opening.ledger, opening.key))
        clash = Reject.KEY_REUSED
        if found is None:
            found, clash = (
                by_reference.get((opening.ledger, opening.reference or "")),
                Reject.REFERENCE_TAKEN,
            )
        answers.append(_settle_opening(opening, found, clash, unanswered))
    return answers


_OPENED_AS = ("owner", "currency", "reference")


def _settle_opening(
    opening: Opening, found: Opened | None, clash: Reject, unanswered: set[int]
) -> Opened | Rejected:
    if found is None:
        return Rejected(Reject.CURRENCY_UNKNOWN)
    if found.key != opening.key and is_key(opening.key):
        return Rejected(clash, found.account_id)
    if any(getattr(found, name) != getattr(opening, name) for name in _OPENED_AS):
        return Rejected(clash, found.account_id)
    before, now = (one.metadata and unordered(one.metadata) for one in (found, opening))
    if before != now:
        return Rejected(clash, found.account_id)
    if found.account_id in unanswered:
        unanswered.remove(found.account_id)
        return found
    return msgspec.structs.replace(found, replayed=True)
