"""What happens once in the month: limits, frozen and closed accounts, and refusals of each kind."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from ledgerservice.cli.marketplace.days import Planned
from ledgerservice.cli.marketplace.market import Market, detail
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Frozen,
    General,
    Hold,
    Instruction,
    Leg,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.movements import deposit, transfer, withdrawal

RISK, CREDIT, SUPPORT = "risk desk", "credit desk", "support desk"
DEBITS, BOTH = int(Frozen.DEBITS), int(Frozen.DEBITS | Frozen.CREDITS)


async def begin(market: Market, at: datetime) -> None:
    """The money that the marketplace begins with."""
    planned: list[Instruction] = []
    for currency in ("USD", "EUR", "GBP", "JPY"):
        for office, amount in (
            ("campaigns", 2_000_000),
            ("exchange", 9_000_000),
            ("reserve", 50_000),
        ):
            account = market.office(office, currency)
            about = detail(at, f"Funds for {office}")
            planned.append(deposit(account, market.text(account, amount), f"funds-{office}", about))
    await market.post(planned)


async def frozen(market: Market, at: datetime) -> None:
    """A buyer is frozen after a chargeback, tries to pay, and is freed."""
    buyer, seller = market.buyer("USD", 0), market.seller("USD", 0)
    attempt = detail(at, "Order while frozen", "order-frozen", channel="web")
    await market.post(
        [
            deposit(buyer, "250.00", "risk-card", detail(at, "Card payment", method="card")),
            PolicyChange(buyer, "risk-1", frozen=BOTH, actor=RISK, reason="chargeback, case 4711"),
            transfer(buyer, seller, "19.90", "risk-order", attempt),
            PolicyChange(buyer, "risk-2", frozen=0, actor=RISK, reason="case 4711 was settled"),
        ]
    )
    other = market.buyer("USD", 1)
    await market.post(
        [
            deposit(other, "80.00", "risk-card-2", detail(at, "Card payment", method="card")),
            PolicyChange(
                other, "risk-3", frozen=DEBITS, actor=RISK, reason="stolen card, case 4720"
            ),
            withdrawal(other, "80.00", "risk-cash-out", detail(at, "Payout while frozen")),
        ]
    )


async def limited(market: Market, at: datetime) -> None:
    """A seller gets an overdraft, and a buyer a ceiling; both meet them."""
    seller, buyer = market.seller("USD", 1), market.buyer("USD", 2)
    office = market.office("campaigns", "USD")
    await market.post(
        [
            PolicyChange(
                seller, "limit-1", floor="-500", actor=CREDIT, reason="a seller since 2019"
            ),
            withdrawal(seller, "320.00", "limit-advance", detail(at, "Advance on sales")),
            withdrawal(seller, "300.00", "limit-too-much", detail(at, "Advance on sales")),
            PolicyChange(buyer, "limit-2", ceiling="100", actor=CREDIT, reason="vouchers only"),
            transfer(office, buyer, "80.00", "limit-gift", detail(at, "Gift", campaign="welcome")),
            transfer(
                office, buyer, "40.00", "limit-gift-2", detail(at, "Gift", campaign="welcome")
            ),
            PolicyChange(buyer, "limit-3", floor="200", actor=CREDIT, reason="entered by mistake"),
        ]
    )


async def closed(market: Market, at: datetime) -> None:
    """A buyer leaves: no account is closed with money on it, or is paid into afterwards."""
    buyer = market.buyer("USD", 3)
    why = "the buyer asked for it"
    await market.post(
        [
            deposit(buyer, "12.00", "leave-card", detail(at, "Card payment", method="card")),
            PolicyChange(buyer, "leave-1", closed=True, actor=SUPPORT, reason=why),
            withdrawal(buyer, "12.00", "leave-rest", detail(at, "The rest to the bank")),
            PolicyChange(buyer, "leave-2", closed=True, actor=SUPPORT, reason=why),
            deposit(buyer, "30.00", "leave-late", detail(at, "Card payment", method="card")),
        ]
    )


async def conditions(market: Market, at: datetime) -> None:
    """A sweep of the fees finds the account changed since it was read."""
    fees, reserve = market.office("fees", "USD"), market.office("reserve", "USD")
    legs = Leg(fees, "-25.00", version=1), Leg(reserve, "25.00")
    about = detail(at, "Sweep of the fees", desk="treasury")
    planned: Planned = [General(legs, "sweep-1", detail=about)]
    legs = Leg(fees, "-25.00", balance_at_least="25.00"), Leg(reserve, "25.00")
    await market.post([*planned, General(legs, "sweep-2", detail=about)])


async def captured(market: Market, at: datetime) -> None:
    """A hold is captured in parts, beyond what it has, reversed, and captured after its end."""
    buyer, seller = market.buyer("EUR"), market.seller("EUR")
    ends_at = at + timedelta(days=45)
    about = detail(at, "Booking of two nights", "stay-1", order="stay-1", shipping="none")
    paid_in = deposit(buyer, "300.00", "stay-card", detail(at, "Card payment", method="card"))
    placed = Hold(buyer, seller, "300.00", "stay-1", ends_at, None, about)
    _, hold = await market.post([paid_in, placed])
    part, *_ = await market.post(
        [
            Capture(hold.id, "stay-night-1", detail(at, "First night"), amount="120.00"),
            Capture(hold.id, "stay-night-2", detail(at, "Second night"), amount="500.00"),
            Capture(hold.id, "stay-night-3", detail(at, "Second night"), amount="110.00"),
            Release(hold.id, "stay-release", detail(at, "Left early")),
            Capture(hold.id, "stay-late", detail(at, "Minibar"), amount="9.00"),
        ]
    )
    back = detail(at, "Noise at night", "stay-1")
    await market.post(
        [
            Reversal(part.id, "stay-refund-1", back, amount="40.00"),
            Reversal(part.id, "stay-refund-2", back, amount="500.00"),
        ]
    )


async def cancelled(market: Market, at: datetime) -> None:
    """A subscription is cancelled, and once more."""
    buyer, seller = market.buyer("GBP"), market.seller("GBP")
    due_at = at + timedelta(days=40)
    [scheduled] = await market.post([Schedule(buyer, seller, "14.90", due_at, "magazine")])
    stops = [Cancellation(scheduled.id, key) for key in ("magazine-stop", "magazine-stop-2")]
    await market.post(stops)


async def forced(market: Market, at: datetime) -> None:
    """A payment is taken back from a seller who has spent it."""
    buyer, seller = market.buyer("USD", 4), market.seller("USD", 2)
    paid_in = deposit(buyer, "150.00", "fraud-card", detail(at, "Card payment", method="card"))
    _, paid = await market.post(
        [
            paid_in,
            transfer(buyer, seller, "150.00", "fraud-order", detail(at, "Order of a bicycle")),
        ]
    )
    await market.post(
        [
            withdrawal(seller, "150.00", "fraud-payout", detail(at, "Payout to the bank")),
            Reversal(paid.id, "fraud-refund", detail(at, "Never delivered")),
            Reversal(
                paid.id, "fraud-forced", detail(at, "Fraud, case 4733"), force=True, actor=RISK
            ),
        ]
    )


INCIDENTS: dict[int, Callable[[Market, datetime], Awaitable[None]]] = {
    3: frozen,
    6: limited,
    10: closed,
    13: conditions,
    16: captured,
    20: cancelled,
    24: forced,
}
"""What happens on which day."""
