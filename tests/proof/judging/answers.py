"""Answers: the journal keeps what they say, and a repeat gets the same."""

import json
from typing import Any

from tests.proof.history import CROSSING, DRY_RUN, PLAIN, Attempt, Request
from tests.proof.journal import Transaction
from tests.proof.judging.crossings import steps_of
from tests.proof.judging.evidence import (
    DECLINED,
    OK,
    REFUSED,
    UNKNOWN,
    Case,
    Found,
    minor,
    outcome,
)
from tests.proof.judging.exchanges import is_at_its_rate
from tests.proof.judging.matching import asks_for, is_written
from tests.proof.judging.order import NEVER


def answers_are_kept(case: Case) -> Found:
    for (account, key), attempts in case.asked.items():
        rows = case.by_key.get((account, key), [])
        where = f"key {key} of account {account}"
        told: dict[Request, Any] = {}
        told_at: dict[Request, float] = {}
        first = 0
        for attempt in attempts:
            known = outcome(attempt)
            if known in (OK, DECLINED):
                first += not attempt.replayed
                if told.setdefault(attempt.request, attempt.body) != attempt.body:
                    yield "answers_differ", where
                done_at = NEVER if attempt.completed_ns is None else attempt.completed_ns
                told_at[attempt.request] = min(done_at, told_at.get(attempt.request, NEVER))
                yield from answer_is_kept(case, attempt, rows, where)
            elif _is_reuse(attempt) and _is_alone(case, attempt, attempts, rows):
                yield "reuse_unfounded", where
        for attempt in attempts:
            if outcome(attempt) == REFUSED:
                if not _may_be_refused(case, attempt):
                    yield "refusal_unjust", f"{where}: {attempt.status} {attempt.body}"
                late = attempt.invoked_ns > told_at.get(attempt.request, NEVER)
                if late and attempt.body.get("code") not in ("overloaded", "batch_failed"):
                    yield "answers_differ", f"{where}: refused after it was acknowledged"
        if first > 1:
            yield "applied_twice", f"{where}: {first} answers that are no replays"
        if len(told) > 1:
            yield "reuse_accepted", f"{where}: {len(told)} requests were acknowledged"


def _may_be_refused(case: Case, attempt: Attempt) -> bool:
    """Whether a request of the load, which names only what is there, can be refused like this."""
    request, code = attempt.request, attempt.body.get("code")
    if code == "legs_unbalanced":
        sides = {leg.account for leg in case.legs.get(request.parent, [])}
        return request.kind == "reversal" and request.amount > 0 and len(sides) != 2
    if code == "rate_mismatch":
        return not is_at_its_rate(request, case.currencies)
    if code in ("overloaded", "idempotency_key_reused"):
        return True
    return (
        attempt.group is not None
        if code == "batch_failed"
        else ((request.kind, code) == ("hold", "expiry_passed") and bool(request.expires_at))
    )


def _is_alone(
    case: Case, attempt: Attempt, attempts: list[Attempt], rows: list[Transaction]
) -> bool:
    """Whether nothing else was asked for with its key; of a step the row does not tell all."""
    if attempt.request.kind not in PLAIN and len({a.request for a in attempts}) > 1:
        return False
    # Of a proposal nobody may have been answered.
    proposals = case.proposed.get((attempt.request.account, attempt.request.key), ())
    if not all(is_written(proposal, attempt.request) for proposal in proposals):
        return False
    return all(asks_for(case, attempt.request, row) for row in rows)


def _is_reuse(attempt: Attempt) -> bool:
    """Whether it was refused because another request had its key."""
    return isinstance(attempt.body, dict) and attempt.body.get("code") == "idempotency_key_reused"


def answer_is_kept(case: Case, attempt: Attempt, rows: list[Transaction], where: str) -> Found:
    row = next((row for row in rows if row.id == attempt.body["transaction_id"]), None)
    if row is None:
        yield ("lost" if outcome(attempt) == OK else "decline_lost"), where
        return
    if attempt.request.kind != "key" and not asks_for(case, attempt.request, row):
        yield "content_differs", f"{where}: kept is another request's transaction {row.id}"
    if "decided_on" not in attempt.body and not _tells_all(attempt.body, row):
        yield "content_differs", f"{where}: answered without {row.detail}"
    if not _is_as_it_was(case, attempt.body.get("decided_on", {})):
        yield "content_differs", f"{where}: declined on another balance"
    kept = _content(case, row)
    answered = _told(attempt.body)
    if row.kind == CROSSING and row.reason is None:
        is_open_too = attempt.request.kind == "key" and answered == kept
        kept = answered if is_open_too else _whole_content(case, row)
        if not is_open_too and not _names_halves(case, row, attempt.body):
            yield "content_differs", f"{where}: the halves are other transactions"
    if answered != kept:
        yield "content_differs", f"{where}: answered {answered}, kept {kept}"


def _whole_content(case: Case, row: Transaction) -> tuple[Any, ...]:
    """What is kept of a transfer between parts: both halves, or what declined the credit."""
    credits_, ends = steps_of(case, row.id)
    if not credits_ or not ends:
        return ()
    credit, end = credits_[0], ends[0]
    own, arrived = _content(case, row), _content(case, credit)
    if credit.reason is not None:
        return (*own[:3], *arrived[3:])
    halves = [*_content(case, end)[-1], *arrived[-1]]
    shown = {leg for leg in halves if leg[0] in (row.account, credit.account)}
    return (*own[:-1], shown)


def _names_halves(case: Case, row: Transaction, body: Any) -> bool:
    """Whether an answer has the ids of both halves, if it has halves."""
    named = body.get("debited_by"), body.get("credited_by")
    credits_, ends = steps_of(case, row.id)
    halves = [end.id for end in ends], [credit.id for credit in credits_]
    return "decided_on" in body or named == tuple(ids[0] for ids in halves if ids)


def _tells_all(body: Any, row: Transaction) -> bool:
    """Whether an answer tells what was added, and no more. A decline's does not."""
    description, reference, metadata, effective_at = row.detail
    kept = description or None, reference or None, effective_at or None
    told = body.get("description"), body.get("reference"), body.get("effective_at")
    return told == kept and body.get("metadata") == (json.loads(metadata) if metadata else None)


def _is_as_it_was(case: Case, decided_on: Any) -> bool:
    """Whether a decline's figures are those of the account."""
    if not decided_on:
        return True
    state = case.state(decided_on["account_id"], decided_on["version"])
    currency = case.currencies.get(decided_on["account_id"])
    return (
        state is not None
        and minor(decided_on["balance"]) == state[0]
        and decided_on["currency"] == currency
    )


def _told(body: Any) -> tuple[Any, ...]:
    """What an answer, or a read of a key, says of a transaction."""
    decided, declined = body.get("decided_on", {}), "decided_on" in body
    return (
        body["transaction_type"].lower().replace("withdrawal", "withdraw"),
        minor(body["amount"]),
        body["recorded_at"],
        body["code"] if declined else None,
        decided.get("account_id"),
        decided.get("version"),
        {_told_entry(e) for e in body.get("entries", [])},
    )


def _told_entry(entry: Any) -> tuple[Any, ...]:
    figures = (minor(entry[n]) for n in ("amount", "balance", "held_change", "held"))
    return (entry["account_id"], entry["version"], entry["currency"], *figures)


def _content(case: Case, row: Transaction) -> tuple[Any, ...]:
    """The same of what is kept."""
    legs = {
        (
            e.account,
            e.seq,
            case.currencies.get(e.account),
            e.amount,
            e.balance,
            e.held_change,
            e.held,
        )
        for e in case.legs.get(row.id, [])
    }
    decided = row.deciding_account, row.deciding_version
    return (row.kind, row.amount, row.recorded_at, row.reason, *decided, legs)


def principals_are_named(case: Case) -> Found:
    """A transaction is of whom its first request came from, whoever repeats it."""
    for (account, key), attempts in case.asked.items():
        first = {a.principal for a in attempts if outcome(a) in (OK, DECLINED) and not a.replayed}
        senders = first or {a.principal for a in attempts}
        for row in case.by_key.get((account, key), []):
            if row.principal not in senders:
                yield "principal_wrong", f"key {key} of account {account}: {row.principal}"


def dry_runs_leave_nothing(case: Case) -> Found:
    for attempt in case.attempts:
        place = attempt.request.account, attempt.request.key
        if attempt.request.kind == DRY_RUN and place in case.by_key:
            yield "dry_run_written", f"key {place[1]} of account {place[0]}"


def nothing_failed(case: Case) -> Found:
    """A fault of the service's own is none of those that it is hurt with."""
    for attempt in case.attempts:
        if attempt.status == 500:
            yield "internal_error", f"{attempt.client}'s {attempt.request.kind}"
        if attempt.status in (401, 403):  # the key is valid all the time, and may do everything
            yield "key_refused", f"{attempt.client}'s {attempt.request.kind}"


def all_is_resolved(case: Case) -> Found:
    """Every movement that was ever asked for has a definite answer at the end."""
    for (account, key), attempts in case.asked.items():
        open_requests = {a.request for a in attempts if outcome(a) == UNKNOWN}
        answered = {a.request for a in attempts if outcome(a) != UNKNOWN}
        for _ in open_requests - answered:
            yield "unresolved", f"key {key} of account {account}"
