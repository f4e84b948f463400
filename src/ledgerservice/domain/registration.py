"""The answers to requests for accounts, currencies and ledgers, once the database has them. Pure.

The database decides which request came first. The functions here answer each request.
"""

from collections.abc import Iterable

import msgspec

from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.digests import canonical_metadata
from ledgerservice.domain.instructions import Origin
from ledgerservice.domain.ledgers import LedgerRecord, LedgerRequest
from ledgerservice.domain.transactions import Rejected, Rejection


def answer_ledgers(
    requests: Iterable[LedgerRequest], ledgers: Iterable[LedgerRecord], new_names: Iterable[str]
) -> list[LedgerRecord | Rejected]:
    """The answers to `requests`, in order. `ledgers` has their names; `new_names` are new. A ledger
    of another number of parts is another one.
    """
    by_name = {ledger.name: ledger for ledger in ledgers}
    unanswered = set(new_names)
    answers: list[LedgerRecord | Rejected] = []
    for request in requests:
        if by_name[request.name].shards != request.shards:
            answers.append(Rejected(Rejection.LEDGER_TAKEN))
            continue
        replayed = request.name not in unanswered
        unanswered.discard(request.name)
        answers.append(msgspec.structs.replace(by_name[request.name], replayed=replayed))
    return answers


CurrencyName = tuple[str, int | None]
"""The code of a currency, and the ledger that alone has it, or None."""


def answer_currencies(
    requests: Iterable[CurrencyRequest],
    currencies: Iterable[Currency],
    new_names: Iterable[CurrencyName],
) -> list[Currency | Rejected]:
    """The answers to `requests`, in order. `currencies` are all that have their codes.

    A unit of a ledger may be requested where all ledgers have the same one. A currency of all
    ledgers is rejected where one of them has a unit of the same code.
    """
    by_name = {(one.code, one.ledger): one for one in currencies}
    unanswered = set(new_names)
    answers: list[Currency | Rejected] = []
    for request in requests:
        name = request.code, request.ledger
        currency = by_name.get(name) or by_name.get((request.code, None))
        if currency is None or _terms(currency) != _terms(request):
            answers.append(Rejected(Rejection.CURRENCY_TAKEN))
        else:
            replayed = name not in unanswered
            unanswered.discard(name)
            answers.append(msgspec.structs.replace(currency, replayed=replayed))
    return answers


def _terms(currency: Currency | CurrencyRequest) -> tuple[int, str]:
    return currency.exponent, currency.name


def answer_openings(
    openings: Iterable[Opening], accounts: Iterable[Opened], new_ids: Iterable[int]
) -> list[Opened | Rejected]:
    """The answers to `openings`, in order.

    `accounts` are those that have one of their keys or references; the accounts in `new_ids` were
    opened for this batch. A reference protects like a key: the same content is a replay, unless
    the caller gave another key, which would then have two outcomes.
    """
    by_key = {(account.ledger, account.origin, account.key): account for account in accounts}
    by_reference = {(a.ledger, a.reference): a for a in by_key.values() if a.reference}
    unanswered = set(new_ids)
    answers: list[Opened | Rejected] = []
    for opening in openings:
        account = by_key.get((opening.ledger, opening.origin, opening.key))
        clash = Rejection.KEY_REUSED
        if account is None:
            account = by_reference.get((opening.ledger, opening.reference or ""))
            clash = Rejection.REFERENCE_TAKEN
        answers.append(_answer_opening(opening, account, clash, unanswered))
    return answers


def _answer_opening(
    opening: Opening, account: Opened | None, clash: Rejection, unanswered: set[int]
) -> Opened | Rejected:
    if account is None:
        return Rejected(Rejection.CURRENCY_UNKNOWN)
    if not _is_same(opening, account):
        return Rejected(clash, account.account_id)
    if account.account_id in unanswered:
        unanswered.remove(account.account_id)
        return account
    return msgspec.structs.replace(account, replayed=True)


_COMPARED = ("owner", "currency", "reference")


def _is_same(opening: Opening, account: Opened) -> bool:
    """Whether a request asks for this account, with the key that opened it or without a key."""
    if account.key != opening.key and opening.origin is Origin.CALLER:
        return False
    if any(getattr(account, name) != getattr(opening, name) for name in _COMPARED):
        return False
    before, now = (one.metadata and canonical_metadata(one.metadata) for one in (account, opening))
    return before == now
