"""Transactions of many legs, their conditions, and exchanges."""

from ledgerservice.domain.instructions import Exchange, Leg
from tests.domain.rules.making import TO_RUPEES, exchanged, general, hold, rate, reverse, transfer


def fee(sold: str) -> Exchange:
    return Exchange("USD", "INR", "83", None, sold)


SPLIT = general((1, "-10"), (2, "6"), (4, "4"))

LEGS = {
    "two legs": ([(general((1, "-10"), (2, "10")), "posted")], {1: (90_00, 0), 2: (10_00, 0)}),
    "three legs": ([(SPLIT, "posted")], {1: (90_00, 0), 2: (6_00, 0), 4: (104_00, 0)}),
    "a receiver first": ([(general((2, "10"), (1, "-10")), "posted")], {2: (10_00, 0)}),
    "two currencies, each balanced": (
        [(general((1, "-10"), (2, "10"), (3, "-5"), (5, "5")), "posted")],
        {1: (90_00, 0), 5: (5_00, 0)},
    ),
    "not balanced": ([(general((1, "-10"), (2, "9.99")), "legs_unbalanced")], {1: (100_00, 0)}),
    "balanced only over two currencies": (
        [(general((1, "-10"), (3, "10")), "legs_unbalanced")],
        {1: (100_00, 0)},
    ),
    "one account twice, its sum counts": (
        [(general((1, "-150"), (1, "60"), (2, "90")), "posted")],
        {1: (10_00, 0), 2: (90_00, 0)},
    ),
    "one account twice, its sum is too much": (
        [(general((1, "-60"), (1, "-60"), (2, "120")), "insufficient_funds")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "one account twice, for nothing": (
        [(general((2, "-10"), (2, "10")), "posted")],
        {2: (0, 0)},
    ),
    "one credit pays for another account's debit no more": (
        [(general((1, "-100"), (2, "100"), (2, "-100.01"), (4, "100.01")), "insufficient_funds")],
        {2: (0, 0)},
    ),
    "to the last": ([(general((1, "-100"), (2, "100")), "posted")], {1: (0, 0)}),
    "a minor unit too much": (
        [(general((1, "-100.01"), (2, "100.01")), "insufficient_funds")],
        {1: (100_00, 0)},
    ),
    "held money is not there": (
        [(hold(1, "40"), "posted"), (general((1, "-60.01"), (2, "60.01")), "insufficient_funds")],
        {1: (100_00, 40_00)},
    ),
    "an unknown account": ([(general((1, "-1"), (99, "1")), "account_not_found")], {}),
    "an external account": ([(general((-1, "-1"), (1, "1")), "account_not_found")], {}),
    "an unknown first account": ([(general((99, "-1"), (1, "1")), "account_not_found")], {}),
    "the right currency": ([(general(Leg(1, "-1", "USD"), (2, "1")), "posted")], {}),
    "another currency": ([(general(Leg(1, "-1", "INR"), (2, "1")), "currency_mismatch")], {}),
    "too many decimals": ([(general((1, "-0.001"), (2, "0.001")), "amount_precision")], {}),
    "yen have none": ([(general((6, "-1.0"), (2, "1")), "amount_precision")], {}),
    "the largest amount": (
        [(general((1, "-10000000000000"), (2, "10000000000000")), "insufficient_funds")],
        {},
    ),
    "a larger amount": (
        [(general((1, "-10000000000000.01"), (2, "10000000000000.01")), "amount_limit")],
        {},
    ),
    "the first fault, leg by leg": (
        [(general((1, "-0.001"), (99, "1")), "amount_precision")],
        {},
    ),
    "syntax before balance": ([(general((1, "-1"), (2, "0.001")), "amount_precision")], {}),
    "conditions met, to the unit": (
        [
            (hold(1, "40"), "posted"),
            (
                general(
                    Leg(1, "-10", None, "60", "100", 1), Leg(2, "10", None, "0", "-0.01", version=0)
                ),
                "posted",
            ),
        ],
        {1: (90_00, 40_00)},
    ),
    "less is available": (
        [
            (hold(1, "40"), "posted"),
            (general(Leg(1, "-10", available_at_least="60.01"), (2, "10")), "condition_failed"),
        ],
        {1: (100_00, 40_00)},
    ),
    "a lower balance": (
        [(general(Leg(1, "-10", balance_at_least="100.01"), (2, "10")), "condition_failed")],
        {1: (100_00, 0)},
    ),
    "a balance is not what is available": (
        [
            (hold(1, "40"), "posted"),
            (general(Leg(1, "-10", balance_at_least="100"), (2, "10")), "posted"),
        ],
        {},
    ),
    "another version": (
        [(general(Leg(1, "-10", version=1), (2, "10")), "condition_failed")],
        {1: (100_00, 0)},
    ),
    "a condition on a later leg": (
        [(general((1, "-10"), Leg(2, "10", balance_at_least="0.01")), "condition_failed")],
        {},
    ),
    "conditions are of the time before": (
        [
            (
                general((1, "-10"), (2, "10"), Leg(2, "-1", balance_at_least="10"), (1, "1")),
                "condition_failed",
            )
        ],
        {},
    ),
    "a condition comes before funds": (
        [(general(Leg(1, "-200", version=7), (2, "200")), "condition_failed")],
        {},
    ),
    "balance comes before a condition": (
        [(general(Leg(1, "-10", version=7), (2, "9")), "legs_unbalanced")],
        {},
    ),
    "a condition with too many decimals": (
        [(general(Leg(1, "-10", available_at_least="0.001"), (2, "10")), "amount_precision")],
        {},
    ),
    "a condition over the limit of a balance": (
        [
            (
                general(Leg(1, "-10", balance_at_least="10000000000000000.01"), (2, "10")),
                "amount_limit",
            )
        ],
        {},
    ),
    "a condition at the limit of a balance": (
        [
            (
                general(Leg(1, "-10", balance_at_least="10000000000000000"), (2, "10")),
                "condition_failed",
            )
        ],
        {},
    ),
    "a condition below nothing": (
        [(general(Leg(1, "-10", balance_at_least="-10000000000000000"), (2, "10")), "posted")],
        {},
    ),
}

EXCHANGES = {
    "what an account gives and gets back opens no rate": (
        [
            (
                exchanged("1", "73", "73", rate("83"), *((3, "-5"), (3, "5")) * 10),
                "rate_mismatch",
            )
        ],
        {},
    ),
    "with a fee": (
        [
            (
                general(
                    (1, "-11"), (4, "10"), (2, "1"), (3, "-830"), (5, "830"), exchange=fee("10")
                ),
                "insufficient_funds",
            ),
            (
                general(
                    (1, "-1.1"), (4, "1"), (2, "0.1"), (3, "-83"), (5, "83"), exchange=fee("1.00")
                ),
                "posted",
            ),
            (
                general((1, "-1"), (4, "1"), (3, "-83"), (5, "83"), exchange=fee("2")),
                "rate_mismatch",
            ),
            (
                general((1, "-1"), (4, "1"), (3, "-83"), (5, "83"), exchange=fee("0.001")),
                "amount_precision",
            ),
        ],
        {2: (10, 0), 5: (83_00, 0)},
    ),
    "the exact rate": (
        [(exchanged("1", "83", "83", rate("83")), "posted")],
        {1: (99_00, 0), 4: (101_00, 0), 3: (17_00, 0), 5: (83_00, 0)},
    ),
    "half a unit off": ([(exchanged("1", "83", "83", TO_RUPEES), "posted")], {}),
    "less than a unit off": ([(exchanged("1", "83", "83", rate("83.00999")), "posted")], {}),
    "a unit off": (
        [(exchanged("1", "83.01", "83.01", rate("83")), "rate_mismatch")],
        {1: (100_00, 0)},
    ),
    "a unit off, below": (
        [(exchanged("1", "82.99", "82.99", rate("83")), "rate_mismatch")],
        {1: (100_00, 0)},
    ),
    "two that give are one": (
        [
            (
                general(
                    (1, "-1"),
                    (4, "1"),
                    (3, "-41.51"),
                    (8, "-41.50"),
                    (5, "83.01"),
                    exchange=rate("83"),
                ),
                "rate_mismatch",
            )
        ],
        {1: (100_00, 0)},
    ),
    "what two that get some leave over": (
        [
            (
                general(
                    (1, "-1"),
                    (4, "1"),
                    (3, "-83.01"),
                    (5, "41.49"),
                    (9, "41.50"),
                    exchange=rate("83.005", 5),
                ),
                "posted",
            )
        ],
        {5: (41_51, 0), 9: (41_50, 0)},
    ),
    "more than two that get some leave over": (
        [
            (
                general(
                    (1, "-1"),
                    (4, "1"),
                    (3, "-83.01"),
                    (5, "41.48"),
                    (9, "41.50"),
                    exchange=rate("83.005", 5),
                ),
                "legs_unbalanced",
            )
        ],
        {5: (0, 0)},
    ),
    "the other way round": ([(exchanged("83", "1", "1", TO_RUPEES), "rate_mismatch")], {}),
    "from rupees to dollars": (
        [(exchanged("1", "83", "83", rate("0.012048", None, "INR", "USD")), "posted")],
        {},
    ),
    "currencies with other decimals": (
        [
            (
                general(
                    (6, "-100"),
                    (7, "100"),
                    (1, "-0.69"),
                    (2, "0.69"),
                    exchange=Exchange("JPY", "USD", "0.0069"),
                ),
                "posted",
            )
        ],
        {2: (69, 0)},
    ),
    "to a currency with fewer decimals": (
        [
            (
                general(
                    (1, "-1"),
                    (2, "1"),
                    (6, "-99"),
                    (7, "99"),
                    exchange=Exchange("USD", "JPY", "99"),
                ),
                "posted",
            )
        ],
        {2: (1_00, 0)},
    ),
    "what is left over is rounding": (
        [(exchanged("1", "83.01", "83", rate("83.005", 5)), "posted")],
        {5: (83_00, 0), 3: (17_00, 0)},
    ),
    "what is short is rounding": (
        [(exchanged("1", "83", "83.01", rate("83.005", 5)), "posted")],
        {5: (83_01, 0)},
    ),
    "nothing is left over": (
        [(exchanged("1", "83", "83", rate("83.005", 5)), "posted")],
        {5: (83_00, 0)},
    ),
    "rounding without its account": (
        [(exchanged("1", "83", "83.01", TO_RUPEES), "legs_unbalanced")],
        {},
    ),
    "more than rounding": (
        [(exchanged("1", "82.99", "83.01", rate("83.005", 5)), "legs_unbalanced")],
        {},
    ),
    "rounding needs money too": (
        [
            (transfer(3, 5, "16.99"), "posted"),
            (exchanged("1", "83.01", "83", rate("83.005", 3)), "posted"),
            (reverse(2), "posted"),
            (transfer(3, 5, "0.01"), "posted"),
            (exchanged("1", "83.01", "83", rate("83.005", 3)), "insufficient_funds"),
        ],
        {3: (83_00, 0)},
    ),
    "an unknown rounding account": (
        [(exchanged("1", "83", "83", rate("83.005", 99)), "account_not_found")],
        {},
    ),
    "an external rounding account": (
        [(exchanged("1", "83", "83", rate("83.005", -2)), "account_not_found")],
        {},
    ),
    "a rounding account of the currency sold": (
        [(exchanged("1", "83", "83", rate("83.005", 4)), "currency_mismatch")],
        {},
    ),
    "one currency alone": (
        [(general((1, "-1"), (2, "1"), exchange=TO_RUPEES), "rate_mismatch")],
        {},
    ),
    "the other currency alone": (
        [(general((3, "-1"), (5, "1"), exchange=TO_RUPEES), "rate_mismatch")],
        {},
    ),
    "a currency for itself": (
        [(general((1, "-1"), (2, "1"), exchange=rate("1", None, "USD", "USD")), "rate_mismatch")],
        {},
    ),
    "an unknown currency": (
        [(exchanged("1", "83", "83", rate("83", None, "XXX")), "rate_mismatch")],
        {},
    ),
    "what is sold is not balanced": (
        [
            (
                general((1, "-1"), (3, "-83"), (5, "83"), (4, "1.01"), exchange=rate("82.18")),
                "legs_unbalanced",
            )
        ],
        {},
    ),
    "a third currency goes along": (
        [(exchanged("1", "83", "83", rate("83"), (6, "-1"), (6, "1")), "posted")],
        {},
    ),
    "a rate is no float": (
        [(exchanged("10", "1.02", "1.02", rate("0.1")), "rate_mismatch")],
        {},
    ),
    "a rate of many digits is exact": (
        [
            (
                general(
                    (1, "-100"),
                    (4, "100"),
                    (3, "-33.33"),
                    (5, "33.33"),
                    exchange=rate("0.33333333333333333333"),
                ),
                "posted",
            )
        ],
        {5: (33_33, 0)},
    ),
}
