"""The text of a request in a history: it counts only if it agrees with the record.

The digest in a file is no protection: whoever makes the file makes the digest too.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ledgerservice.domain.digests import digest_of
from ledgerservice.domain.history import PastEntry, PastRefusal, PastTransaction
from ledgerservice.domain.instructions import Capture, General, Hold, Leg, Reversal
from ledgerservice.domain.requests import request_of, text_of_request
from ledgerservice.domain.transactions import DeclineReason, HoldTerms

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2027, 3, 1, tzinfo=UTC)
SALT = bytes(16)
EXPONENTS = {1: 2, 2: 2, 3: 2}
ENTRIES = [PastEntry(1, 1, -500, 0, 0, 0), PastEntry(2, 1, 500, 0, 500, 0)]
REFUSAL = PastRefusal(DeclineReason.CONDITION_FAILED, 1, 1, 0, 0)
PAID = General((Leg(1, "-5", None, "1"), Leg(2, "5")), "k")
HOLD = Hold(1, None, "5", "k", LATER)


def record(claimed: Any, **fields: Any) -> PastTransaction:
    """A record of the account 1 for 5.00, with the text and the digest of a request."""
    kind = "REVERSAL" if isinstance(claimed, Reversal) else type(claimed).__name__.upper()
    nameless = msgspec.structs.replace(claimed, key="", detail=None)
    values = {"kind": kind, "account_id": 1, "amount": 500, "key": "k", "entries": [], **fields}
    text = msgspec.json.encode(nameless).decode()
    digest = digest_of(claimed, SALT)
    return PastTransaction(id=9, recorded_at=NOW, request=text, digest=digest, salt=SALT, **values)


Case = tuple[Any, dict[str, Any]]
TRUE: dict[str, Case] = {
    "conditions": (PAID, {"entries": ENTRIES}),
    "a declined transaction": (PAID, {"refusal": REFUSAL}),
    "a declined hold": (HOLD, {"refusal": REFUSAL}),
    "a declined capture": (Capture(7, "k", amount="5.0"), {"refusal": REFUSAL, "parent_id": 7}),
    "a forced reversal": (
        Reversal(7, "k", None, "5", None, True, "chief"), {"entries": ENTRIES, "parent_id": 7},
    ),
}  # fmt: skip
FALSE: dict[str, Case] = {
    "other amounts": (
        General((Leg(1, "-6", None, "1"), Leg(2, "6")), "k"), {"entries": ENTRIES},
    ),
    "other accounts": (
        General((Leg(1, "-5", None, "1"), Leg(3, "5")), "k"), {"entries": ENTRIES},
    ),
    "another first account": (General((Leg(2, "5"), Leg(1, "-5")), "k"), {"refusal": REFUSAL}),
    "no amounts": (General((Leg(1, "x", None, "1"), Leg(2, "y")), "k"), {"entries": ENTRIES}),
    "another amount": (Hold(1, None, "6", "k"), {"refusal": REFUSAL}),
    "what the record shows": (
        HOLD, {"entries": ENTRIES[:1], "hold": HoldTerms(1, -1, 500, NOW, None)},
    ),
    "another parent": (Capture(8, "k"), {"refusal": REFUSAL, "parent_id": 7}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE)
def test_the_text_of_a_request_is_used(name: str) -> None:
    claimed, fields = TRUE[name]
    assert request_of(record(claimed, **fields), EXPONENTS) == claimed


@pytest.mark.parametrize("name", FALSE)
def test_a_text_that_does_not_agree_is_not_used(name: str) -> None:
    claimed, fields = FALSE[name]
    assert request_of(record(claimed, **fields), EXPONENTS) is None


def test_a_text_of_another_kind_is_a_fault() -> None:
    one = msgspec.structs.replace(record(HOLD, refusal=REFUSAL), kind="GENERAL")
    with pytest.raises(msgspec.ValidationError):
        request_of(one, EXPONENTS)


def test_a_plain_transaction_of_legs_has_no_text() -> None:
    plain = General((Leg(1, "-5"), Leg(2, "5")), "k")
    assert text_of_request(plain, declined=False, moves=2) is None
    assert text_of_request(plain, declined=True, moves=2) is not None
