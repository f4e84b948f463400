"""The accounts of a file: found by reference, compared with the currency of a row, and opened."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from ledgerservice.api.http.problems import Fault, ProblemError, invalid
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.instructions import Instruction
from ledgerservice.domain.transactions import Rejected
from ledgerservice.files.columns import IDS, REFERENCES
from ledgerservice.files.rows import Fields, read_line
from ledgerservice.ledger import Ledger

KEPT_ACCOUNTS = 100_000


class Named(NamedTuple):
    """An account that a row names. A dry run has no id for one that the file opens."""

    id: int | None
    currency: str


class Accounts:
    """The accounts of a ledger that the rows of a file name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_reference: dict[str, Named] = {}
        self._by_id: dict[int, Named] = {}

    async def open(self, openings: Sequence[Opening], *, dry_run: bool) -> list[Opened | Rejected]:
        """The answers to openings, in order. A dry run opens nothing."""
        own = [msgspec.structs.replace(one, dry_run=dry_run) for one in openings]
        answers = await self._ledger.open_accounts(own)
        for answer in answers:
            if isinstance(answer, Opened) and answer.reference is not None:
                number = None if dry_run and not answer.replayed else answer.account_id
                self._by_reference[answer.reference] = Named(number, answer.currency)
        return answers

    async def find(self, rows: Iterable[Fields]) -> None:
        """Look up the accounts that rows name."""
        if len(self._by_reference) + len(self._by_id) > KEPT_ACCOUNTS:
            self._by_reference.clear()
            self._by_id.clear()
        references: set[str] = set()
        ids: set[int] = set()
        for fields in itertools.chain.from_iterable(map(_parts, rows)):
            references.update(_texts(fields, REFERENCES))
            ids.update(_ids(fields))
        references -= self._by_reference.keys()
        ids -= self._by_id.keys()
        if references or ids:
            for account in await self._ledger.named_accounts(sorted(references), sorted(ids)):
                named = Named(account.id, account.currency)
                self._by_id[account.id] = named
                if account.reference is not None:
                    self._by_reference[account.reference] = named

    def instruction(self, fields: Fields) -> Instruction | ProblemError | None:
        """What fields ask for, with the ids of their accounts.

        None: in a dry run, a movement on an account that the file opens.
        """
        known = dict(fields)
        try:
            accounts = self._accounts(known)
        except ProblemError as refused:
            return refused
        named = [account for account in accounts if account is not None]
        currency = known.pop("currency", None)
        others = {account.currency for account in named} - {currency}
        if currency is not None and others:
            return _refused("currency_mismatch", "currency", f"is {currency}, and the account's "
                            f"is {', '.join(sorted(others))}")  # fmt: skip
        if any(account.id is None for account in named):
            return None
        return read_line(msgspec.json.encode(known))

    def _accounts(self, fields: Fields) -> list[Named | None]:
        """The accounts of a row and of its legs."""
        if isinstance(legs := fields.get("legs"), list):
            fields["legs"] = legs = [dict(leg) for leg in legs]
            return [self._account(leg, IDS[0], REFERENCES[0]) for leg in legs]
        return [self._account(fields, *names) for names in zip(IDS, REFERENCES, strict=True)]

    def _account(self, fields: Fields, id_name: str, reference_name: str) -> Named | None:
        """The account of one place of a row, whose id replaces its reference in `fields`."""
        reference = fields.pop(reference_name, None)
        if reference is None:
            number = _number(fields.get(id_name))
            return None if number is None else self._by_id.get(number)
        account = self._by_reference.get(reference) if isinstance(reference, str) else None
        if account is None:
            raise _refused("account_not_found", reference_name, f"no account has it: {reference}")
        if _number(fields.setdefault(id_name, account.id)) != account.id:
            raise invalid(reference_name, f"is not the reference of {id_name}")
        return account


def _refused(code: str, field: str, message: str) -> ProblemError:
    return ProblemError(code, errors=[Fault(field, message)])


def _parts(fields: Fields) -> Iterable[Fields]:
    """A row, and its legs."""
    legs = fields.get("legs")
    return [fields, *legs] if isinstance(legs, list) else [fields]


def _texts(fields: Fields, names: Iterable[str]) -> Iterable[str]:
    return (fields[name] for name in names if isinstance(fields.get(name), str))


def _ids(fields: Fields) -> Iterable[int]:
    numbers = (_number(fields.get(name)) for name in IDS)
    return (number for number in numbers if number is not None and 0 < number < 2**63)


def _number(value: object) -> int | None:
    """A number of a cell, or of JSON as it was written."""
    if isinstance(value, Raw):
        text = bytes(value)
        return int(text) if text.isdigit() and len(text) < 20 else None
    return value if type(value) is int else None
