"""Lists with filters: the rows they find, and their cursors."""

import base64
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerservice.postgres.connections import Database
from tests import examples
from tests.databases import connect, url_text
from tests.oracle.looking_back import contains
from tests.processes import RunningService, serving

Row = dict[str, Any]


def pages(service: RunningService, path: str, limit: int, **query: Any) -> list[Row]:
    """All rows of a list: follows its Link headers."""
    rows: list[Row] = []
    page = service.client.get(path, params={**query, "limit": limit})
    while True:
        assert page.status_code == 200, page.text
        rows += page.json()
        if "next" not in page.links:
            return rows
        assert len(page.json()) == limit
        page = service.get(page.links["next"]["url"])


@pytest.fixture(scope="module")
def house(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, list[Row]]]:
    """A ledger with transactions of many kinds, and all its transactions, newest first."""
    with serving(DATABASE_URL=url_text(new_database())) as service:
        owners = ["Alice", "Alice", "Bob", "Carol"]
        accounts = [service.open(owner, balance="100") for owner in owners]
        rupees = service.open("Alice", "INR", "100")
        items: list[Row] = []
        for n in range(40):
            a, b = accounts[n % 4], accounts[(n * 3 + 1) % 4]
            more: Row = {}
            if n % 3 == 0:
                more = {
                    "reference": f"ref {n % 4}",
                    "metadata": {"n": str(n % 5), "deep": {"x": n}},
                }
            if n % 5 < 2:
                more["effective_at"] = f"1993-03-{n // 10 + 1:02}T00:00:00Z"
            kind = ("DEPOSIT", "WITHDRAWAL", "HOLD", "TRANSFER")[n % 4]
            own = {"account_id": a}
            if kind == "TRANSFER":
                own = {"from_account_id": a, "to_account_id": b if a != b else rupees}
            amount = ["5", "7.50", "1000", "0.01"][n % 4 if n % 7 else 2]
            items.append(
                {"type": kind, **own, "amount": amount, "idempotency_key": f"i{n}", **more}
            )
        for start in range(0, 40, 10):
            service.post("/batches", {"movements": items[start : start + 10]})
        legs = [
            {"account_id": accounts[0], "amount": "-1"},
            {"account_id": accounts[2], "amount": 1},
            {"account_id": accounts[0], "amount": "-2"},
            {"account_id": accounts[3], "amount": 2},
        ]
        service.send("/transactions", legs=legs, metadata={"n": "1"})
        service.send(f"/accounts/{accounts[1]}", "PATCH", floor="-10")
        service.send("/withdraw", account_id=rupees, amount="9")
        rows = pages(service, "/transactions", 7)
        assert len({row["transaction_id"] for row in rows}) == len(rows) > 45
        times = [(row["recorded_at"], row["transaction_id"]) for row in rows]
        assert times == sorted(times, reverse=True)
        yield service, rows


def involves(row: Row, accounts: set[int]) -> bool:
    return row["account_id"] in accounts or any(e["account_id"] in accounts for e in row["entries"])


def time_of(row: Row, filters: Row) -> str:
    """The time by which a transaction is listed."""
    effective_at = row["effective_at"] if filters.get("by") == "effective" else None
    return str(effective_at or row["recorded_at"])


def matches(row: Row, filters: Row, owners: dict[str, set[int]]) -> bool:
    amount, at = Fraction(row["amount"]), time_of(row, filters)
    return all((
        involves(row, {filters["account_id"]}) if "account_id" in filters else True,
        involves(row, owners.get(filters["owner"], set())) if "owner" in filters else True,
        row["transaction_type"] == filters.get("kind", row["transaction_type"]),
        row["status"] == filters.get("status", row["status"]),
        row["currency"] == filters.get("currency", row["currency"]),
        amount >= Fraction(filters.get("min_amount", 0)),
        amount <= Fraction(filters.get("max_amount", 10**12)),
        at >= filters.get("from", at),
        at < filters.get("to", "9"),
        row.get("reference") == filters.get("reference", row.get("reference")),
        "metadata" not in filters or (row["metadata"] is not None
        and contains(row["metadata"], json.loads(filters["metadata"]))),
    ))  # fmt: skip


FILTERS: dict[str, list[Any]] = {
    "account_id": [1, 2, 5, -1, 10**12],
    "owner": ["Alice", "Carol", "Nobody", "'; --"],
    "kind": ["DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "HOLD", "POLICY", "CAPTURE"],
    "status": ["posted", "declined"],
    "currency": ["USD", "INR"],
    "min_amount": ["0", "5", "7.5", "0.01"],
    "max_amount": ["5.00", "7.50", "1000", "0"],
    "reference": ["ref 0", "ref 1", "none", "%"],
    "metadata": ['{"n":"1"}', '{"deep":{"x":3}}', '{"n":"1","deep":{}}', "{}", '{"m":1}'],
    "from": ["first", "middle", "last", "1993-03-01T00:00:00.000000Z"],
    "to": ["first", "middle", "last", "1993-03-04T00:00:00.000000Z"],
    "by": ["recorded", "effective"],
}


def in_order(filters: Row) -> None:
    """No period ends before it begins: it would be refused."""
    if {"from", "to"} <= filters.keys():
        filters["from"], filters["to"] = sorted((filters["from"], filters["to"]))


few_filters = st.dictionaries(st.sampled_from(sorted(FILTERS)), st.integers(0, 9), max_size=3)


@pytest.mark.thorough
@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(few_filters, st.sampled_from([1, 3, 1000]))
def test_filters_find_the_matching_transactions(house, chosen, limit) -> None:
    service, rows = house
    filters = {name: FILTERS[name][n % len(FILTERS[name])] for name, n in chosen.items()}
    times = {"first": rows[-1], "middle": rows[len(rows) // 2], "last": rows[0]}
    for name in ("from", "to"):
        if filters.get(name) in times:
            filters[name] = times[filters[name]]["recorded_at"]
    in_order(filters)
    if {"min_amount", "max_amount"} & filters.keys():
        filters.setdefault("currency", "USD")
    owners: dict[str, set[int]] = {}
    for account in service.get("/accounts?limit=1000").json():
        owners.setdefault(account["owner"], set()).add(account["id"])
    latest = sorted(
        rows, key=lambda row: (time_of(row, filters), row["transaction_id"]), reverse=True
    )
    expected = [row["transaction_id"] for row in latest if matches(row, filters, owners)]
    listed = pages(service, "/transactions", limit, **filters)
    assert [row["transaction_id"] for row in listed] == expected, filters


def test_a_listed_transaction_equals_the_single_one(house) -> None:
    service, rows = house
    for row in rows:
        assert service.get(f"/transactions/{row['transaction_id']}").json() == row


@pytest.fixture(scope="module")
def people(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, list[Row]]]:
    """A ledger with accounts of every status, with and without metadata, and all its accounts."""
    with serving(DATABASE_URL=url_text(new_database())) as service:
        opened = []
        for n in range(24):
            body: Row = {"owner": ["Alice", "Bob", "Carol"][n % 3], "currency": "USD"}
            if n % 5 == 0:
                body |= {"reference": f"a-{n}", "currency": "INR"}
            if n % 4 != 0:
                body |= {"metadata": {"tier": ["gold", "lead"][n % 2], "deep": {"x": n}}}
            opened.append(service.post("/accounts", body).json()["id"])
            service.send("/deposit", account_id=opened[-1], amount=str(1 + n % 7))
        for n in (3, 9, 12):
            service.send(f"/accounts/{opened[n]}", "PATCH", frozen=["debits", "credits"][n % 2])
        for n in (4, 11):
            service.send("/withdraw", account_id=opened[n], amount=str(1 + n % 7))
            service.send(f"/accounts/{opened[n]}", "PATCH", closed=True)
        service.send(f"/accounts/{opened[5]}", "PATCH", floor="-9")
        service.send("/withdraw", account_id=opened[5], amount="9")
        rows = pages(service, "/accounts", 1000)
        assert [row["id"] for row in rows] == opened
        yield service, rows


def account_matches(row: Row, filters: Row) -> bool:
    balance, opened_at = Fraction(row["balance"]), row["created_at"]
    return all((
        *(row[name] == filters.get(name, row[name])
          for name in ("owner", "currency", "reference", "status")),
        balance >= Fraction(filters.get("min_balance", -(10**12))),
        balance <= Fraction(filters.get("max_balance", 10**12)),
        opened_at >= filters.get("from", opened_at),
        opened_at < filters.get("to", "9"),
        "metadata" not in filters or (row["metadata"] is not None
        and contains(row["metadata"], json.loads(filters["metadata"]))),
    ))  # fmt: skip


ACCOUNT_FILTERS: dict[str, list[Any]] = {
    "owner": ["Alice", "Carol", "Nobody"],
    "currency": ["USD", "INR", "EUR"],
    "reference": ["a-5", "a-1", "%"],
    "status": ["active", "frozen", "closed"],
    "min_balance": ["-3", "0", "3.00", "7"],
    "max_balance": ["-0.01", "0", "4", "99"],
    "metadata": ['{"tier":"gold"}', '{"deep":{"x":3}}', "{}", '{"m":1}'],
    "from": [0, 3, 12, 23],
    "to": [0, 12, 23],
}
account_filters = st.dictionaries(
    st.sampled_from(sorted(ACCOUNT_FILTERS)), st.integers(0, 11), max_size=3
)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(account_filters, st.sampled_from([1, 2, 1000]))
def test_filters_find_the_matching_accounts(people, chosen, limit) -> None:
    service, rows = people
    filters: Row = {n: ACCOUNT_FILTERS[n][i % len(ACCOUNT_FILTERS[n])] for n, i in chosen.items()}
    for name in ("from", "to"):
        if name in filters:
            filters[name] = rows[filters[name]]["created_at"]
    in_order(filters)
    if {"min_balance", "max_balance"} & filters.keys():
        filters.setdefault("currency", "USD")
    expected = [row for row in rows if account_matches(row, filters)]
    assert pages(service, "/accounts", limit, **filters) == expected, filters


# Cursors.


def cursor_of(service: RunningService, target: str) -> str:
    link = service.get(target).links["next"]["url"]
    return str(link.partition("cursor=")[2].partition("&")[0])


def test_a_cursor_is_valid_for_its_list_and_filters_only(house) -> None:
    service, _ = house
    service.post("/ledgers", {"name": "other"})
    targets = [
        "/transactions?limit=1", "/transactions?limit=1&kind=DEPOSIT",
        "/transactions?limit=1&account_id=1", "/transactions?limit=1&owner=Alice",
        "/accounts?limit=1", "/accounts?limit=1&owner=Alice",
        "/accounts?limit=1&from=2020-01-01T00:00:00Z", "/accounts/1/history?limit=1",
        "/accounts/2/history?limit=1", "/accounts/1/statement?limit=1", "/currencies?limit=1",
        "/reports/balances?limit=1", "/ledgers?limit=1",
    ]  # fmt: skip
    cursors = {target: cursor_of(service, target) for target in targets}
    for target in targets:
        for other, cursor in cursors.items():
            answer = service.get(f"{target}&cursor={cursor}")
            # A cursor carries its filters, so that it needs none beside it.
            alone = "&" not in target and other.startswith(f"{target}&")
            assert answer.status_code == (200 if target == other or alone else 422), (target, other)
        assert service.get(f"/ledgers/other{target}&cursor={cursors[target]}").status_code != 200
    longer = service.get(f"/transactions?limit=5&cursor={cursors[targets[0]]}")
    assert longer.status_code == 200  # the limit is not part of the filters


def test_a_cursor_has_room_for_the_longest_filters(house) -> None:
    """Filters that are too long for a cursor are refused at the first page."""
    service, _ = house
    service.open(long := "\N{PERSONAL COMPUTER}" * 255)
    service.open(long)
    by_owner = {"owner": long, "limit": 1}
    reply = service.client.get("/accounts", params=by_owner)
    assert len(service.get(reply.links["next"]["url"]).json()) == 1
    for more, status in ((2_000, 200), (4_000, 422)):
        text = json.dumps({"a": "x" * (more // 2), "b": "\N{PERSONAL COMPUTER}" * (more // 8)},
                          ensure_ascii=False)  # fmt: skip
        page = service.client.get("/accounts", params=by_owner | {"metadata": text})
        assert page.status_code == status, page.text


def test_a_forged_cursor_is_refused(house) -> None:
    service, _ = house
    cursor = cursor_of(service, "/transactions?limit=1")
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    forged = [raw[:-1], raw + b" ", raw[:12] + b'["2026-01-01T00:00:00+00:00",1]', b"", raw[:12]]
    forged += [bytes([raw[0] ^ 1]) + raw[1:], raw[:5], b"\0" * 40, raw[12:]]
    texts = [base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in forged]
    texts += [cursor + "=", cursor[:-1], cursor + "A", cursor.swapcase(), "\0", "x" * 2000, "é"]
    for text in texts:
        refused = service.client.get("/transactions", params={"cursor": text})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor"), text


def test_a_cursor_is_valid_in_all_processes_of_its_database_only(new_database) -> None:
    database, other = new_database(), new_database()
    with (
        serving(DATABASE_URL=url_text(database)) as first,
        serving(DATABASE_URL=url_text(database)) as second,
        serving(DATABASE_URL=url_text(other)) as stranger,
    ):
        for service in (first, stranger):
            service.open(), service.open()
        link = first.get("/accounts?limit=1").links["next"]["url"]
        assert second.get(link).json() == first.get(link).json() != []
        # All test databases have the secret of their template; another database has its own.
        with connect(other) as owner:
            owner.execute("UPDATE ledger.secrets SET secret = 'another'")
    with serving(DATABASE_URL=url_text(other)) as stranger:
        assert stranger.get(link).json()["code"] == "invalid_cursor"


MANY_VALUES = 'metadata={"a":%s}' % [*range(10, 31)]  # each is searched in each row's array
HOSTILE = [
    "account_id=x", "account_id=1.5", "account_id=1_0", "account_id=%201", "limit=1_0",
    "account_id=9223372036854775808", "account_id=",
    "kind=deposit", "kind=99", "status=2", "min_amount=1", "max_amount=1",
    "currency=USD&min_amount=x", "currency=USD&min_amount=-1", "currency=USD&min_amount=1e3",
    "currency=USD&max_amount=NaN", "currency=USD&max_amount=0.001", "currency=XXX&max_amount=1",
    MANY_VALUES,
    "metadata=x", "metadata=[]", "metadata=1", 'metadata={"a":NaN}', 'metadata={"a":1,"a":2}',
    "metadata=" + "[" * 2000, 'metadata={"a":1e400}', "owner=a%00", "reference=%00",
    "owner=a&owner=b", "limit=0", "limit=-1", "limit=1001", "limit=x", "unknown=1", "offset=5",
    "from=x", "to=2026-02-30T00:00:00Z", "owner=" + "x" * 256,
]  # fmt: skip


HOSTILE_TO_ACCOUNTS = [
    "min_balance=1", "currency=USD&min_balance=x", "currency=USD&max_balance=--1",
    "currency=USD&max_balance=+1", "currency=USD&max_balance=0.001", "status=open",
    MANY_VALUES,
    "currency=XXX&max_balance=1", "metadata=[]", 'metadata={"a":NaN}', "from=yesterday", "to=",
    "kind=DEPOSIT", "min_amount=1", "limit=1_0", "owner=a&owner=b", "reference=%00",
]  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [f"/transactions?{q}" for q in HOSTILE] + [f"/accounts?{q}" for q in HOSTILE_TO_ACCOUNTS],
    ids=lambda target: target[:50],
)
def test_hostile_filters_are_refused(house, target) -> None:
    service, _ = house
    refused = service.get(target)
    assert refused.status_code == 422
    assert refused.json()["code"] in ("invalid_request", "currency_unknown")


@pytest.mark.parametrize(
    "value", ["' OR '1'='1", "'; DROP TABLE ledger.entries; --", "%", "_", "\\", ":owner", "$1",
              "\u202e", "\N{PILE OF POO}", "{}", "NULL"],
)  # fmt: skip
def test_a_filter_value_is_never_sql(house, value) -> None:
    service, rows = house
    for name in ("owner", "reference"):
        assert service.client.get("/transactions", params={name: value}).json() == []
        assert service.client.get("/accounts", params={name: value}).json() == []
    filters = json.dumps({value: value})
    assert service.client.get("/transactions", params={"metadata": filters}).json() == []
    assert len(pages(service, "/transactions", 1000)) >= len(rows)
