"""What the clients saw and what the journal holds, indexed.

All amounts are in minor units of currencies with two decimals.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache

from tests.proof.history import CROSSING, DECISIONS, MOVEMENTS, Attempt
from tests.proof.journal import Decision, Entry, Hold, Journal, Proposal, Transaction

OWN = ("expiry ", "capture ", "execution ")  # how the keys of the service itself begin
CROSS_CREDIT, ENDS = "cross_credit", ("cross_debit", "cross_release")
CROSS_STEPS = (CROSS_CREDIT, *ENDS)
"""What the service does by itself after a hold for another part: a credit, and one of the ends."""

EVER, NEVER_YET = ("", "~"), ("", "")  # first and last moments

OK, DECLINED, REFUSED, UNKNOWN = "ok", "declined", "refused", "unknown"
PROPOSED = "proposed"

Policy = tuple[int, int | None, int]
DEBITS, CREDITS = 1, 2  # what an account can be frozen for
CLOSED = 4
FROZEN = {"": 0, "debits": DEBITS, "credits": CREDITS, "both": DEBITS | CREDITS}

Key = tuple[int, str]
"""An account and an idempotency key of it."""

Clock = Callable[[float], tuple[str, str]]
"""The first and the last moment that the database's clock can have shown at a time in ns."""

Found = Iterator[tuple[str, str]]
"""Broken promises: which, and where."""


def outcome(attempt: Attempt) -> str:
    """What an attempt's client knows: OK, DECLINED, REFUSED (nothing recorded), PROPOSED (others
    have to approve it) or UNKNOWN.
    """
    status, body = attempt.status, attempt.body
    if status is None or not isinstance(body, dict | list):
        return UNKNOWN
    if status < 300:
        return PROPOSED if status == 202 else OK
    if isinstance(body, dict) and "transaction_id" in body:
        return DECLINED
    return REFUSED if status < 500 or body.get("code") == "overloaded" else UNKNOWN


@lru_cache(100_000)
def minor(text: str) -> int:
    """An amount of an answer, two decimals, in minor units."""
    whole, _, cents = text.partition(".")
    assert len(cents) == 2, text
    return int(whole + cents)


def major(amount: int) -> str:
    """Minor units as requests and answers have them."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02}"


_NO_DIGITS = {ord(character): None for character in "-T:.Z "}


def _digits(moment: str) -> int:
    return int(moment.translate(_NO_DIGITS))


class Case:
    """The evidence, indexed."""

    def __init__(
        self,
        attempts: list[Attempt],
        journal: Journal,
        strangers: bool,
        clock: Clock | None,
    ) -> None:
        self.attempts = attempts
        self.strangers = strangers
        self._clock = clock
        self.accounts = {account.id: account for account in journal.accounts}
        self.currencies = {account.id: account.currency for account in journal.accounts}
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
        self.parts = journal.parts
        self.steps: dict[int, list[Transaction]] = defaultdict(list)  # by hold for another part
        for t in journal.transactions:
            if t.kind in CROSS_STEPS:
                self.steps[self.hold_of(t)].append(t)
        self.schedules = {schedule.id: schedule for schedule in journal.schedules}
        self.settlers: dict[int, list[Transaction]] = defaultdict(list)  # by schedule
        for t in journal.transactions:
            if t.parent in self.schedules and (t.kind == "transfer" or t.reason is None):
                self.settlers[t.parent].append(t)
        self.changes = {c.transaction: c for c in journal.policies if c.lowest is None}
        self.forced = {
            (change.transaction, change.account): change
            for change in journal.policies
            if change.lowest is not None
        }
        self.policies: dict[int, list[tuple[int, Policy]]] = defaultdict(list)  # by account
        self.hold_steps: dict[int, list[Entry]] = defaultdict(list)  # by hold, in order
        # By what they reverse, and by transaction.
        self.reversed: dict[int, dict[int, list[Entry]]] = defaultdict(dict)
        self.expiring: dict[int, list[Hold]] = defaultdict(list)  # by account
        self.tried: dict[int, list[Hold]] = defaultdict(list)  # by account, of those that expire
        for hold in sorted(journal.holds, key=lambda hold: hold.expires_at or ""):
            tried = self.by_key.get((hold.account, f"capture {hold.id}"), [])
            if hold.expires_at is not None and tried and tried[0].reason is not None:
                self.tried[hold.account].append(hold)
            elif not tried and self.ends_at(hold) is not None:
                self.expiring[hold.account].append(hold)
        # Moments that come right after another: the clock may not have been there yet. The account
        # of the other was locked with these, and need not have moved.
        moments = {_digits(moment): moment for moment in {e.recorded_at for e in journal.entries}}
        self.pushed = {moment for number, moment in moments.items() if number - 1 in moments}
        for rows in self.entries.values():
            rows.sort(key=lambda entry: entry.seq)
            for entry in rows:
                self._index(entry, self.transactions.get(entry.transaction))
        self.declines: dict[int, list[tuple[int, str]]] = defaultdict(list)  # by account, in order
        for row in journal.transactions:
            if row.reason is not None:
                decided_on = row.deciding_version or 0, row.recorded_at
                self.declines[row.deciding_account or 0].append(decided_on)
        for decided in self.declines.values():
            decided.sort()
        self.asked: dict[Key, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            if attempt.request.kind in MOVEMENTS:
                self.asked[attempt.request.account, attempt.request.key].append(attempt)
        self.proposed: dict[Key, list[Proposal]] = defaultdict(list)
        for proposal in journal.proposals:
            self.proposed[proposal.account, proposal.key].append(proposal)
        self.decided: dict[int, list[Decision]] = defaultdict(list)  # by proposal
        for decision in journal.decisions:
            self.decided[decision.proposal].append(decision)
        self.deciding: dict[int, list[Attempt]] = defaultdict(list)  # by proposal
        self.shown: dict[int, list[Attempt]] = defaultdict(list)  # by proposal, what shows it
        for attempt in attempts:
            if (known := outcome(attempt)) == PROPOSED:
                self.shown[attempt.body["id"]].append(attempt)
            elif attempt.request.kind in DECISIONS:
                self.deciding[attempt.request.parent].append(attempt)
                if known == OK:
                    self.shown[attempt.request.parent].append(attempt)
        self.customers = {account for account, _ in self.asked} & self.accounts.keys()

    def _index(self, entry: Entry, t: Transaction | None) -> None:
        """File an entry under what its transaction is."""
        if t is None:
            return
        if entry.held_change:
            places = t.kind in ("hold", CROSSING)
            self.hold_steps[t.id if places else t.parent or 0].append(entry)
        if t.policy is not None:
            self.policies[entry.account].append((entry.seq, t.policy))
        if t.kind == "reversal":
            self.reversed[t.parent or 0].setdefault(t.id, []).append(entry)

    @staticmethod
    def hold_of(step: Transaction) -> int:
        """The hold for another part that a step belongs to; 0 if it says none."""
        if step.kind in ENDS:
            return step.parent or 0
        number = [*step.key.split(":"), "", ""][2]
        return int(number) if number.isdigit() else 0

    def root(self, row: Transaction) -> Transaction:
        """The transaction that a client asked for: of a step the one that placed the hold."""
        return self.transactions.get(self.hold_of(row), row) if row.kind in CROSS_STEPS else row

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

    def available(self, account: int, version: int, first: str, last: str) -> list[int]:
        """What an account can have had available at a version, between two moments.

        Of the holds that were open then, those that expired first no longer count one by one. What
        the service tried to capture in vain counts until that was committed, whenever it was.
        """
        state = self.state(account, version)
        if state is None:
            return []
        frees = [state[0] - state[1]]
        for hold in self.tried[account]:
            if (hold.expires_at or "") <= last and (left := self.left(hold, version)):
                frees += [free + left for free in frees]
        possible = list(frees)
        for hold in self.expiring[account]:
            if (hold.expires_at or "") > last:
                break
            if left := self.left(hold, version):
                frees = [free + left for free in frees]
                possible = frees if (hold.expires_at or "") <= first else possible + frees
        return possible

    def moments(self, attempt: Attempt) -> tuple[str, str]:
        """The first and the last at which a read can have been."""
        if self._clock is None or attempt.completed_ns is None:
            return EVER
        return self._clock(attempt.invoked_ns)[0], self._clock(attempt.completed_ns)[1]

    def left(self, hold: Hold, version: int) -> int:
        """What of a hold was left at a version of its account."""
        steps = self.hold_steps[hold.id]
        return sum(entry.held_change for entry in steps if entry.seq <= version)

    def to_reverse(self, row: Transaction) -> dict[int, int]:
        """What of its original was not moved back, by account, when a reversal was decided.

        What came before it is told by the versions of the accounts that it moved, or that it was
        declined on; of what moved none of these, by the moments, which go on along locked accounts.
        """
        seen = {leg.account: leg.seq - 1 for leg in self.legs.get(row.id, [])}
        if row.reason is not None:
            seen = {row.deciding_account or 0: row.deciding_version or 0}
        left: dict[int, int] = defaultdict(int)
        for entry in self.legs.get(row.parent or 0, []):
            left[entry.account] += entry.amount
        for legs in self.reversed.get(row.parent or 0, {}).values():
            before = next((e.seq <= seen[e.account] for e in legs if e.account in seen), None)
            if before is None:
                before = legs[0].recorded_at <= row.recorded_at
            for entry in legs if before else ():
                left[entry.account] += entry.amount
        return dict(left)

    def ends_at(self, hold: Hold) -> str | None:
        """When it expires; what the service is to capture first, not before that was tried."""
        if hold.expires_at is None or not self.is_captured_first(hold):
            return hold.expires_at
        tried_at = self.tried_at(hold)
        return None if tried_at is None else max(hold.expires_at, tried_at)

    def is_captured_first(self, hold: Hold) -> bool:
        """Whether the service is to try to capture it before it expires."""
        capture_at, expires_at = hold.capture_at, hold.expires_at
        return capture_at is not None and (expires_at is None or capture_at < expires_at)

    def tried_at(self, hold: Hold) -> str | None:
        """When the service tried to capture it."""
        tried = self._tries(hold)
        return tried[0].recorded_at if tried else None

    def was_tried(self, hold: Hold, number: int) -> bool:
        """Whether the service tried to capture it before the transaction with this id."""
        return any(t.id < number for t in self._tries(hold))

    def _tries(self, hold: Hold) -> list[Transaction]:
        return self.by_key.get((hold.account, f"capture {hold.id}"), [])
