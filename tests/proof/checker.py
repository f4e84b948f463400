"""The judge: from what the clients saw and what the journal holds, every promise that was broken.

It knows nothing of the service but its answers' form. All amounts are in minor units of currencies
with two decimals.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.proof.history import MOVEMENTS, PLAIN, STEPS, Attempt, Request
from tests.proof.journal import Account, Entry, Hold, Journal, Schedule, Transaction
from tests.proof.order import NEVER, Order

HISTORY_ROWS = 100  # in the first page

OWN = "\N{MIDDLE DOT}"  # begins the keys of the service's own

OK, DECLINED, REFUSED, UNKNOWN = "ok", "declined", "refused", "unknown"

Policy = tuple[int, int | None, int]
DEBITS, CREDITS = 1, 2  # what an account can be frozen for

Key = tuple[int, str]
"""An account and an idempotency key of it."""


class Violation(NamedTuple):
    """A broken promise: which, and where."""

    code: str
    what: str


class Report(NamedTuple):
    """The verdict over a history and a journal."""

    violations: Sequence[Violation] = ()
    operations: int = 0
    outcomes: Mapping[str, int] = MappingProxyType({})
    unresolved: int = 0

    def count(self, *codes: str) -> int:
        """How many of these violations there are."""
        return sum(violation.code in codes for violation in self.violations)


LOST = ("lost", "decline_lost", "forgotten")
DOUBLED = (
    "settled_twice",
    "hold_exceeded",
    "reversal_exceeded",
    "applied_twice",
    "key_twice",
    "unasked",
    "refused_but_applied",
    "decline_moved",
)


def check(attempts: Iterable[Attempt], journal: Journal, *, strangers: bool = False) -> Report:
    """Judge a history against the journal at its end.

    `strangers`: there were others too, with keys of their own, whose requests nobody recorded.
    """
    case = _Case(list(attempts), journal, strangers)
    found = [Violation(code, what) for part in PARTS for code, what in part(case)]
    outcomes: dict[str, int] = defaultdict(int)
    for attempt in case.attempts:
        outcomes[outcome(attempt)] += 1
    unresolved = sum(v.code == "unresolved" for v in found)
    return Report(found, len(case.attempts), dict(outcomes), unresolved)


def outcome(attempt: Attempt) -> str:
    """What an attempt's client knows: OK, DECLINED, REFUSED (nothing recorded) or UNKNOWN."""
    status, body = attempt.status, attempt.body
    if status is None or not isinstance(body, dict | list):
        return UNKNOWN
    if status < 300:
        return OK
    if isinstance(body, dict) and "transaction_id" in body:
        return DECLINED
    return REFUSED if status < 500 or body.get("code") == "overloaded" else UNKNOWN


def minor(text: str) -> int:
    """An amount of an answer, two decimals, in minor units."""
    whole, _, cents = text.partition(".")
    assert len(cents) == 2, text
    return int(whole + cents)


class _Case:
    """The evidence, indexed."""

    def __init__(self, attempts: list[Attempt], journal: Journal, strangers: bool) -> None:
        self.attempts = attempts
        self.strangers = strangers
        self.accounts = {account.id: account for account in journal.accounts}
        self.transactions = {t.id: t for t in journal.transactions}
        self.journal = journal
        self.by_key: dict[Key, list[Transaction]] = defaultdict(list)
        for transaction in journal.transactions:
            self.by_key[transaction.account, transaction.key].append(transaction)
        self.entries: dict[int, list[Entry]] = defaultdict(list)  # by account
        self.legs: dict[int, list[Entry]] = defaultdict(list)  # by transaction
        for entry in journal.entries:
            self.entries[entry.account].append(entry)
            self.legs[entry.transaction].append(entry)
        self.holds = {hold.id: hold for hold in journal.holds}
        self.schedules = {schedule.id: schedule for schedule in journal.schedules}
        self.settlers: dict[int, list[Transaction]] = defaultdict(list)  # by schedule
        for t in journal.transactions:
            if t.parent in self.schedules and (t.kind == "transfer" or t.reason is None):
                self.settlers[t.parent].append(t)
        self.policies: dict[int, list[tuple[int, Policy]]] = defaultdict(list)  # by account
        self.hold_steps: dict[int, list[Entry]] = defaultdict(list)  # by hold, in order
        self.reversed: dict[int, list[Entry]] = defaultdict(list)  # by what they reverse
        self.expiring: dict[int, list[Hold]] = defaultdict(list)  # by account
        self.tried: dict[int, list[Hold]] = defaultdict(list)  # by account, of those that expire
        for hold in sorted(journal.holds, key=lambda hold: hold.expires_at or ""):
            tried = self.by_key.get((hold.account, f"{OWN}capture {hold.id}"), [])
            if hold.expires_at is not None and tried and tried[0].reason is not None:
                self.tried[hold.account].append(hold)
            elif hold.expires_at is not None and _ends_at(self, hold) == hold.expires_at:
                self.expiring[hold.account].append(hold)
        for rows in self.entries.values():
            rows.sort(key=lambda entry: entry.seq)
            for entry in rows:
                t = self.transactions.get(entry.transaction)
                if t is not None and entry.held_change:
                    self.hold_steps[t.id if t.kind == "hold" else t.parent or 0].append(entry)
                if t is not None and t.policy is not None:
                    self.policies[entry.account].append((entry.seq, t.policy))
                if t is not None and t.kind == "reversal":
                    self.reversed[t.parent or 0].append(entry)
        self.asked: dict[Key, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            if attempt.request.kind in MOVEMENTS:
                self.asked[attempt.request.account, attempt.request.key].append(attempt)

    def state(self, account: int, version: int) -> tuple[int, int] | None:
        """Balance and held of an account at a version; None if it never had that."""
        if version == 0:
            return 0, 0
        rows = self.entries.get(account, [])
        if not 0 < version <= len(rows) or rows[version - 1].seq != version:
            return None
        return rows[version - 1].balance, rows[version - 1].held

    def policy(self, account: int, version: int) -> Policy:
        """Floor, ceiling and restriction of a customer's account at a version."""
        known = self.policies.get(account, [])
        place = bisect_right(known, version, key=lambda change: change[0])
        return known[place - 1][1] if place else (0, None, 0)

    def available(self, account: int, version: int) -> Iterator[int]:
        """What an account can have had available at a version.

        Of the holds that were open then, those that expired first no longer count one by one. What
        the service tried to capture in vain counts until that was committed, whenever it was.
        """
        state = self.state(account, version)
        if state is None:
            return
        frees = [state[0] - state[1]]
        for hold in self.tried[account]:
            if left := self.left(hold, version):
                frees += [free + left for free in frees]
        yield from frees
        for hold in self.expiring[account]:
            if left := self.left(hold, version):
                frees = [free + left for free in frees]
                yield from frees

    def left(self, hold: Hold, version: int) -> int:
        """What of a hold was left at a version of its account."""
        steps = self.hold_steps[hold.id]
        return sum(entry.held_change for entry in steps if entry.seq <= version)


Found = Iterator[tuple[str, str]]


def _transactions_balance(case: _Case) -> Found:
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


def _is_what_it_says(case: _Case, t: Transaction, legs: list[Entry]) -> bool:
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


def _holds_are_kept(case: _Case) -> Found:
    """No hold is captured beyond itself, or after its time; what is held is the holds'."""
    held: dict[int, int] = defaultdict(int)
    for hold in case.journal.holds:
        where = f"hold {hold.id}"
        remaining = captured = 0
        for entry in case.hold_steps[hold.id]:
            remaining += entry.held_change
            captured -= entry.amount
            t = case.transactions[entry.transaction]
            if remaining < 0 or captured > hold.amount:
                yield "hold_exceeded", where
            ends_at = _ends_at(case, hold)
            # Of one batch, what comes before the service's own try is in time.
            late = ends_at is not None and entry.recorded_at >= ends_at
            if late and t.kind == "capture" and entry.recorded_at != _tried_at(case, hold):
                yield "captured_late", f"{where}: transaction {t.id}"
            if t.key.startswith(OWN) and not _is_due(case, hold, t):
                yield "too_early", f"{where}: transaction {t.id}, {t.key}"
        if remaining and _is_forgotten(case, hold):
            yield "forgotten", where
        if (hold.remaining, hold.captured) != (remaining, captured):
            yield "hold_differs", f"{where} is not what its steps say"
        held[hold.account] += remaining
    for account in case.journal.accounts:
        if account.held != held[account.id]:
            yield "held_broken", f"account {account.id}: {account.held}, not {held[account.id]}"


def _is_forgotten(case: _Case, hold: Hold) -> bool:
    """Whether the service was to end it by itself. A capture that it declined it has done."""
    if hold.expires_at is not None:
        return _is_ours(case, hold.id)
    capture = f"{OWN}capture {hold.id}"
    declined = any(t.reason for t in case.by_key.get((hold.account, capture), []))
    return hold.capture_at is not None and not declined and _is_ours(case, hold.id)


def _is_ours(case: _Case, number: int) -> bool:
    """Whether a client asked for it, whose moments have all come by the end."""
    t = case.transactions.get(number)
    return t is not None and (t.account, t.key) in case.asked


def _schedules_are_settled_once(case: _Case) -> Found:
    """Each is executed or cancelled, once, as it was asked for and not before its time."""
    for schedule in case.journal.schedules:
        where = f"schedule {schedule.id}"
        settlers = case.settlers[schedule.id]
        if len(settlers) > 1:
            yield "settled_twice", f"{where}: transactions {[t.id for t in settlers]}"
        elif not settlers and _is_ours(case, schedule.id):
            yield "forgotten", where
        if schedule.settled_by not in ([t.id for t in settlers] or [None]):
            yield "schedule_differs", f"{where} says that {schedule.settled_by} settled it"
        for t in settlers:
            if t.kind == "transfer" and not _is_executed_as_asked(schedule, t):
                yield "content_broken", f"{where}: transaction {t.id} is another transfer"
            if t.kind == "transfer" and t.recorded_at < schedule.execute_at:
                yield "too_early", f"{where}: transaction {t.id}"
        asked = case.transactions.get(schedule.id)
        if asked is None or (asked.account, asked.other, asked.amount) != _terms(schedule):
            yield "content_broken", f"{where} is not what was asked for"


def _terms(schedule: Schedule) -> tuple[int, int, int]:
    return schedule.account, schedule.other, schedule.amount


def _is_executed_as_asked(schedule: Schedule, t: Transaction) -> bool:
    same = (t.account, t.other, t.amount) == _terms(schedule)
    return same and t.key == f"{OWN}execution {schedule.id}"


def _groups_are_whole(case: _Case) -> Found:
    """Of what was to be posted together all was, at one moment, or nothing; and no decline.

    Of keys that were asked for in other company too, nothing can be said.
    """
    groups: dict[tuple[str, int], list[Attempt]] = defaultdict(list)
    for attempt in case.attempts:
        if attempt.group is not None:
            groups[attempt.client, attempt.group].append(attempt)
    pools: dict[tuple[Request, ...], list[Attempt]] = defaultdict(list)
    for members in groups.values():
        pools[tuple(attempt.request for attempt in members)] += members
    for requests, members in pools.items():
        inside = Counter((a.request.account, a.request.key) for a in members)
        own = [key for key, times in inside.items() if len(case.asked[key]) == times]
        found = [case.by_key.get(key, []) for key in own]
        rows = [row for some in found for row in some]
        whole = all(found) and len({row.recorded_at for row in rows}) == 1
        if rows and not (whole and all(row.reason is None for row in rows)):
            yield "torn_group", f"from key {requests[0].key} on: {[row.id for row in rows]}"


def _ends_at(case: _Case, hold: Hold) -> str | None:
    """When it expires: what is to be captured by the service first, not before that was tried."""
    if hold.capture_at is None or hold.expires_at is None or hold.capture_at >= hold.expires_at:
        return hold.expires_at
    tried_at = _tried_at(case, hold)
    return None if tried_at is None else max(hold.expires_at, tried_at)


def _tried_at(case: _Case, hold: Hold) -> str | None:
    """When the service tried to capture it."""
    tried = case.by_key.get((hold.account, f"{OWN}capture {hold.id}"), [])
    return tried[0].recorded_at if tried else None


def _is_due(case: _Case, hold: Hold, t: Transaction) -> bool:
    """Whether the service did by itself what was to be done, when it was time."""
    due = _ends_at(case, hold) if t.kind == "release" else hold.capture_at
    what = "expiry" if t.kind == "release" else "capture"
    return t.key == f"{OWN}{what} {hold.id}" and due is not None and t.recorded_at >= due


def _reversals_are_bounded(case: _Case) -> Found:
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


def _accounts_continue(case: _Case) -> Found:
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
        if entry.recorded_at < moment:
            yield "time_backwards", where
        balance, held, moment = entry.balance, entry.held, entry.recorded_at
    last = (rows[-1].balance, rows[-1].held, rows[-1].seq) if rows else (0, 0, 0)
    if (account.balance, account.held, account.version) != last:
        yield "account_differs", f"account {account.id} is not what its last entry says"


def _policies_are_kept(case: _Case) -> Found:
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
            if amount < held_change and last.balance - last.held < floor:
                yield "overdrawn", f"{where}: {last.balance} less {last.held} held"
            if amount > 0 and ceiling is not None and last.balance > ceiling:
                yield "above_ceiling", f"{where}: {last.balance}"
            if any(_frozen(restricted, e.amount, e.held_change) for e in entries):
                yield "moved_while_frozen", where


def _frozen(restricted: int, amount: int, held_change: int) -> bool:
    debit = amount < 0 or held_change > 0
    return bool((debit and restricted & DEBITS) or (amount > 0 and restricted & CREDITS))


def _declines_are_just(case: _Case) -> Found:
    for t in case.journal.transactions:
        if t.reason is None:
            continue
        state = case.state(t.deciding_account or 0, t.deciding_version or 0)
        if state is None or state[0] - state[1] != t.deciding_available:
            yield "decline_unjust", f"transaction {t.id} was decided on what never was"
            continue
        if not _is_just(case, t):
            yield "decline_unjust", f"transaction {t.id}: {t.deciding_available}, {t.reason}"


def _is_just(case: _Case, t: Transaction) -> bool:
    """Whether what was asked for was indeed not to be had."""
    decider, version = t.deciding_account or 0, t.deciding_version or 0
    change = _change(case, t)
    if t.reason in ("insufficient_funds", "balance_ceiling", "account_frozen"):
        if decider < 0:
            return False
        floor, ceiling, restricted = case.policy(decider, version)
        if change is None:
            return t.reason != "balance_ceiling" or ceiling is not None
        amount, held_change = change
        if t.reason == "account_frozen":
            # Of legs that make up for each other either may be what it is frozen for.
            either = t.kind == "general" and restricted > 0
            return either or _frozen(restricted, amount, held_change)
        if t.reason == "insufficient_funds":
            lowered = amount - held_change
            return lowered < 0 and (t.deciding_available or 0) + lowered < floor
        balance, _ = case.state(decider, version) or (0, 0)
        return ceiling is not None and amount > 0 and balance + amount > ceiling
    if t.reason == "schedule_settled":
        settlers = case.settlers.get(t.parent or 0, [])
        schedule = case.schedules.get(t.parent or 0)
        if schedule is not None and schedule.execute_at <= t.recorded_at:
            return True
        return any(settler.recorded_at <= t.recorded_at for settler in settlers)
    if t.reason in ("hold_closed", "hold_exceeded"):
        steps = case.hold_steps.get(t.parent or 0, [])
        left = sum(e.held_change for e in steps if e.seq <= (t.deciding_version or 0))
        return left == 0 if t.reason == "hold_closed" else 0 < left < t.amount
    if t.reason == "reversal_exceeded":
        rows = [*case.legs.get(t.parent or 0, []), *case.reversed.get(t.parent or 0, [])]
        left = sum(
            row.amount
            for row in rows
            if row.account == t.account and row.seq <= (t.deciding_version or 0)
        )
        return left == 0 or abs(left) < t.amount
    return False


def _change(case: _Case, t: Transaction) -> tuple[int, int] | None:
    """What a declined transaction would have done to the account that decided it: by how much it
    would have changed the balance, and what is held. None: that is not known.
    """
    own = t.deciding_account == t.account
    if t.kind == "general":
        asked = [a for a in case.asked.get((t.account, t.key), []) if a.request.kind == t.kind]
        for attempt in asked:
            if _asks_for(attempt.request, t):
                legs = attempt.request.legs
                return sum(n for account, n in legs if account == t.deciding_account), 0
        return None
    if t.kind in ("hold", "release"):
        return 0, t.amount if t.kind == "hold" else -t.amount
    if t.kind == "capture":
        return (-t.amount, -t.amount) if own else (t.amount, 0)
    if t.kind in PLAIN:
        return (-t.amount if own and t.kind != "deposit" else t.amount), 0
    return None


def _keys_have_one_outcome(case: _Case) -> Found:
    for (account, key), rows in case.by_key.items():
        if len(rows) > 1:
            yield "key_twice", f"key {key} of account {account}: {len(rows)} transactions"
        for row in rows:
            if key.startswith(OWN) and (row.parent in case.holds or row.parent in case.schedules):
                continue  # the service's own, which the rules of holds and schedules look at
            same = [a for a in case.asked.get((account, key), []) if _asks_for(a.request, row)]
            if not same:
                if case.strangers and (account, key) not in case.asked:
                    continue
                yield "unasked", f"transaction {row.id}: nobody asked for it"
            elif all(outcome(attempt) == REFUSED for attempt in same):
                yield "refused_but_applied", f"transaction {row.id}, key {key}"


def _asks_for(request: Request, row: Transaction) -> bool:
    return (
        request.kind == row.kind
        and request.amount in (row.amount, 0)
        and (request.amount != 0 or request.kind in (*STEPS, "policy"))
        and (row.policy is None or row.policy == _asked_policy(request))
        and (request.other in (None, row.other) or (row.kind, row.other) == ("hold", 0))
        and (request.parent or None) == row.parent
    )


def _asked_policy(request: Request) -> Policy:
    frozen = {"": 0, "debits": DEBITS, "credits": CREDITS, "both": DEBITS | CREDITS}
    return request.floor, request.ceiling, frozen[request.frozen]


def _answers_are_kept(case: _Case) -> Found:
    for (account, key), attempts in case.asked.items():
        rows = case.by_key.get((account, key), [])
        where = f"key {key} of account {account}"
        told: dict[Request, Any] = {}
        first = 0
        for attempt in attempts:
            known = outcome(attempt)
            if known in (OK, DECLINED):
                first += not attempt.replayed
                if told.setdefault(attempt.request, attempt.body) != attempt.body:
                    yield "answers_differ", where
                yield from _answer_is_kept(case, attempt, rows, where)
            elif _is_reuse(attempt) and _is_alone(attempt, attempts, rows):
                yield "reuse_unfounded", where
        if first > 1:
            yield "applied_twice", f"{where}: {first} answers that are no replays"
        if len(told) > 1:
            yield "reuse_accepted", f"{where}: {len(told)} requests were acknowledged"


def _is_alone(attempt: Attempt, attempts: list[Attempt], rows: list[Transaction]) -> bool:
    """Whether nothing else was asked for with its key; of a step the row does not tell all."""
    if attempt.request.kind not in PLAIN and len({a.request for a in attempts}) > 1:
        return False
    return all(_asks_for(attempt.request, row) for row in rows)


def _is_reuse(attempt: Attempt) -> bool:
    """Whether it was refused because another request had its key."""
    return isinstance(attempt.body, dict) and attempt.body.get("code") == "idempotency_key_reused"


def _answer_is_kept(case: _Case, attempt: Attempt, rows: list[Transaction], where: str) -> Found:
    body = attempt.body
    row = next((row for row in rows if row.id == body["transaction_id"]), None)
    if row is None:
        yield ("lost" if outcome(attempt) == OK else "decline_lost"), where
        return
    answered = (
        body["transaction_type"].lower().replace("withdrawal", "withdraw"),
        minor(body["amount"]),
        body["recorded_at"],
        outcome(attempt) == DECLINED,
    )
    kept = (row.kind, row.amount, row.recorded_at, row.reason is not None)
    if answered != kept or not _asks_for(attempt.request, row):
        yield "content_differs", f"{where}: answered {answered}, kept {kept}"
    if outcome(attempt) == OK:
        answered_legs = {
            (e["account_id"], e["version"], minor(e["amount"]), minor(e["balance"]))
            for e in body["entries"]
        }
        legs = {(e.account, e.seq, e.amount, e.balance) for e in case.legs.get(row.id, [])}
        if answered_legs != legs:
            yield "content_differs", f"{where}: answered {answered_legs}, kept {legs}"
    elif (body["decided_on"]["account_id"], body["decided_on"]["version"]) != (
        row.deciding_account,
        row.deciding_version,
    ):
        yield "content_differs", f"{where}: decided on {body['decided_on']}"


def _all_is_resolved(case: _Case) -> Found:
    """Every movement that was ever asked for has a definite answer at the end."""
    for (account, key), attempts in case.asked.items():
        open_requests = {a.request for a in attempts if outcome(a) == UNKNOWN}
        answered = {a.request for a in attempts if outcome(a) != UNKNOWN}
        for _ in open_requests - answered:
            yield "unresolved", f"key {key} of account {account}"


def seen(attempt: Attempt) -> Iterator[tuple[int, int, int]]:
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


def _reads_are_of_what_was(case: _Case) -> Found:
    for attempt in case.attempts:
        versions = []
        for account, version, available in seen(attempt):
            versions.append(version)
            possible = list(case.available(account, version))
            if available not in possible:
                told = f"{attempt.request.kind} told {available}, not one of {possible}"
                yield "read_of_nothing", f"account {account}, version {version}: {told}"
        if attempt.request.kind == "history" and versions:
            rows = min(versions[0], HISTORY_ROWS)
            if versions != [versions[0] - place for place in range(rows)] and versions != [0]:
                yield "history_torn", f"account {attempt.request.account}: {versions}"


def _order_is_strict(case: _Case) -> Found:
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
    for attempt in case.attempts:
        if outcome(attempt) in (OK, REFUSED) and attempt.request.kind not in MOVEMENTS:
            _order_read(case, order, nodes, attempt)
    yield from order.violations()


def _node(case: _Case, order: Order, row: Transaction) -> int:
    """When the transaction can have taken effect: from its first request on to its first answer."""
    same = [
        attempt
        for attempt in case.asked.get((row.account, row.key), [])
        if _asks_for(attempt.request, row) and outcome(attempt) != REFUSED
    ]
    invoked = min((attempt.invoked_ns for attempt in same), default=0)
    completed = min(
        (a.completed_ns for a in same if a.completed_ns is not None and outcome(a) != UNKNOWN),
        default=NEVER,
    )
    return order.add(f"transaction {row.id}", invoked, completed)


def _order_read(case: _Case, order: Order, nodes: dict[int, int], attempt: Attempt) -> None:
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
    for account, version, _ in seen(attempt):
        newest[account] = max(version, newest.get(account, 0))
    for account, version in newest.items():
        _put_between(case, order, nodes, node, account, version)


def _put_between(
    case: _Case, order: Order, nodes: dict[int, int], node: int, account: int, version: int
) -> None:
    """After the write of what was seen, and before the next write."""
    rows = case.entries.get(account, [])
    if 0 < version <= len(rows) and rows[version - 1].transaction in nodes:
        order.put_before(nodes[rows[version - 1].transaction], node)
    if version < len(rows) and rows[version].transaction in nodes:
        order.put_before(node, nodes[rows[version].transaction])


PARTS = (
    _transactions_balance,
    _accounts_continue,
    _policies_are_kept,
    _holds_are_kept,
    _schedules_are_settled_once,
    _groups_are_whole,
    _reversals_are_bounded,
    _declines_are_just,
    _keys_have_one_outcome,
    _answers_are_kept,
    _all_is_resolved,
    _reads_are_of_what_was,
    _order_is_strict,
)
