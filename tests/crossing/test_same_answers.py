"""The same movements on a ledger without parts and on one with three give the same answers."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import RunningService, serving

PARTS = 3
ACCOUNTS = 6
MOVEMENTS = 60
OWNERS = ["Ann", "Bob"]
FROZEN = 5
"""The place of an account that takes no credits."""


class Book(NamedTuple):
    """A ledger, and its accounts in an order that both ledgers share."""

    service: RunningService
    path: str
    accounts: list[int]

    def pages(self, path: str, limit: int = 7) -> list[Any]:
        """All rows of a list."""
        rows: list[Any] = []
        separator = "&" if "?" in path else "?"
        link: Any = f"{self.path}{path}{separator}limit={limit}"
        while link:
            page = self.service.get(link)
            assert page.status_code == 200, page.text
            assert len(page.json()) <= limit
            rows += page.json()
            link = page.links.get("next", {}).get("url")
        return rows

    def place(self, account_id: int) -> int:
        """What stands for an account in both ledgers."""
        return self.accounts.index(account_id) if account_id in self.accounts else -1


@pytest.fixture(scope="module")
def service(new_database) -> Iterator[RunningService]:
    database: Database = new_database()
    with serving(DATABASE_URL=url_text(database)) as running:
        yield running


@pytest.fixture(scope="module")
def books(service: RunningService) -> tuple[Book, Book]:
    """The ledger without parts, and the one with parts, with the same movements."""
    made = open_book(service, "plain"), open_book(service, "parted", shards=PARTS)
    for book in made:
        fill(book, random.Random(11))
    return made


def open_book(service: RunningService, name: str, **parts: int) -> Book:
    assert service.post("/ledgers/", {"name": name, **parts}).status_code == 201
    book, accounts = Book(service, f"/ledgers/{name}", []), []
    for number in range(ACCOUNTS):
        currency = "EUR" if number >= 4 else "USD"
        body = {"owner": OWNERS[number % 2], "currency": currency}
        part = {"part": number % PARTS} if parts else {}
        opened = service.post(f"{book.path}/accounts/", {**body, "metadata": {"n": number}, **part})
        assert opened.status_code == 201, opened.text
        accounts.append(opened.json()["id"])
    return book._replace(accounts=accounts)


def fill(book: Book, chance: random.Random) -> None:
    """Random movements, declines and reversals among them."""
    for number, account in enumerate(book.accounts):
        send(book, "/deposit/", f"d{number}", account_id=account, amount="100")
    body = {"frozen": "credits", "actor": "me", "reason": "x", "idempotency_key": "f"}
    frozen = book.service.send(f"{book.path}/accounts/{book.accounts[FROZEN]}", "PATCH", **body)
    assert frozen.status_code == 200
    posted: list[int] = []
    for number in range(MOVEMENTS):
        move(book, chance, f"k{number}", posted)


def move(book: Book, chance: random.Random, key: str, posted: list[int]) -> None:
    """The same choices whatever the answers are: ids differ, and outcomes must not."""
    pair = chance.sample(range(ACCOUNTS), 2)
    amount, detail, dice = str(chance.randint(1, 60)), details(chance), chance.random()
    if dice < 0.2 and posted:
        path = f"/transactions/{chance.choice(posted)}/reverse"
        send(book, path, key, **(detail if dice < 0.1 else {}))
    elif dice < 0.35:
        path = "/deposit/" if dice < 0.3 else "/withdraw/"
        send(book, path, key, account_id=book.accounts[pair[0]], amount=amount, **detail)
    else:
        ids = {"from_account_id": book.accounts[pair[0]], "to_account_id": book.accounts[pair[1]]}
        answer = send(book, "/transfer/", key, **ids, amount=amount, **detail)
        posted += [answer["transaction_id"]] if answer["status"] == "posted" else []


def details(chance: random.Random) -> dict[str, Any]:
    values = {
        "metadata": {"order": chance.choice(["a", "b", None]), "x": chance.randint(1, 2)},
        "reference": chance.choice(["one", "two"]),
        "effective_at": f"2020-0{chance.randint(1, 9)}-01T00:00:00Z",
    }
    return {name: values[name] for name in values if chance.random() < 0.5}


def send(book: Book, path: str, key: str, **body: Any) -> Any:
    answer = book.service.post(book.path + path, {**body, "idempotency_key": key})
    assert answer.status_code in {200, 400, 409, 422}, answer.text
    return answer.json()


def unordered(rows: list[Any]) -> list[Any]:
    """Rows in an order that does not depend on ids."""
    return sorted(rows, key=repr)


REPORTS = [
    "/reports/trial-balance",
    "/reports/balances",
    "/reports/balances?limit=1",
    "/reports/open",
    *(
        f"/reports/totals?key={key}{time}"
        for key in ("order", "x")
        for time in ("", "&by=effective", "&by=effective&from=2020-03&to=2020-06")
    ),
    *(
        f"/reports/volume?by={by}{basis}{currency}"
        for by in ("month", "day")
        for basis in ("", "&basis=effective", "&basis=effective&from=2020-03&to=2020-07")
        for currency in ("", "&currency=USD")
    ),
]


@pytest.mark.parametrize("path", REPORTS)
def test_reports(books: tuple[Book, Book], path: str) -> None:
    plain, parted = (
        book.pages(path, 2) if "/totals" in path else book.service.get(book.path + path).json()
        for book in books
    )
    assert plain == parted
    assert plain


LISTS = [
    "",
    "by=effective",
    "by=effective&from=2020-02&to=2020-05",
    "status=posted",
    "status=declined",
    "status=declined&by=effective",
    "currency=EUR",
    "currency=USD&status=declined",
    "currency=USD&min_amount=10&max_amount=40",
    "reference=one",
    "reference=two&status=declined",
    'metadata={"x":1}',
    'metadata={"x":1}&reference=one&by=effective',
    "kind=DEPOSIT",
]


@pytest.mark.parametrize("query", LISTS)
def test_lists_of_transactions(books: tuple[Book, Book], query: str) -> None:
    plain, parted = (
        [seen(book, row) for row in book.pages(f"/transactions/?{query}")] for book in books
    )
    is_in_order = "by=effective" not in query
    assert (plain if is_in_order else unordered(plain)) == (
        parted if is_in_order else unordered(parted)
    )
    assert plain


def seen(book: Book, row: dict[str, Any]) -> dict[str, Any]:
    """What a row says in both ledgers. Each part has an external account of its own, and a transfer
    between parts is reversed by one the other way.
    """
    kind = row["transaction_type"]
    if kind == "CROSSING":
        kind = "REVERSAL" if "reverses" in row else "TRANSFER"
    if row["status"] == "declined" and kind == "REVERSAL":
        kind = "TRANSFER"
    if row.get("code") == "reversal_exceeded":
        row["amount"] = ""  # nothing was left, or more than there was
    fields = ("status", "amount", "currency", "reference", "effective_at", "metadata", "code")
    entries = [
        (
            book.place(one["account_id"]),
            one["amount"],
            one["balance"] if one["account_id"] > 0 else "",
        )
        for one in row["entries"]
    ]
    return {
        "key": row["idempotency_key"],
        "kind": kind,
        "entries": sorted(entries),
        **{name: row.get(name) for name in fields},
    }


@pytest.mark.parametrize(
    "query", ["", "owner=Ann", "currency=EUR", 'metadata={"n":2}', "from=2020"]
)
def test_lists_of_accounts(books: tuple[Book, Book], query: str) -> None:
    plain, parted = (
        [
            (book.place(one["id"]), one["owner"], one["balance"], one["held"])
            for one in book.pages(f"/accounts/?{query}", 2)
        ]
        for book in books
    )
    assert unordered(plain) == unordered(parted)
    assert plain
    ids = [one["id"] for one in books[1].pages("/accounts/", 1)]
    assert ids == sorted(ids)


def test_lists_by_account_go_on_in_its_part(books: tuple[Book, Book]) -> None:
    _, parted = books
    for account in parted.accounts:
        rows = parted.pages(f"/transactions/?account_id={account}", 2)
        assert len(rows) == len({row["transaction_id"] for row in rows}) > 2
        history = parted.pages(f"/accounts/{account}/history", 2)
        statement = parted.service.get(f"{parted.path}/accounts/{account}/statement").json()
        assert statement["entries_total"] == len(history)
        assert statement["closing_balance"] == history[0]["balance"]
