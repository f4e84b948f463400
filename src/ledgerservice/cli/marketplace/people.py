"""Who has an account at the marketplace: buyers, sellers, and the marketplace itself."""

from random import Random
from typing import NamedTuple

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.metadata import text_of_metadata

EXPONENTS = {"USD": 2, "EUR": 2, "GBP": 2, "JPY": 0}
"""The currencies of the marketplace, with their digits after the point."""
BUYERS = {"USD": 90, "EUR": 70, "GBP": 30, "JPY": 20}
SELLERS = {"USD": 22, "EUR": 18, "GBP": 8, "JPY": 6}
OFFICES = ("fees", "tax", "campaigns", "exchange", "roundings", "reserve")
"""The marketplace's own accounts in each currency."""

FIRST_NAMES = (
    "Ada",
    "Amina",
    "Anton",
    "Beatriz",
    "Boris",
    "Carmen",
    "Chidi",
    "Clara",
    "Daniel",
    "Emeka",
    "Erik",
    "Fatima",
    "Grace",
    "Hana",
    "Hugo",
    "Ines",
    "Ivan",
    "Jonas",
    "Jun",
    "Karin",
    "Kofi",
    "Lena",
    "Liam",
    "Luca",
    "Mei",
    "Mila",
    "Nadia",
    "Noah",
    "Olga",
    "Omar",
    "Paula",
    "Ravi",
    "Rosa",
    "Sami",
    "Sofia",
    "Tariq",
    "Tom",
    "Uma",
    "Vera",
    "Yuki",
)
LAST_NAMES = (
    "Adeyemi",
    "Ahmed",
    "Andersen",
    "Bauer",
    "Brown",
    "Chen",
    "Costa",
    "Dubois",
    "Evans",
    "Fischer",
    "Garcia",
    "Haddad",
    "Hansen",
    "Ito",
    "Jansen",
    "Kaya",
    "Kim",
    "Kowalski",
    "Lopez",
    "Mbeki",
    "Meyer",
    "Moreau",
    "Nakamura",
    "Novak",
    "O'Neill",
    "Okafor",
    "Patel",
    "Petrov",
    "Rossi",
    "Santos",
    "Sato",
    "Schmidt",
    "Silva",
    "Singh",
    "Tanaka",
    "Torres",
    "Weber",
    "Wilson",
    "Yamada",
    "Young",
)
SHOP_NAMES = (
    "Amber",
    "Birch",
    "Blue",
    "Bright",
    "Cedar",
    "Clover",
    "Copper",
    "Coral",
    "Green",
    "Harbour",
    "Hill",
    "Indigo",
    "Juniper",
    "Linden",
    "Maple",
    "North",
    "Old",
    "Olive",
    "Pebble",
    "River",
    "Silver",
    "South",
    "Stone",
    "Summer",
    "Thistle",
    "Velvet",
    "Willow",
    "Winter",
)
SHOP_GOODS = (
    "Bikes",
    "Books",
    "Boots",
    "Camera",
    "Ceramics",
    "Coffee",
    "Garden",
    "Lamps",
    "Music",
    "Paper",
    "Tea",
    "Toys",
)


class Party(NamedTuple):
    """An account of the marketplace before it is opened. `role` is buyer, seller or an office."""

    role: str
    owner: str
    currency: str
    reference: str


def parties(random: Random) -> list[Party]:
    """All who have an account, in the order in which the accounts are opened."""
    offices = [
        Party(office, "Marketplace", currency, f"{office}-{currency.lower()}")
        for currency in EXPONENTS
        for office in OFFICES
    ]
    shops = random.sample(
        [f"{a} {b}" for a in SHOP_NAMES for b in SHOP_GOODS], sum(SELLERS.values())
    )
    people = random.sample(
        [f"{a} {b}" for a in FIRST_NAMES for b in LAST_NAMES], sum(BUYERS.values())
    )
    return offices + _named("seller", shops, SELLERS) + _named("buyer", people, BUYERS)


def _named(role: str, names: list[str], numbers: dict[str, int]) -> list[Party]:
    currencies = [currency for currency, number in numbers.items() for _ in range(number)]
    return [
        Party(role, name, currency, f"{role}-{number}")
        for number, (name, currency) in enumerate(zip(names, currencies, strict=True), 1)
    ]


def opening_of(party: Party) -> Opening:
    """The request that opens the account of a party."""
    metadata = text_of_metadata({"role": party.role, "market": party.currency})
    reference = party.reference
    return Opening(party.owner, party.currency, reference, reference, metadata=metadata)
