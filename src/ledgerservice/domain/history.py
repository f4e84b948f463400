"""A ledger's history as records, and how it is continued in another ledger. Pure.

A record of a history is a decision that was made: it is not decided again. Its entries must
continue their accounts exactly, with the same versions and results. Only ids and the times of
recording are new. The recorded time becomes the effective time of a transaction that has none.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.batch_state import AccountState
from ledgerservice.domain.digests import digest_of
from ledgerservice.domain.instructions import Detail, Kind, Origin, service_key
from ledgerservice.domain.planner import RENDERER, Plan, recording_time
from ledgerservice.domain.requests import request_of, text_of_request
from ledgerservice.domain.transactions import (
    DeclineReason,
    Entry,
    Extra,
    HoldTerms,
    Policy,
    Refusal,
    ScheduleTerms,
    Terms,
    Transaction,
    in_answer_order,
)

FORMAT = 1
"""The version of the file's format."""
BY_SERVICE = frozenset({Origin.EXPIRY, Origin.CAPTURE, Origin.EXECUTION})


Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Record(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """A line of a history. Ids are those of the ledger that it was exported from."""


class Header(Record, tag="HISTORY"):
    """The first line."""

    format: int
    ledger: str
    exported_at: datetime


class PastCurrency(Record, tag="CURRENCY"):
    """A currency. The id of its external account is `-number`. `own`: only this ledger has it."""

    code: str
    number: int
    exponent: int
    name: str
    own: bool = False


class PastAccount(Record, tag="ACCOUNT"):
    """An account as it was opened: empty. Its policies are transactions."""

    id: int
    owner: str
    currency: str
    key: str
    origin: str = "CALLER"
    reference: str | None = None
    metadata: str | None = None


class PastEntry(msgspec.Struct, forbid_unknown_fields=True):
    """An entry; `balance` and `held` are the results. Amounts are in minor units."""

    account_id: int
    version: int
    amount: int
    held_change: int
    balance: int
    held: int


class PastRefusal(msgspec.Struct, forbid_unknown_fields=True):
    """Why a transaction was declined, and the state of the account that decided it."""

    reason: DeclineReason
    account_id: int
    version: int
    available: int
    balance: int


class PastPolicy(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A policy that a transaction set, from the account's entry `version` on."""

    account_id: int
    version: int
    floor: int
    ceiling: int | None
    restricted: int
    actor: str | None = None
    reason: str | None = None
    lowest: int | None = None


class PastTransaction(Record, tag="TRANSACTION"):
    """A transaction. Amounts are in minor units, `metadata` and `exchange` texts of JSON objects.

    `terms` are those of a hold (`expires_at`, `capture_at`) or of a scheduled transfer
    (`execute_at`). `digest` and `salt` show which request it was (`requests`); `request` is its
    text, if the rest of the record does not show it.
    """

    id: int
    kind: str
    account_id: int
    amount: int
    key: str
    recorded_at: Time
    entries: list[PastEntry]
    origin: str = "CALLER"
    counterparty_id: int | None = None
    refusal: PastRefusal | None = None
    parent_id: int | None = None
    remaining: int | None = None
    exchange: str | None = None
    hold: HoldTerms | None = None
    schedule: ScheduleTerms | None = None
    policies: list[PastPolicy] = []
    description: str | None = None
    reference: str | None = None
    effective_at: Time | None = None
    metadata: str | None = None
    digest: bytes | None = None
    salt: bytes | None = None
    request: str | None = None
    renderer: int = RENDERER
    is_parent: bool = False
    """Whether a later transaction builds on it."""

    @property
    def detail(self) -> Detail:
        """The caller's texts."""
        return Detail(self.description, self.reference, self.effective_at, self.metadata)


class End(Record, tag="END"):
    """The last line, which shows that the file is whole."""

    accounts: int
    transactions: int


Line = Header | PastCurrency | PastAccount | PastTransaction | End


class HistoryFault(ValueError):
    """A record does not continue the history so far."""


def named_accounts(record: PastTransaction) -> Iterator[int]:
    """The accounts of a record, by their ids in the file."""
    yield record.account_id
    yield from (entry.account_id for entry in record.entries)
    if record.refusal is not None:
        yield record.refusal.account_id


class Continuation:
    """The ids of a history's accounts and transactions in the ledger that it is imported into."""

    def __init__(self, salts: Iterator[bytes], principal_id: int = 0) -> None:
        """`principal_id` is who imports the history: those who made it are of another ledger."""
        self._principal_id = principal_id
        self.accounts: dict[int, int] = {}
        self.exponents: dict[int, int] = {}
        self._transactions: dict[int, tuple[int, int]] = {}
        self._salts = salts

    def plan(
        self,
        records: Iterable[PastTransaction],
        accounts: Mapping[int, Account],
        now: datetime,
        ids: Iterator[int],
    ) -> Plan:
        """The records as transactions of this ledger, on the locked `accounts`.

        Raises HistoryFault.
        """
        states = {number: AccountState(account) for number, account in accounts.items()}
        recorded_at = recording_time(now, accounts)
        transactions: list[Transaction] = []
        for one in records:
            try:
                transactions.append(self._continue(one, states, recorded_at, next(ids)))
            except (HistoryFault, msgspec.MsgspecError) as fault:
                raise HistoryFault(f"transaction {one.id}: {fault}") from fault
        return Plan([], transactions, recorded_at)

    def account(self, number: int) -> int:
        """The id of an account of the file. Raises HistoryFault."""
        account_id = self.accounts.get(number)
        if account_id is None:
            raise HistoryFault(f"account {number} is not in the file")
        return account_id

    def _continue(
        self,
        record: PastTransaction,
        states: Mapping[int, AccountState],
        recorded_at: datetime,
        number: int,
    ) -> Transaction:
        kind = _kind_of(record)
        own = states[self.account(record.account_id)].account
        entries = [self._entry(one, states, number) for one in record.entries]
        extra = self._extra(record)
        origin = _origin_of(record)
        key = record.key if extra.parent_id is None else _key_of(record, origin, extra.parent_id)
        if record.is_parent:
            self._transactions[record.id] = number, own.id
        return Transaction(
            number,
            kind,
            own.id,
            self._optional_account(record.counterparty_id),
            key,
            record.amount,
            own.currency,
            own.exponent,
            recorded_at,
            record.renderer,
            in_answer_order(own.id, entries),
            self._refusal(record.refusal, states),
            extra,
            origin,
            self._principal_id,
        )

    def _entry(self, past: PastEntry, states: Mapping[int, AccountState], number: int) -> Entry:
        state = states[self.account(past.account_id)]
        entry = state.move(number, past.amount, past.held_change)
        expected = past.version, past.balance, past.held
        if (entry.seq, entry.balance, entry.held) != expected:
            raise HistoryFault(
                f"its entry on account {past.account_id} should lead to version {past.version} and "
                f"balance {past.balance}, but leads to {entry.seq} and {entry.balance} (minor "
                "units): a line is missing, or the account was moved by others"
            )
        return entry

    def _refusal(
        self, past: PastRefusal | None, states: Mapping[int, AccountState]
    ) -> Refusal | None:
        if past is None:
            return None
        number = self.account(past.account_id)
        if past.version > states[number].version:
            raise HistoryFault(f"it was declined at version {past.version}, which comes later")
        return Refusal(past.reason, number, past.version, past.available, past.balance)

    def _extra(self, record: PastTransaction) -> Extra:
        parent = self._parent(record)
        detail = record.detail
        dated = msgspec.structs.replace(
            detail, effective_at=detail.effective_at or record.recorded_at
        )
        digest, salt, request = self._request(record, parent)
        return Extra(
            digest,
            salt,
            dated,
            {},
            parent,
            record.remaining,
            self._exchange(record.exchange),
            self._terms(record.hold or record.schedule),
            tuple(map(self._policy, record.policies)),
            request,
        )

    def _parent(self, record: PastTransaction) -> int | None:
        if record.parent_id is None:
            return None
        parent, account_id = self._transactions.get(record.parent_id, (0, 0))
        if account_id != self.account(record.account_id):
            raise HistoryFault(f"transaction {record.parent_id}, its parent, does not come before")
        return parent

    def _request(
        self, record: PastTransaction, parent: int | None
    ) -> tuple[bytes, bytes, str | None]:
        """The digest of the same request with the ids of this ledger, its salt, and its text if
        the record does not show it.

        If the request cannot be found, the digest is that of no request: the key stays used.
        """
        request, salt = request_of(record, self.exponents), next(self._salts)
        if request is None:
            return bytes(32), salt, None
        here = self._translated(request, parent)
        declined, moves = record.refusal is not None, len(record.entries)
        return digest_of(here, salt), salt, text_of_request(here, declined=declined, moves=moves)

    def _translated(self, request: Any, parent: int | None) -> Any:
        """A request, or a part of one, with the ids of this ledger."""
        changes: dict[str, Any] = {}
        for name in ("account_id", "counterparty_id", "rounding_account_id"):
            if isinstance(number := getattr(request, name, None), int):
                changes[name] = self.account(number)
        if hasattr(request, "parent_id"):
            changes["parent_id"] = parent
        if legs := getattr(request, "legs", None):
            changes["legs"] = tuple(self._translated(leg, None) for leg in legs)
            changes.pop("account_id", None)
        if (exchange := getattr(request, "exchange", None)) is not None:
            changes["exchange"] = self._translated(exchange, None)
        return msgspec.structs.replace(request, **changes)

    def _exchange(self, text: str | None) -> str | None:
        if text is None:
            return None
        fields = msgspec.json.decode(text)
        if fields.get("rounding_account_id") is not None:
            fields["rounding_account_id"] = self.account(fields["rounding_account_id"])
        return msgspec.json.encode(fields).decode()

    def _terms(self, terms: Terms | None) -> Terms | None:
        if terms is None:
            return None
        account, other = self.account(terms.account_id), self.account(terms.counterparty_id)
        return msgspec.structs.replace(terms, account_id=account, counterparty_id=other)

    def _policy(self, past: PastPolicy) -> Policy:
        limits = past.floor, past.ceiling, past.restricted
        author = past.actor, past.reason
        return Policy(self.account(past.account_id), past.version, *limits, *author, past.lowest)

    def _optional_account(self, number: int | None) -> int | None:
        return None if number is None else self.account(number)


def _kind_of(record: PastTransaction) -> Kind:
    if record.kind not in Kind.__members__:
        raise HistoryFault(f"there is no kind {record.kind}")
    kind = Kind[record.kind]
    if kind >= Kind.CROSSING:
        raise HistoryFault("a transfer between parts cannot be continued in another ledger")
    if kind <= Kind.TRANSFER and len(record.entries) != (2 if record.refusal is None else 0):
        raise HistoryFault("a posted movement has two entries, a declined one has none")
    return kind


def _origin_of(record: PastTransaction) -> Origin:
    """Who made the request: a caller, or the service on its own initiative."""
    origin = Origin.__members__.get(record.origin)
    if origin is Origin.CALLER or (origin in BY_SERVICE and record.parent_id is not None):
        return origin
    raise HistoryFault(f"origin {record.origin} cannot have made it")


def _key_of(record: PastTransaction, origin: Origin, parent: int) -> str:
    """The key; that of the service names the transaction that it builds on."""
    return record.key if origin is Origin.CALLER else service_key(origin, parent)
