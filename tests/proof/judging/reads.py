"""Reads: each shows one state that was, at that time."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from tests.proof.history import DECISIONS, DRY_RUN, MOVEMENTS, Attempt
from tests.proof.journal import Transaction
from tests.proof.judging.answers import answer_is_kept
from tests.proof.judging.crossings import steps_of
from tests.proof.judging.evidence import (
    CLOSED,
    DECLINED,
    EVER,
    FROZEN,
    NEVER_YET,
    OK,
    PROPOSED,
    REFUSED,
    UNKNOWN,
    Case,
    Found,
    minor,
    outcome,
)
from tests.proof.judging.matching import asks_for
from tests.proof.judging.order import NEVER, Order

HISTORY_ROWS = 100  # in the first page


def _seen(attempt: Attempt) -> Iterator[tuple[int, int, int]]:
    """(account, version, available) that a read or a decline reported."""
    request, body = attempt.request, attempt.body
    known = outcome(attempt)
    if known == DECLINED and "decided_on" in body:
        decided = body["decided_on"]
        yield decided["account_id"], decided["version"], minor(decided["available"])
    elif known == OK and request.kind == "account":
        yield body["id"], body["version"], minor(body["available"])
    elif known == OK and request.kind == "accounts":
        for row in body:
            yield row["id"], row["version"], minor(row["available"])
    elif known == OK and request.kind == "history":
        if not body:
            yield request.account, 0, 0
        for row in body:
            held = minor(row.get("held", "0.00"))
            yield request.account, row["version"], minor(row["balance"]) - held


def reads_are_of_what_was(case: Case) -> Found:
    for attempt in case.attempts:
        versions = []
        if attempt.request.kind not in (*MOVEMENTS, DRY_RUN, *DECISIONS):
            yield from _read_is_of_what_is(case, attempt)
        for account, version, available in _seen(attempt):
            versions.append(version)
            # A decline is decided once all that had expired was given back.
            moments = EVER if attempt.request.kind in MOVEMENTS else case.moments(attempt)
            if attempt.request.kind == "history":
                moments = NEVER_YET
            possible = case.available(account, version, *moments)
            if available not in possible:
                told = f"{attempt.request.kind} told {available}, not one of {possible}"
                yield "read_of_nothing", f"account {account}, version {version}: {told}"
        if attempt.request.kind == "history" and versions:
            rows = min(versions[0], HISTORY_ROWS)
            if versions != [versions[0] - place for place in range(rows)] and versions != [0]:
                yield "history_torn", f"account {attempt.request.account}: {versions}"


def _read_is_of_what_is(case: Case, attempt: Attempt) -> Found:
    """A read tells of what was asked for, and all that it tells is so."""
    request, body = attempt.request, attempt.body
    where = f"{request.kind} {request.account} {request.key}"
    known = outcome(attempt)
    if known == REFUSED and body.get("code") != "overloaded":
        if (request.kind, body.get("code")) != ("key", "key_not_found"):
            yield "refusal_unjust", f"{where}: {attempt.status} {body}"
    elif known == OK and request.kind == "key":
        rows = case.by_key.get((request.account, request.key), [])
        yield from answer_is_kept(case, attempt, rows, where)
    elif known == OK and request.kind == "history":
        for row in body:
            entry = next(iter(case.entries[request.account][row["version"] - 1 :]), None)
            kept = entry and (entry.transaction, entry.amount, entry.held_change)
            if kept != (row["transaction_id"], minor(row["amount"]), minor(row["held_change"])):
                yield "read_of_nothing", f"{where}: {row}, kept {kept}"
    elif known == OK and request.kind != "transaction":
        told = body if request.kind == "accounts" else [body]
        there = _listed(case, told) if request.kind == "accounts" else {request.account}
        if not {row["id"] for row in told} >= there:
            yield "read_of_nothing", f"{where}: of {[row['id'] for row in told]}"
        for row in told:
            if not _is_state(case, row):
                yield "read_of_nothing", f"{where}: {row}"


def _listed(case: Case, rows: Sequence[Any]) -> set[int]:
    """The accounts that a list has: of a ledger with parts those of one part."""
    if not case.parts:
        return case.customers
    parts = {row["id"] % len(case.parts) for row in rows}
    return {one for one in case.customers if not parts or one % len(case.parts) in parts}


def _is_state(case: Case, row: Any) -> bool:
    """Whether the account was as a read says, but for what expired, which lowers what is held."""
    state = case.state(row["id"], row["version"])
    balance = minor(row["balance"])
    ceiling = None if row["ceiling"] is None else minor(row["ceiling"])
    frozen = FROZEN[row["frozen"] or ""] | (CLOSED if row["closed"] else 0)
    return (
        state is not None
        and balance == state[0]
        and balance - minor(row["held"]) == minor(row["available"])
        and (minor(row["floor"]), ceiling, frozen) == case.policy(row["id"], row["version"])
    )


def order_is_strict(case: Case) -> Found:
    order = Order()
    nodes = {row.id: _node(case, order, row) for row in case.journal.transactions}
    for rows in case.entries.values():
        for entry, following in pairwise(rows):
            if entry.transaction in nodes and following.transaction in nodes:
                order.put_before(nodes[entry.transaction], nodes[following.transaction])
    for row in case.journal.transactions:
        if row.deciding_account is not None:
            _put_between(
                case, order, nodes, nodes[row.id], row.deciding_account, row.deciding_version or 0
            )
    for number in case.steps:
        credits_, ends = steps_of(case, number)
        for first, then in pairwise([number, *(t.id for t in (*credits_[:1], *ends[:1]))]):
            if first in nodes:
                order.put_before(nodes[first], nodes[then])
    for attempt in case.attempts:
        is_read = attempt.request.kind not in (*MOVEMENTS, *DECISIONS)
        if outcome(attempt) in (OK, REFUSED) and is_read:
            _order_read(case, order, nodes, attempt)
    yield from order.violations()


def _node(case: Case, order: Order, row: Transaction) -> int:
    """When the transaction can have taken effect: from its first request on to its first answer."""
    root = case.root(row)  # before all steps are made there is no answer
    same = [
        attempt
        for attempt in case.asked.get((root.account, root.key), [])
        if asks_for(case, attempt.request, root) and outcome(attempt) not in (REFUSED, PROPOSED)
    ]
    invoked = min((attempt.invoked_ns for attempt in same), default=0)
    completed = min(
        (a.completed_ns for a in same if a.completed_ns is not None and outcome(a) != UNKNOWN),
        default=NEVER,
    )
    return order.add(f"transaction {row.id}", invoked, completed)


def _order_read(case: Case, order: Order, nodes: dict[int, int], attempt: Attempt) -> None:
    request = attempt.request
    name = f"{attempt.client}'s read of {request.kind} {request.account}"
    completed = NEVER if attempt.completed_ns is None else attempt.completed_ns
    node = order.add(name, attempt.invoked_ns, completed)
    if request.kind == "key":
        for row in case.by_key.get((request.account, request.key), []):
            if outcome(attempt) == OK:
                order.put_before(nodes[row.id], node)
            elif attempt.body.get("code") == "key_not_found":
                order.put_before(node, nodes[row.id])
        return
    newest: dict[int, int] = {}
    for account, version, _ in _seen(attempt):
        newest[account] = max(version, newest.get(account, 0))
    of_part = {0: node}  # each part is read by itself
    for account, version in newest.items():
        part = account % max(1, len(case.parts))
        if part not in of_part:
            of_part[part] = order.add(name, attempt.invoked_ns, completed)
        _put_between(case, order, nodes, of_part[part], account, version)


def _put_between(
    case: Case, order: Order, nodes: dict[int, int], node: int, account: int, version: int
) -> None:
    """After the write of what was seen, and before the next write."""
    rows = case.entries.get(account, [])
    if 0 < version <= len(rows) and rows[version - 1].transaction in nodes:
        order.put_before(nodes[rows[version - 1].transaction], node)
    if version < len(rows) and rows[version].transaction in nodes:
        order.put_before(node, nodes[rows[version].transaction])
