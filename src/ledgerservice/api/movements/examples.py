"""Examples of bodies: they can be sent as they stand, in this order, to a new ledger.

They continue the tour of the README, whose accounts are 1 and 2. An example that is named by the
code of a problem gets that problem.
"""

from typing import Any

from ledgerservice.api.http.openapi import Examples

_TRANSFER = {"from_account_id": 1, "to_account_id": 2}
_ITEMS: list[dict[str, Any]] = [
    {"type": "DEPOSIT", "account_id": 1, "amount": "50.00", "idempotency_key": "b-1"},
    {"type": "WITHDRAWAL", "account_id": 1, "amount": "20.00", "idempotency_key": "b-2"},
    {"type": "TRANSFER", **_TRANSFER, "amount": "5.00", "idempotency_key": "b-3"},
]

EXAMPLES: dict[str, Examples] = {
    "deposit": {
        "deposit": {"account_id": 1, "amount": "100.00", "idempotency_key": "dep1"},
    },
    "transfer": {
        "transfer": {**_TRANSFER, "amount": "49.99", "idempotency_key": "tx1"},
        "scheduled_transfer": {
            **_TRANSFER,
            "amount": "5.00",
            "execute_at": "2099-01-01T00:00:00Z",
            "idempotency_key": "rent",
        },
    },
    "withdraw": {
        "withdrawal": {"account_id": 1, "amount": "10.00", "idempotency_key": "wd0"},
        "insufficient_funds": {"account_id": 1, "amount": "60", "idempotency_key": "wd1"},
    },
    "transaction": {
        "two_legs": {
            "legs": [{"account_id": 1, "amount": "-5.00"}, {"account_id": 2, "amount": "5.00"}],
            "idempotency_key": "order-77",
            "metadata": {"order": "77"},
        },
    },
    "reverse": {
        "a_part": {
            "amount": "2.00",
            "description": "goods returned",
            "idempotency_key": "order-77-refund",
        },
        "the_rest": {"idempotency_key": "order-77-cancelled"},
    },
    "hold": {
        "hold": {
            "account_id": 1,
            "to_account_id": 2,
            "amount": "10.00",
            "idempotency_key": "booking",
        },
    },
    "capture": {"a_part": {"amount": "4.00", "idempotency_key": "night-1"}},
    "release": {"the_rest": {"idempotency_key": "checkout"}},
    "policy": {
        "ceiling": {
            "ceiling": "10000.00",
            "actor": "credit desk",
            "reason": "a small account",
            "idempotency_key": "limit-1",
        },
    },
    "cancel": {"cancellation": {"idempotency_key": "rent-cancelled"}},
    "batch": {
        "independent": {"movements": _ITEMS},
        "atomic": {
            "movements": [item | {"idempotency_key": f"all-{n}"} for n, item in enumerate(_ITEMS)],
            "mode": "atomic",
        },
    },
}
"""By form, and of a batch."""
