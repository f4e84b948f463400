"""Random lives of a ledger, with every kind of instruction, and everything that is kept of one."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from ledgerservice import Ledger
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    Exchange,
    General,
    Group,
    Hold,
    Instruction,
    Kind,
    Leg,
    Movement,
    Origin,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.transactions import Outcome, Recorded, Transaction
from ledgerservice.posting.due import instruction_for

OWN = "TOKENS"
"""A unit of the ledger alone."""
CURRENCIES = ("USD", "USD", "USD", OWN, OWN)
SOON = timedelta(milliseconds=30)
KINDS = (
    "deposit",
    "withdrawal",
    "transfer",
    "general",
    "exchange",
    "conditional",
    "many",
    "hold",
    "hold_soon",
    "capture_soon",
    "capture",
    "release",
    "reversal",
    "by_legs",
    "forced",
    "policy",
    "schedule",
    "cancel",
    "linked",
    "wait",
)
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.integers(1, 400)),
    max_size=40,
)
DETAILS = (
    None,
    None,
    Detail("=a text, 'quoted'", "ref-1", None, '{"order": 77}'),
    Detail("backdated", None, datetime(1993, 3, 1, tzinfo=UTC), None),
    Detail(None, "r", datetime(2031, 1, 1, 5, 30, tzinfo=UTC), '{"ä": [1.50, null]}'),
)


class Life:
    """A ledger that lives by steps; `instructions` are those of its callers, with outcomes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.accounts: list[int] = []
        self.recorded: list[Transaction] = []
        self.instructions: list[tuple[Instruction, Outcome]] = []
        self.made: list[tuple[str, Outcome]] = []
        self.keys = iter(range(10**6))

    async def open(self) -> None:
        await self.ledger.add_currency(OWN, 2, "Tökens", own=True)
        for number, currency in enumerate(CURRENCIES):
            reference = f"acc-{number}" if number % 2 else None
            metadata = '{"a": {"b":1.0}}' if number == 3 else None
            opened = await self.ledger.open_account(
                f"Öwner {number}", currency, key=f"o{number}", reference=reference,
                metadata=metadata,
            )  # fmt: skip
            assert opened.account_id is not None
            self.accounts.append(opened.account_id)

    async def live(self, chosen: list[tuple[str, int, int, int]]) -> None:
        for kind, one, other, amount in chosen:
            if kind == "wait":
                await self._wait()
                continue
            made = [self._make(kind, one, other, amount)]
            if kind == "linked":
                made = [self._make("deposit", one, other, amount),
                        self._make("transfer", one, other, amount)]  # fmt: skip
            wanted = [instruction for instruction in made if instruction is not None]
            if wanted:
                await self._post(kind, wanted, linked=kind == "linked")
        await self._wait()

    async def _post(self, kind: str, wanted: list[Instruction], *, linked: bool = False) -> None:
        outcomes: Any = await self.ledger.post(wanted, linked=linked)  # type: ignore[call-overload]
        if isinstance(outcomes, list):
            for instruction, outcome in zip(wanted, outcomes, strict=True):
                self.instructions.append((instruction, outcome))
                self.made.append((kind, outcome))
                if isinstance(outcome, Recorded):
                    self.recorded.append(outcome.transaction)

    async def _wait(self) -> None:
        """Let what is due become due, and let the service do it."""
        await asyncio.sleep(SOON.total_seconds() * 2)
        for one in list(self.recorded):
            terms = None if one.extra is None else one.extra.terms
            for name, origin in (
                ("capture_at", Origin.CAPTURE),
                ("execute_at", Origin.EXECUTION),
                ("expires_at", Origin.EXPIRY),
            ):
                due = getattr(terms, name, None)
                if due is not None and due < datetime.now(UTC):
                    await self._by_service(instruction_for(origin, one.id))

    async def _by_service(self, instruction: Instruction) -> None:
        group = Group((instruction,), ledger=self.ledger._ledger)
        outcomes: Any = await self.ledger._runtime.movements.post(group)
        [outcome] = outcomes
        if isinstance(outcome, Recorded) and not outcome.replayed:
            self.recorded.append(outcome.transaction)

    def _make(self, kind: str, one: int, other: int, amount: int) -> Instruction | None:
        key, detail = f"k{next(self.keys)}", DETAILS[(one + amount) % len(DETAILS)]
        account, text = self.accounts[one % 5], f"{amount}.{other}0"
        second = self.accounts[other % 5]
        match kind:
            case "deposit" | "linked":
                return Movement(Kind.DEPOSIT, account, None, text, key, detail)
            case "withdrawal":
                return Movement(Kind.WITHDRAWAL, account, None, text, key, detail)
            case "transfer":
                return Movement(Kind.TRANSFER, account, second, text, key, detail)
            case "conditional" | "many":
                return self._long(kind, one, other, text, key, detail)
            case "general" | "exchange":
                return self._general(kind, one, other, text, key, detail)
            case "hold":
                counterparty = None if other % 2 else self._beside(one)
                return Hold(account, counterparty, text, key, None, None, detail)
            case "hold_soon":
                soon = datetime.now(UTC) + SOON
                return Hold(account, None, text, key, soon, None, detail)
            case "capture_soon":
                soon = datetime.now(UTC) + SOON / 2
                return Hold(account, None, text, key, soon + SOON if other % 2 else None, soon)
            case "policy":
                return self._policy(account, other, amount, key)
            case "schedule":
                times = datetime.now(UTC) + (SOON if other % 2 else timedelta(days=9))
                plain = None if detail is None else Detail(detail.description)
                return Schedule(account, self._beside(one), text, times, key, plain)
        return self._building_on(kind, one, other, text, key, detail)

    def _beside(self, one: int) -> int:
        """Another account of the same currency."""
        place = one % 5
        return self.accounts[(place + 1) % 3 if place < 3 else 7 - place]

    def _general(
        self, kind: str, one: int, other: int, text: str, key: str, detail: Detail | None
    ) -> General:
        legs: tuple[Leg, ...]
        if kind == "exchange":
            legs = (Leg(self.accounts[0], f"-{text}"), Leg(self.accounts[1], text),
                    Leg(self.accounts[3], "-0.50"), Leg(self.accounts[4], "0.50"))  # fmt: skip
            return General(legs, key, None, detail)
        third = self.accounts[(one + 2) % 3]
        legs = (Leg(self.accounts[one % 3], f"-{text}"), Leg(third, text))
        if other % 3 == 0:
            usd, eur = self.accounts[0], self.accounts[3]
            legs = (Leg(usd, "-100"), Leg(self.accounts[1], "100"), Leg(eur, "90.5"),
                    Leg(self.accounts[4], "-90.5"))  # fmt: skip
            return General(legs, key, Exchange("USD", OWN, "0.905", eur), detail)
        return General(legs, key, None, detail)

    def _long(
        self, kind: str, one: int, other: int, text: str, key: str, detail: Detail | None
    ) -> General:
        """What no record shows: the conditions of legs, and the order of many."""
        places = [(one + step) % 3 for step in range(2)]
        first, second = (self.accounts[place] for place in places)
        if kind == "conditional":
            least = "100000" if other % 3 == 0 else "-100000"
            legs = (Leg(first, f"-{text}", "USD", None, least), Leg(second, text, None, least))
            return General(legs, key, None, detail)
        rest = [Leg(account, "0.10") for account in (second, first, second, first)]
        big = "999999" if other % 3 == 0 else "0.20"
        return General((Leg(first, f"-{big}"), Leg(second, big), Leg(first, "-0.40"), *rest),
                       key, None, detail)  # fmt: skip

    def _policy(self, account: int, other: int, amount: int, key: str) -> PolicyChange:
        author: Any = {"actor": "risk", "reason": f"=reason {other}"}
        changes: tuple[dict[str, Any], ...] = (
            {"floor": f"-{amount}"},
            {"floor": "0", "ceiling": f"{amount * 5}"},
            {"ceiling": None},
            {"frozen": other % 4},
            {"frozen": 0},
            {"floor": f"{amount}"},
            {"closed": True},
        )
        return PolicyChange(account, key, **changes[other % len(changes)], **author)

    def _building_on(
        self, kind: str, one: int, other: int, text: str, key: str, detail: Detail | None
    ) -> Instruction | None:
        kinds = {"cancel": {Kind.SCHEDULE}, "capture": {Kind.HOLD}, "release": {Kind.HOLD}}
        wanted = kinds.get(kind, {Kind.DEPOSIT, Kind.TRANSFER, Kind.GENERAL, Kind.CAPTURE})
        parents = [t for t in self.recorded if t.kind in wanted]
        if not parents:
            return None
        parent = parents[one % len(parents)].id
        part = None if other % 2 else "0.50"
        match kind:
            case "capture":
                return Capture(parent, key, detail, amount=part, final=other % 3 == 0)
            case "release":
                return Release(parent, key, detail, amount=part)
            case "reversal":
                return Reversal(parent, key, detail, part)
            case "by_legs":
                original = next((t for t in self.recorded[one % 7 :: 7] if _has_two_customers(t)),
                                None)  # fmt: skip
                if original is None:
                    return None
                legs = tuple(Leg(e.account_id, "0.10" if e.amount < 0 else "-0.10")
                             for e in original.entries)  # fmt: skip
                more = tuple(msgspec.structs.replace(leg, amount=leg.amount.replace("0.1", "99.1"))
                             for leg in legs)  # fmt: skip
                return Reversal(original.id, key, detail, None, more if other % 2 == 0 else legs)
            case "forced":
                why = Detail("forced, because")
                return Reversal(parent, key, why, None, None, True, "chief")
        return Cancellation(parent, key, detail)


def _has_two_customers(one: Transaction) -> bool:
    accounts = [entry.account_id for entry in one.entries]
    return one.kind is Kind.TRANSFER and len(accounts) == 2 and min(accounts) > 0


# What is kept, without ids and times of recording: accounts and transactions by their rank,
# external accounts by that of their currency.

KEPT = """
WITH a AS (
    SELECT *, CASE WHEN id < 0 THEN -rank() OVER (ORDER BY sign(id), currency)
              ELSE rank() OVER (ORDER BY sign(id), id) + 1000 END AS rank
    FROM ledger.accounts WHERE ledger_id = %(ledger)s
), t AS (
    SELECT *, rank() OVER (ORDER BY recorded_at, id) AS rank
    FROM ledger.transactions WHERE ledger_id = %(ledger)s
)
"""
PARTS = {
    "accounts": """
        SELECT a.rank, owner, currency, reference, idempotency_key, origin, balance, held, version,
               floor, ceiling, restricted, m.metadata::text
        FROM a LEFT JOIN ledger.account_details m
            ON m.ledger_id = a.ledger_id AND m.account_id = a.id
        WHERE a.id > 0 OR version > 0 ORDER BY 1""",
    "transactions": """
        SELECT t.rank, t.kind, t.status, own.rank, other.rank, t.amount, t.account_seq,
               t.counterparty_seq, t.origin, t.renderer, t.decline_reason, deciding.rank,
               t.deciding_version, t.deciding_available, t.deciding_balance, p.rank,
               d.remaining, d.reference, d.description, d.metadata::text,
               d.exchange::jsonb - 'rounding_account_id',
               (SELECT rank FROM a
                WHERE id = (d.exchange->>'rounding_account_id')::bigint) AS rounding,
               coalesce(d.effective_at, t.recorded_at) AS effective,
               CASE WHEN t.origin = 0 THEN t.idempotency_key END,
               CASE WHEN t.origin > 0
                    THEN replace(t.idempotency_key, p.id::text, p.rank::text) END
        FROM t JOIN a own ON own.id = t.account_id
        LEFT JOIN a other ON other.id = t.counterparty_id
        LEFT JOIN a deciding ON deciding.id = t.deciding_account_id
        LEFT JOIN ledger.details d ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
        LEFT JOIN t p ON p.id = d.parent_id ORDER BY 1""",
    "entries": """
        SELECT a.rank, e.seq, t.rank, e.amount, e.held_change, e.balance, e.held,
               coalesce(d.effective_at, t.recorded_at)
        FROM ledger.entries e JOIN t ON t.id = e.transaction_id JOIN a ON a.id = e.account_id
        LEFT JOIN ledger.details d ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
        WHERE e.ledger_id = %(ledger)s ORDER BY 1, 2""",
    "holds": """
        SELECT t.rank, own.rank, other.rank, h.amount, remaining, captured, expires_at, capture_at,
               capture_tried_at IS NULL
        FROM ledger.holds h JOIN t ON t.id = h.transaction_id
        JOIN a own ON own.id = h.account_id JOIN a other ON other.id = h.counterparty_id
        WHERE h.ledger_id = %(ledger)s ORDER BY 1""",
    "schedules": """
        SELECT t.rank, own.rank, other.rank, s.amount, execute_at, by.rank
        FROM ledger.schedules s JOIN t ON t.id = s.transaction_id
        JOIN a own ON own.id = s.account_id JOIN a other ON other.id = s.counterparty_id
        LEFT JOIN t by ON by.id = s.settled_by WHERE s.ledger_id = %(ledger)s ORDER BY 1""",
    "policies": """
        SELECT a.rank, p.seq, t.rank, p.floor, p.ceiling, p.lowest, p.restricted, p.actor, p.reason
        FROM ledger.policies p JOIN t ON t.id = p.transaction_id JOIN a ON a.id = p.account_id
        WHERE p.ledger_id = %(ledger)s ORDER BY 1, 2""",
    "dated": """
        SELECT a.rank, n.seq, n.amount, n.effective_at FROM ledger.dated_entries n
        JOIN a ON a.id = n.account_id WHERE n.ledger_id = %(ledger)s ORDER BY 1, 2""",
}


def kept(connection: Any, ledger: int) -> dict[str, list[Any]]:
    """Everything that is kept of a ledger, by part."""
    return {
        name: [
            tuple(json.dumps(v) if isinstance(v, dict) else v for v in row)
            for row in connection.execute(KEPT + query, {"ledger": ledger})
        ]
        for name, query in PARTS.items()
    }
