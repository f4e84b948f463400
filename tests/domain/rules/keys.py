"""Idempotency keys: the same request again, and the same key for another request."""

from datetime import timedelta, timezone
from typing import Any

from ledgerservice.domain.instructions import Detail, Leg
from tests.domain.rules.making import (
    LATER,
    TO_RUPEES,
    by_leg,
    cancel,
    capture,
    deposit,
    exchanged,
    general,
    hold,
    policy,
    rate,
    release,
    reverse,
    schedule,
    transfer,
    withdraw,
)
from tests.domain.world import A_MINUTE, NOW

NOTED = Detail("rent", "r-1", NOW, '{"a":1}')
OTHERWISE = [
    Detail("rent!", "r-1", NOW, '{"a":1}'),
    Detail("rent", "r-2", NOW, '{"a":1}'),
    Detail("rent", "r-1", LATER, '{"a":1}'),
    Detail("rent", "r-1", NOW, '{"a":2}'),
    Detail("rent", "r-1", NOW),
    None,
]


def once_more(first: Any, *others: Any, before: tuple[Any, ...] = (), code: str = "posted") -> Any:
    """First, again, and then with the same key but otherwise."""
    steps = [*((one, "posted") for one in before), (first, code), (first, "replayed")]
    return [*steps, *((other, "idempotency_key_reused") for other in others)], {}


def all_details(make: Any) -> Any:
    """With a detail, again, and then with every other one."""
    return once_more(make(NOTED), *map(make, OTHERWISE))


IN_OTHER_ZONE = LATER.astimezone(timezone(timedelta(hours=5, minutes=30)))

KEYS = {
    "metadata in another order": (
        [
            (
                deposit(1, "1", "k", detail=Detail(metadata='{"a":1,"b":{"c":2.50,"d":[3]}}')),
                "posted",
            ),
            (
                deposit(1, "1", "k", detail=Detail(metadata='{"b":{"d":[3],"c":2.50},"a":1}')),
                "replayed",
            ),
            (
                deposit(1, "1", "k", detail=Detail(metadata='{"a":1,"b":{"c":2.5,"d":[3]}}')),
                "idempotency_key_reused",
            ),
            (
                deposit(1, "1", "k", detail=Detail(metadata='{"a":1,"b":{"c":"2.50","d":[3]}}')),
                "idempotency_key_reused",
            ),
        ],
        {},
    ),
    "of legs": once_more(
        general((1, "-1"), (2, "1"), key="k"),
        general((1, "-2"), (2, "2"), key="k"),
        general((1, "-1"), (4, "1"), key="k"),
        general((1, "-1"), (2, "0.5"), (2, "0.5"), key="k"),
        general(Leg(1, "-1", "USD"), (2, "1"), key="k"),
        general(Leg(1, "-1", version=0), (2, "1"), key="k"),
        general(Leg(1, "-1", available_at_least="0"), (2, "1"), key="k"),
        general(Leg(1, "-1", balance_at_least="0"), (2, "1"), key="k"),
        general((1, "-1"), (2, "1"), key="k", exchange=TO_RUPEES),
        transfer(1, 2, "1", "k"),
        withdraw(1, "1", "k"),
        hold(1, "1", key="k"),
        policy(1, "k", frozen=0),
        schedule(1, 2, "1", "k"),
    ),
    "of an exchange": once_more(
        exchanged("1", "83", "83", rate("83"), key="k"),
        exchanged("1", "83", "83", rate("83.001"), key="k"),
        exchanged("1", "83", "83", rate("83", 5), key="k"),
        exchanged("1", "83", "83", rate("83", None, "INR", "USD"), key="k"),
    ),
    "of a hold": once_more(
        hold(1, "1", 2, "k", expires_at=LATER),
        hold(1, "2", 2, "k", expires_at=LATER),
        hold(1, "1", 4, "k", expires_at=LATER),
        hold(1, "1", None, "k", expires_at=LATER),
        hold(1, "1", 2, "k", expires_at=LATER + A_MINUTE),
        hold(1, "1", 2, "k"),
        hold(1, "1", 2, "k", expires_at=LATER, capture_at=NOW),
    ),
    "of a capture": once_more(
        capture(1, "1", "k"),
        capture(1, "2", "k"),
        capture(1, None, "k"),
        capture(1, "1", "k", final=True),
        release(1, "1", "k"),
        reverse(1, "1", "k"),
        withdraw(1, "1", "k"),
        capture(2, "1", "k"),
        before=(hold(1, "3"), hold(1, "3")),
    ),
    "of a release": once_more(
        release(1, "1", "k"),
        release(1, None, "k"),
        capture(1, "1", "k"),
        before=(hold(1, "3"),),
    ),
    "of a release of all of it": once_more(
        release(1, None, "k"),
        cancel(1, "k"),
        capture(1, None, "k"),
        before=(hold(1, "3"),),
    ),
    "of a reversal": once_more(
        reverse(1, "1", "k"),
        reverse(1, "2", "k"),
        reverse(1, None, "k"),
        reverse(1, "1", "k", force=True),
        reverse(1, "1", "k", actor="me"),
        by_leg(1, (1, "1"), (2, "-1"), key="k"),
        before=(transfer(1, 2, "5"),),
    ),
    "of a reversal by leg": once_more(
        by_leg(1, (1, "1"), (2, "-1"), key="k"),
        by_leg(1, (2, "-1"), (1, "1"), key="k"),
        before=(transfer(1, 2, "5"),),
    ),
    "of a policy": once_more(
        policy(1, "k", floor="0", ceiling="500", actor="me", reason="so"),
        policy(1, "k", floor="1", ceiling="500", actor="me", reason="so"),
        policy(1, "k", ceiling="500", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="501", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling=None, actor="me", reason="so"),
        policy(1, "k", floor="0", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", frozen=0, actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", closed=True, actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", actor="you", reason="so"),
        policy(1, "k", floor="0", ceiling="500", actor="me", reason="why"),
    ),
    "of a ceiling taken away": once_more(
        policy(1, "k", frozen=0, ceiling=None), policy(1, "k", frozen=0)
    ),
    "of a schedule": once_more(
        schedule(1, 2, "1", "k"),
        schedule(1, 2, "2", "k"),
        schedule(1, 4, "1", "k"),
        schedule(1, 2, "1", "k", at=LATER + A_MINUTE),
        transfer(1, 2, "1", "k"),
    ),
    "of a cancellation": once_more(
        cancel(1, "k"),
        cancel(2, "k"),
        before=(schedule(1, 2, "1", at=LATER), schedule(1, 2, "1", at=LATER)),
    ),
    "of a decline": once_more(
        hold(1, "101", key="k"), hold(1, "1", key="k"), code="insufficient_funds"
    ),
    "of a movement": once_more(
        transfer(1, 2, "1", "k"),
        general((1, "-1"), (2, "1"), key="k"),
        schedule(1, 2, "1", "k"),
        hold(1, "1", 2, "k"),
        transfer(1, 2, "1", "k", detail=NOTED),
    ),
    "a decline stays when there is money": (
        [
            (hold(2, "1", key="k"), "insufficient_funds"),
            (deposit(2, "9"), "posted"),
            (hold(2, "1", key="k"), "replayed"),
        ],
        {2: (9_00, 0)},
    ),
    "a key comes before existence": once_more(
        hold(1, "1", 2, "k"), hold(1, "1", 99, "k"), hold(1, "0.001", 2, "k"), hold(1, "1", 1, "k")
    ),
    "a step's key is of its parent's account": (
        [
            (hold(1, "1", 2), "posted"),
            (capture(1, None, "k"), "posted"),
            (withdraw(2, "1", "k"), "posted"),
            (withdraw(1, "1", "k"), "idempotency_key_reused"),
        ],
        {},
    ),
    "equal legs in other digits": (
        [
            (general(Leg(1, "-1.50", None, "10.0", "-3.00"), (2, "1.5"), key="k"), "posted"),
            (general(Leg(1, "-1.5", None, "10", "-3"), (2, "1.500"), key="k"), "replayed"),
        ],
        {2: (1_50, 0)},
    ),
    "an equal rate in other digits": (
        [
            (exchanged("1", "83", "83", rate("83"), key="k"), "posted"),
            (exchanged("1.0", "83.00", "83", rate("83.000"), key="k"), "replayed"),
        ],
        {},
    ),
    "an equal hold in other digits": (
        [
            (hold(1, "10", 2, "k", expires_at=LATER), "posted"),
            (hold(1, "10.00", 2, "k", expires_at=IN_OTHER_ZONE), "replayed"),
            (hold(1, "1", 2, "k", expires_at=LATER), "idempotency_key_reused"),
        ],
        {},
    ),
    "an equal policy in other digits": (
        [
            (policy(1, "k", floor="-10.50", ceiling="100"), "posted"),
            (policy(1, "k", floor="-10.5", ceiling="100.0"), "replayed"),
        ],
        {},
    ),
    "nothing in other digits": (
        [
            (policy(1, "k", floor="0"), "posted"),
            (policy(1, "k", floor="0.00"), "replayed"),
            (policy(1, "k", floor="-0.0"), "replayed"),
        ],
        {},
    ),
    "the detail of a deposit": all_details(lambda d: deposit(1, "1", "k", detail=d)),
    "the detail of a transfer": all_details(lambda d: transfer(1, 2, "1", "k", detail=d)),
    "the detail of legs": all_details(lambda d: general((1, "-1"), (2, "1"), key="k", detail=d)),
    "the detail of a hold": all_details(lambda d: hold(1, "1", 2, "k", detail=d)),
    "the detail of a schedule": all_details(lambda d: schedule(1, 2, "1", "k", detail=d)),
    "the detail of a movement that is otherwise": once_more(
        transfer(1, 2, "1", "k", detail=NOTED),
        transfer(1, 2, "2", "k", detail=NOTED),
        transfer(1, 4, "1", "k", detail=NOTED),
        withdraw(1, "1", "k", detail=NOTED),
    ),
    "a detailed movement in other digits": (
        [
            (deposit(1, "1", "k", detail=NOTED), "posted"),
            (deposit(1, "1.00", "k", detail=NOTED), "replayed"),
        ],
        {},
    ),
    "a moment in another zone": (
        [
            (deposit(1, "1", "k", detail=Detail(effective_at=LATER)), "posted"),
            (deposit(1, "1", "k", detail=Detail(effective_at=IN_OTHER_ZONE)), "replayed"),
        ],
        {},
    ),
}
