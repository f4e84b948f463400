"""What a ledger's database holds, read as its superuser, in one snapshot."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg

from ledgerservice.postgres.schema import DEFAULT_LEDGER
from tests.proof.history import Exchange

Detail = tuple[str, str, str, str]
"""Description, reference, the text of metadata, and when it is effective; "" where there is none.
"""
NO_DETAIL: Detail = ("", "", "", "")


class Account(msgspec.Struct, gc=False):
    """An account's row."""

    id: int
    currency_number: int
    balance: int
    held: int
    version: int
    floor: int | None
    ceiling: int | None = None
    restricted: int = 0
    currency: str = "USD"


class Transaction(msgspec.Struct, gc=False):
    """A posted transaction, or the record of a decline (its `reason` is not None). A policy is its
    floor, its ceiling, and its restriction.
    """

    id: int
    kind: str
    account: int
    other: int
    amount: int
    key: str
    recorded_at: str
    reason: str | None
    deciding_account: int | None
    deciding_version: int | None
    deciding_available: int | None
    parent: int | None = None
    policy: tuple[int, int | None, int] | None = None
    exchange: Exchange | None = None
    detail: Detail = NO_DETAIL
    principal: int = 0


class Entry(msgspec.Struct, gc=False):
    """One account's part in a transaction."""

    account: int
    seq: int
    transaction: int
    currency_number: int
    amount: int
    balance: int
    held: int
    recorded_at: str
    held_change: int = 0


class Policy(msgspec.Struct, gc=False):
    """A change of an account's policy, at the version that it made; or, if it has what was the
    `lowest` available, the record that a reversal was forced past the account's floor.
    """

    transaction: int
    account: int
    seq: int
    floor: int
    ceiling: int | None
    restricted: int
    actor: str | None
    reason: str | None
    lowest: int | None = None


class Hold(msgspec.Struct, gc=False):
    """A hold's row; its `id` is that of the transaction that placed it. That of a transfer between
    parts is for an account of another ledger.
    """

    id: int
    account: int
    other: int
    amount: int
    remaining: int
    captured: int
    expires_at: str | None
    capture_at: str | None
    to_ledger: int | None = None
    to_account: int | None = None


class Schedule(msgspec.Struct, gc=False):
    """A schedule's row; its `id` is that of the transaction that asked for it."""

    id: int
    account: int
    other: int
    amount: int
    execute_at: str
    settled_by: int | None


class Rule(msgspec.Struct, gc=False):
    """A rule of approvals. `bound` is in minor units of a currency with two decimals."""

    name: str
    currency: str
    bound: int | None
    approvals: int


class Proposal(msgspec.Struct, gc=False):
    """A request that others have to approve: its key, who made it, and the body, byte by byte."""

    id: int
    account: int
    key: str
    principal: int
    rule: str
    approvals: int
    operation: str
    parent: int | None
    body: str


class Decision(msgspec.Struct, gc=False):
    """What a principal has decided on a proposal."""

    proposal: int
    principal: int
    verdict: str


class Execution(msgspec.Struct, gc=False):
    """What came of a proposal: the answer to its request. `status` is None while it is posted."""

    proposal: int
    status: int | None
    transaction: int | None
    answer: str | None


class Journal(msgspec.Struct):
    """All of a ledger: accounts by id, transactions by id, entries by account and seq.

    `parts` are the ids of its parts, by number, if it has any.
    """

    accounts: list[Account]
    transactions: list[Transaction]
    entries: list[Entry]
    holds: list[Hold] = []
    schedules: list[Schedule] = []
    policies: list[Policy] = []
    rules: list[Rule] = []
    proposals: list[Proposal] = []
    decisions: list[Decision] = []
    executions: list[Execution] = []
    parts: tuple[int, ...] = ()


def _moment(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


KINDS = (
    "deposit", "withdraw", "transfer", "general", "hold", "capture", "release", "reversal",
    "policy", "schedule", "cancellation", "crossing", "cross_credit", "cross_debit",
    "cross_release",
)  # fmt: skip
_MOMENT = _moment("recorded_at")
_ACCOUNTS = """
SELECT id, currency_number, balance, held, version, floor, ceiling, restricted, currency
FROM ledger.accounts WHERE ledger_id = %(ledger)s ORDER BY id
"""
_TRANSACTIONS = f"""
SELECT t.id, (ARRAY{list(KINDS)})[kind], t.account_id,
       coalesce(t.counterparty_id, h.to_account_id, h.counterparty_id, s.counterparty_id, 0),
       t.amount,
       idempotency_key, {_MOMENT}, decline_reason, deciding_account_id, deciding_version,
       deciding_available, d.parent_id, coalesce(d.description, ''),
       coalesce(d.reference, ''), coalesce(d.metadata::text, ''),
       coalesce({_moment("d.effective_at")}, ''), d.exchange, p.floor, p.ceiling, p.restricted,
       t.principal_id
FROM ledger.transactions t LEFT JOIN ledger.details d
  ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
LEFT JOIN ledger.holds h ON h.ledger_id = t.ledger_id AND h.transaction_id = t.id
LEFT JOIN ledger.schedules s ON s.ledger_id = t.ledger_id AND s.transaction_id = t.id
LEFT JOIN ledger.policies p ON p.ledger_id = t.ledger_id AND p.transaction_id = t.id
 AND p.account_id = t.account_id AND p.lowest IS NULL
WHERE t.ledger_id = %(ledger)s ORDER BY t.id
"""
_ENTRIES = f"""
SELECT account_id, seq, transaction_id, currency_number, amount, balance, held, {_MOMENT},
       held_change
FROM ledger.entries WHERE ledger_id = %(ledger)s ORDER BY account_id, seq
"""


_HOLDS = f"""
SELECT transaction_id, account_id, counterparty_id, amount, remaining, captured,
       {_moment("expires_at")}, {_moment("capture_at")}, to_ledger_id, to_account_id
FROM ledger.holds WHERE ledger_id = %(ledger)s ORDER BY transaction_id
"""

_SCHEDULES = f"""
SELECT transaction_id, account_id, counterparty_id, amount, {_moment("execute_at")}, settled_by
FROM ledger.schedules WHERE ledger_id = %(ledger)s ORDER BY transaction_id
"""
_POLICIES = """
SELECT transaction_id, account_id, seq, floor, ceiling, restricted, actor, reason, lowest
FROM ledger.policies WHERE ledger_id = %(ledger)s ORDER BY account_id, seq
"""
_RULES = """
SELECT rule, currency, (bound::numeric * 100)::bigint, approvals
FROM ledger.approval_rules WHERE ledger_id = %(ledger)s
"""
_PROPOSALS = """
SELECT id, scope_id, idempotency_key, proposed_by, rule, approvals, operation, parent_id,
       convert_from(body, 'UTF8')
FROM ledger.proposals WHERE ledger_id = %(ledger)s ORDER BY id
"""
_DECISIONS = """
SELECT proposal_id, decided_by, verdict FROM ledger.decisions WHERE ledger_id = %(ledger)s
ORDER BY proposal_id, decided_by
"""
_EXECUTIONS = """
SELECT proposal_id, status, transaction_id, convert_from(answer, 'UTF8')
FROM ledger.executions WHERE ledger_id = %(ledger)s ORDER BY proposal_id
"""
_DUE = """
SELECT (SELECT count(*) FROM ledger.schedules
        WHERE ledger_id = %(ledger)s AND settled_by IS NULL AND execute_at < clock_timestamp())
     + (SELECT count(*) FROM ledger.holds
        WHERE ledger_id = %(ledger)s AND remaining > 0 AND (ends_at < clock_timestamp()
           OR capture_at < clock_timestamp() AND capture_tried_at IS NULL))
"""
_EXECUTIONS_DUE = "SELECT count(*) FROM ledger.executions_due WHERE ledger_id = %(ledger)s"


class Place(NamedTuple):
    """Where a ledger's rows are: a database, and that of the proposals if it is another one."""

    url: str
    ledger: int = DEFAULT_LEDGER
    directory: str = ""


def due(place: Place) -> int:
    """How much the service is still to do by itself; a capture that it declined is done."""
    values = {"ledger": place.ledger}
    with psycopg.connect(place.url) as home, psycopg.connect(place.directory or place.url) as main:
        [(number,)] = home.execute(_DUE, values).fetchall()
        [(executions,)] = main.execute(_EXECUTIONS_DUE, values).fetchall()
        return int(number + executions)


def dump(place: Place) -> Journal:
    """All rows, without an index, which might hide one. From main only what it alone has."""
    journal = _dump(place.url, place.ledger)
    if place.directory:
        main = _dump(place.directory, place.ledger)
        journal.rules, journal.proposals = main.rules, main.proposals
        journal.decisions, journal.executions = main.decisions, main.executions
    return journal


def _dump(url: str, ledger: int) -> Journal:
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL enable_indexonlyscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        read = partial(_rows, connection, ledger)
        return Journal(
            read(_ACCOUNTS, Account),
            read(_TRANSACTIONS, _transaction),
            read(_ENTRIES, Entry),
            read(_HOLDS, Hold),
            read(_SCHEDULES, Schedule),
            read(_POLICIES, Policy),
            read(_RULES, Rule),
            read(_PROPOSALS, Proposal),
            read(_DECISIONS, Decision),
            read(_EXECUTIONS, Execution),
        )


def _transaction(*row: Any) -> Transaction:
    *fields, description, reference, metadata, effective_at = row[:-5]
    exchange, floor, ceiling, restricted, principal = row[-5:]
    policy = None if floor is None else (floor, ceiling, restricted)
    transaction = Transaction(*fields)
    transaction.detail = description, reference, metadata, effective_at
    transaction.policy, transaction.exchange = policy, _exchange(exchange)
    transaction.principal = principal
    return transaction


def _exchange(kept: Any) -> Exchange | None:
    if kept is None:
        return None
    sides = kept["sell"], kept["buy"], kept["rate"]
    return Exchange(*sides, kept["rounding_account_id"], kept.get("sold", ""))


def _rows(connection: "psycopg.Connection[Any]", ledger: int, query: str, row: Any) -> list[Any]:
    found: Iterable[tuple[Any, ...]] = connection.execute(query, {"ledger": ledger})
    return [row(*values) for values in found]


def save(journal: Journal, file: Path) -> None:
    """Keep it, so that the checker can be run again."""
    file.write_bytes(msgspec.json.encode(journal))


def load(file: Path) -> Journal:
    """What `save` kept."""
    return msgspec.json.decode(file.read_bytes(), type=Journal)
