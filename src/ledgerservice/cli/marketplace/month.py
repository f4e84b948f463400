"""The month of a marketplace: 30 days of movements in a ledger of its own.

What takes effect on a day is recorded now, with an `effective_at` of that day.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random

from ledgerservice.cli.marketplace import days, incidents
from ledgerservice.cli.marketplace.market import Market, detail
from ledgerservice.domain.instructions import Hold, Kind, Schedule
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter

DAYS = 30
BUSY = (4, 5)
"""The days of each seven on which more happens. They are counted, and no days of the week, so that
the same seed makes the same month on whatever day."""
A_DAY = 44
"""The things that happen on a day; some need several transactions."""
SOON = timedelta(seconds=1)
PATIENCE_S = 10.0


async def make_month(ledger: Ledger, seed: int, today: datetime) -> int:
    """Fill an empty ledger with the month that ends at the beginning of a day.

    The same seed makes the same names and amounts, on the same days before `today`. Returns the
    number of accounts.
    """
    midnight = today.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=DAYS)
    market = Market(ledger, Random(seed))  # noqa: S311  (made-up amounts are no secrets)
    await market.open()
    await incidents.begin(market, first)
    due = await _plan_what_the_service_does(market, first)
    for number in range(DAYS):
        day = first + timedelta(days=number)
        busy = number % 7 in BUSY
        await market.post(days.plan_of(market, day, A_DAY + busy * 12))
        if number in incidents.INCIDENTS:
            await incidents.INCIDENTS[number](market, day + timedelta(hours=12))
    await _wait_for_service(ledger, due)
    return len(market.currency_of)


async def is_empty(ledger: Ledger) -> bool:
    """Whether the ledger has no account."""
    accounts, _ = await ledger.accounts(limit=1)
    return not accounts


async def _plan_what_the_service_does(market: Market, at: datetime) -> tuple[int, int]:
    """A hold that expires and a transfer that is executed in a second: their accounts."""
    campaigns, reserve = (market.office(name, "USD") for name in ("campaigns", "reserve"))
    soon = datetime.now(UTC) + SOON
    about = detail(at, "Reserved for a campaign that was dropped", campaign="welcome")
    await market.post(
        [
            Hold(campaigns, reserve, "200.00", "reservation-1", soon, None, about),
            Schedule(reserve, campaigns, "35.00", soon, "standing-order-1"),
        ]
    )
    return campaigns, reserve


async def _wait_for_service(ledger: Ledger, due: tuple[int, int]) -> None:
    """Wait until the service has released the hold and made the transfer."""
    campaigns, reserve = due
    release = TransactionFilter(account_id=campaigns, kind=Kind.RELEASE)
    made = TransactionFilter(account_id=reserve, kind=Kind.TRANSFER)
    async with asyncio.timeout(PATIENCE_S):
        while not (await _has(ledger, release) and await _has(ledger, made)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _has(ledger: Ledger, filters: TransactionFilter) -> bool:
    transactions, _ = await ledger.transactions(filters, limit=1)
    return bool(transactions)
