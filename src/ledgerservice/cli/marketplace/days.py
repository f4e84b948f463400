"""What happens on a day: orders, bookings, refunds, payouts and the rest, by chance."""

from collections.abc import Callable
from datetime import datetime, timedelta

from ledgerservice.cli.marketplace.market import Market, detail
from ledgerservice.domain.instructions import (
    Capture,
    Exchange,
    General,
    Hold,
    Instruction,
    Leg,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.movements import deposit, transfer, withdrawal
from ledgerservice.domain.transactions import Transaction

Planned = list[Instruction]
CAMPAIGNS = ("autumn-sale", "newsletter", "welcome")
CHANNELS = ("app", "web", "shop")
SHIPPERS = ("air", "road", "rail")
RATES = {"EUR": "1.0873", "GBP": "1.2641"}
"""Dollars for one euro, and for one pound."""
HOURS = (1, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 12, 13, 11, 10, 9, 10, 12, 14, 15, 13, 9, 5, 2)
"""How busy each hour of a day is."""


def plan_of(market: Market, day: datetime, number: int) -> Planned:
    """About `number` instructions of a day, in the order in which they take effect."""
    hours = market.random.choices(range(24), HOURS, k=number)
    seconds = sorted(hour * 3600 + market.random.randrange(3600) for hour in hours)
    actions = market.random.choices(list(ACTIONS), list(ACTIONS.values()), k=number)
    planned: Planned = []
    for action, second in zip(actions, seconds, strict=True):
        planned += action(market, day + timedelta(seconds=second))
    return planned


def order(market: Market, at: datetime) -> Planned:
    """A buyer pays a seller; the marketplace takes its fee, and the tax is set aside."""
    currency = market.currency()
    buyer, seller = market.buyer(currency), market.seller(currency)
    price = market.amount(5, 240)
    fee, tax = price * 8 // 100, price * 19 // 119
    shares = {buyer: -price, seller: price - fee - tax}
    shares |= {market.office("fees", currency): fee, market.office("tax", currency): tax}
    funding = _fund(market, buyer, price, at)
    _move(market, shares)
    legs = tuple(Leg(one, market.text(one, amount)) for one, amount in shares.items())
    key = market.next_key("order")
    chance = {"channel": market.random.choice(CHANNELS)}
    if market.random.random() < 0.4:
        chance["campaign"] = market.random.choice(CAMPAIGNS)
    about = detail(at, f"Order {key[6:]}", key, order=key, **chance)
    return [*funding, General(legs, key, detail=about)]


def _fund(market: Market, account: int, amount: int, at: datetime) -> Planned:
    """A deposit by card, if the account cannot pay the amount."""
    if market.available[account] >= amount:
        return []
    paid_in = (amount - market.available[account]) // 5000 * 5000 + 5000
    _move(market, {account: paid_in})
    before = at - timedelta(seconds=market.random.randrange(30, 300))
    about = detail(before, "Card payment", method="card")
    return [deposit(account, market.text(account, paid_in), market.next_key("card"), about)]


def _move(market: Market, shares: dict[int, int]) -> None:
    for account, amount in shares.items():
        market.available[account] += amount


def booking(market: Market, at: datetime) -> Planned:
    """A buyer reserves the price of something that is delivered in parts."""
    currency = market.currency()
    buyer, seller = market.buyer(currency), market.seller(currency)
    price = market.amount(60, 400)
    funding = _fund(market, buyer, price, at)
    _move(market, {buyer: -price})
    key = market.next_key("booking")
    ends_at = at + timedelta(days=market.random.randrange(35, 60))
    about = detail(
        at, f"Booking {key[8:]}", key, order=key, shipping=market.random.choice(SHIPPERS)
    )
    return [*funding, Hold(buyer, seller, market.text(buyer, price), key, ends_at, None, about)]


def delivery(market: Market, at: datetime) -> Planned:
    """A part of a booking is delivered and captured, or all that is left of it."""
    placed = _chosen(market, market.bookings)
    if placed is None:
        return []
    rest, key = market.remaining[placed.id], market.next_key("delivery")
    about = detail(at, "Delivery")
    final = market.random.random() < 0.45
    amount = rest * market.random.randrange(30, 100) // 100 if final else rest * 2 // 5
    market.remaining[placed.id] -= rest if final else amount
    if final:
        market.bookings.remove(placed)
    text = market.text(placed.account_id, amount)
    return [Capture(placed.id, key, about, amount=text, final=final)]


def cancelled_booking(market: Market, at: datetime) -> Planned:
    """A booking ends without what is left of it."""
    placed = _chosen(market, market.bookings)
    if placed is None:
        return []
    market.bookings.remove(placed)
    market.remaining[placed.id] = 0
    return [Release(placed.id, market.next_key("release"), detail(at, "Cancelled by the buyer"))]


def _chosen(market: Market, transactions: list[Transaction]) -> Transaction | None:
    return market.random.choice(transactions) if transactions else None


def refund(market: Market, at: datetime) -> Planned:
    """An order comes back: all of it, or the seller gives back a part of the price."""
    paid = _chosen(market, market.orders)
    if paid is None:
        return []
    market.orders.remove(paid)
    key, about = market.next_key("refund"), detail(at, "Returned by the buyer", paid.key)
    for entry in paid.entries:
        if entry.amount > 0:
            market.available[entry.account_id] -= entry.amount
    if market.random.random() < 0.6:
        return [Reversal(paid.id, key, about)]
    return [Reversal(paid.id, key, about, legs=_part_of(market, paid))]


def _part_of(market: Market, paid: Transaction) -> tuple[Leg, ...]:
    """Half of what the seller got goes back to the buyer."""
    entries = {entry.amount: entry.account_id for entry in paid.entries}
    half = max(entries) // 2
    buyer, seller = entries[min(entries)], entries[max(entries)]
    return Leg(buyer, market.text(buyer, half)), Leg(seller, market.text(seller, -half))


def payout(market: Market, at: datetime) -> Planned:
    """A seller is paid to the bank."""
    seller = market.seller(market.currency())
    amount = market.available[seller] * 3 // 4
    if amount < 1000:
        return []
    _move(market, {seller: -amount})
    key = market.next_key("payout")
    about = detail(at, "Payout to the bank", key, batch=f"{at:%Y-W%W}")
    return [withdrawal(seller, market.text(seller, amount), key, about)]


def voucher(market: Market, at: datetime) -> Planned:
    """A campaign gives a buyer something."""
    currency = market.currency()
    buyer, amount = market.buyer(currency), market.random.choice((500, 1000, 2000))
    _move(market, {buyer: amount})
    key, campaign = market.next_key("voucher"), market.random.choice(CAMPAIGNS)
    text = market.text(buyer, amount)
    about = detail(at, f"Voucher of {campaign}", campaign=campaign)
    return [transfer(market.office("campaigns", currency), buyer, text, key, about)]


def overspending(market: Market, at: datetime) -> Planned:
    """A buyer pays more than is there; it is declined."""
    currency = market.currency()
    buyer, seller = market.buyer(currency), market.seller(currency)
    price = market.available[buyer] + market.amount(10, 90)
    key = market.next_key("attempt")
    about = detail(at, "Order without enough money", key, channel=market.random.choice(CHANNELS))
    return [transfer(buyer, seller, market.text(buyer, price), key, about)]


def exchange(market: Market, at: datetime) -> Planned:
    """A seller changes euros or pounds into dollars for a buyer there, through the marketplace."""
    sell = market.random.choice(list(RATES))
    seller, partner = market.seller(sell), market.buyer("USD")
    sold = market.available[seller] // 3
    if sold < 1000:
        return []
    rate = int(RATES[sell].replace(".", ""))
    exact = sold * rate
    bought, rounding = exact // 10_000, 1 if exact % 10_000 else 0
    _move(market, {seller: -sold, partner: bought})
    till, dollars = market.office("exchange", sell), market.office("exchange", "USD")
    shares = {seller: -sold, till: sold, dollars: -bought - rounding, partner: bought}
    legs = tuple(Leg(one, market.text(one, amount)) for one, amount in shares.items())
    terms = Exchange(sell, "USD", RATES[sell], market.office("roundings", "USD"))
    key = market.next_key("fx")
    return [General(legs, key, terms, detail(at, f"{sell} to USD", key, desk="fx"))]


def subscription(market: Market, at: datetime) -> Planned:
    """A buyer schedules next month's payment to a seller."""
    currency = market.currency()
    buyer, seller = market.buyer(currency), market.seller(currency)
    text = market.text(buyer, market.random.choice((990, 1490, 1990)))
    due_at = at + timedelta(days=market.random.randrange(31, 45))
    key = market.next_key("subscription")
    return [Schedule(buyer, seller, text, due_at, key)]


ACTIONS: dict[Callable[[Market, datetime], Planned], float] = {
    order: 50,
    booking: 6,
    delivery: 9,
    cancelled_booking: 0.8,
    refund: 3.5,
    payout: 6,
    voucher: 4,
    overspending: 1.6,
    exchange: 1.8,
    subscription: 1.2,
}
"""What happens, and how often."""
