"""Details of requests that were lost or changed."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, settled
from tests.proof.history import Attempt
from tests.proof.journal import NO_DETAIL, Transaction
from tests.proof.judging.evidence import OK, OWN, outcome

_NAMES = ("description", "reference", "metadata", "effective_at")


def _detailed(d: Doctor, *, declined: bool = False) -> Transaction:
    return d.chance.choice(
        [
            t
            for t in d.journal.transactions
            if all(t.detail) and bool(t.reason) == declined and not t.key.startswith(OWN)
        ]
    )


def a_detail_that_is_lost(d: Doctor) -> None:
    _detailed(d).detail = NO_DETAIL


def a_detail_of_a_decline_that_is_lost(d: Doctor) -> None:
    _detailed(d, declined=True).detail = NO_DETAIL


def another_description(d: Doctor) -> None:
    row = _detailed(d)
    row.detail = ("butter", *row.detail[1:])


def another_reference(d: Doctor) -> None:
    row = _detailed(d)
    row.detail = (row.detail[0], "order 8", *row.detail[2:])


def metadata_in_another_order(d: Doctor) -> None:
    row = _detailed(d)
    row.detail = (*row.detail[:2], '{"a":1.50,"b":1}', row.detail[3])


def metadata_with_other_digits(d: Doctor) -> None:
    row = _detailed(d)
    row.detail = (*row.detail[:2], '{"b":1,"a":1.5}', row.detail[3])


def effective_at_another_moment(d: Doctor) -> None:
    row = _detailed(d)
    row.detail = (*row.detail[:3], f"{8:020}")


def a_detail_that_nobody_gave(d: Doctor) -> None:
    d.row(d.write()).detail = ("", "", "", f"{8:020}")


def _told(a: Attempt, name: str) -> bool:
    return outcome(a) == OK and isinstance(a.body, dict) and a.body.get(name) is not None


def answered_without_its_detail(d: Doctor) -> None:
    attempt = d.one(lambda a: _told(a, "reference"))
    attempt.body = {**attempt.body, "reference": None}


def answered_with_other_metadata(d: Doctor) -> None:
    attempt = d.one(lambda a: _told(a, "metadata"))
    attempt.body = {**attempt.body, "metadata": {"b": 2}}


def executed_without_its_detail(d: Doctor) -> None:
    schedule, row = settled(d, "transfer")
    d.journal.transactions[schedule.id - 1].detail = ("rent", "", "", "")
    row.detail = NO_DETAIL


def expired_with_a_detail(d: Doctor) -> None:
    row = next(t for t in d.journal.transactions if t.key.startswith("expiry"))
    row.detail = ("cheese", "", "", "")


def captured_with_another_detail(d: Doctor) -> None:
    """It has none of its own, and neither has its hold."""
    rows = d.journal.transactions
    captures = [t for t in rows if t.kind == "capture" and t.reason is None]
    row = next(t for t in captures if rows[(t.parent or 0) - 1].detail == NO_DETAIL)
    row.detail = ("butter", "", "", "")
    for attempt in d.attempts:
        request = attempt.request
        if (request.account, request.key) == (row.account, row.key):
            attempt.request = replace(request, **dict.fromkeys(_NAMES, ""))
        if isinstance(attempt.body, dict) and attempt.body.get("transaction_id") == row.id:
            told = {name: value for name, value in attempt.body.items() if name not in _NAMES}
            attempt.body = {**told, "description": "butter"}


DOCTORED: dict[Callable[[Doctor], None], str] = {
    a_detail_that_is_lost: "content_differs",
    a_detail_of_a_decline_that_is_lost: "content_differs",
    another_description: "content_differs",
    another_reference: "content_differs",
    metadata_in_another_order: "content_differs",
    metadata_with_other_digits: "content_differs",
    effective_at_another_moment: "content_differs",
    a_detail_that_nobody_gave: "content_differs",
    answered_without_its_detail: "content_differs",
    answered_with_other_metadata: "content_differs",
    executed_without_its_detail: "content_broken",
    expired_with_a_detail: "content_broken",
    captured_with_another_detail: "content_differs",
}
