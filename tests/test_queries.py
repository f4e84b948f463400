"""Lists with filters: what they find, their cursors, and what they cost."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from ledgerservice import queries, statements
from ledgerservice.database import Database
from ledgerservice.model import Status
from ledgerservice.queries import Filter
from ledgerservice.reads import AccountFilter, Reader, accounts_statement
from ledgerservice.requests import Kind
from tests.conftest import RunningService, connect, serving, url_text

Row = dict[str, Any]


def pages(service: RunningService, path: str, limit: int, **query: Any) -> list[Row]:
    """All rows of a list, by following its Link headers."""
    rows: list[Row] = []
    answer = service.client.get(path, params={**query, "limit": limit})
    while True:
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        if "next" not in answer.links:
            return rows
        assert len(answer.json()) == limit
        answer = service.get(answer.links["next"]["url"])


@pytest.fixture(scope="module")
def house(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, list[Row]]]:
    """A ledger with some 150 transactions of all kinds, and all of them, newest first."""
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


def takes_part(row: Row, accounts: set[int]) -> bool:
    return row["account_id"] in accounts or any(e["account_id"] in accounts for e in row["entries"])


def contains(whole: Any, part: Any) -> bool:
    """Whether JSON contains JSON, as PostgreSQL's @> has it."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and contains(whole[name], value) for name, value in part.items()
        )
    return bool(whole == part)


def matches(row: Row, wanted: Row, owners: dict[str, set[int]]) -> bool:
    amount, at = Fraction(row["amount"]), row["recorded_at"]
    return all((
        takes_part(row, {wanted["account_id"]}) if "account_id" in wanted else True,
        takes_part(row, owners.get(wanted["owner"], set())) if "owner" in wanted else True,
        row["transaction_type"] == wanted.get("kind", row["transaction_type"]),
        row["status"] == wanted.get("status", row["status"]),
        row["currency"] == wanted.get("currency", row["currency"]),
        amount >= Fraction(wanted.get("min_amount", 0)),
        amount <= Fraction(wanted.get("max_amount", 10**12)),
        at >= wanted.get("from", at),
        at < wanted.get("to", "9"),
        row.get("reference") == wanted.get("reference", row.get("reference")),
        contains(row.get("metadata", {}), json.loads(wanted.get("metadata", "{}")))
        and ("metadata" not in wanted or "metadata" in row),
    ))  # fmt: skip


FILTERS = {
    "account_id": [1, 2, 5, -1, 10**12],
    "owner": ["Alice", "Carol", "Nobody", "'; --"],
    "kind": ["DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "HOLD", "POLICY", "CAPTURE"],
    "status": ["posted", "declined"],
    "currency": ["USD", "INR"],
    "min_amount": ["0", "5", "7.5", "0.01"],
    "max_amount": ["5.00", "7.50", "1000", "0"],
    "reference": ["ref 0", "ref 1", "none", "%"],
    "metadata": ['{"n":"1"}', '{"deep":{"x":3}}', '{"n":"1","deep":{}}', "{}", '{"m":1}'],
    "from": ["first", "middle", "last"],
    "to": ["first", "middle", "last"],
}
few_filters = st.dictionaries(st.sampled_from(sorted(FILTERS)), st.integers(0, 9), max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(few_filters, st.sampled_from([1, 3, 1000]))
def test_filters_find_what_they_say(house, chosen, limit) -> None:
    service, rows = house
    wanted = {name: FILTERS[name][n % len(FILTERS[name])] for name, n in chosen.items()}
    times = {"first": rows[-1], "middle": rows[len(rows) // 2], "last": rows[0]}
    for name in ("from", "to"):
        if name in wanted:
            wanted[name] = times[wanted[name]]["recorded_at"]
    if {"min_amount", "max_amount"} & wanted.keys():
        wanted.setdefault("currency", "USD")
    owners: dict[str, set[int]] = {}
    for account in service.get("/accounts?limit=1000").json():
        owners.setdefault(account["owner"], set()).add(account["id"])
    expected = [row["transaction_id"] for row in rows if matches(row, wanted, owners)]
    found = pages(service, "/transactions", limit, **wanted)
    assert [row["transaction_id"] for row in found] == expected, wanted


def test_what_is_listed_is_what_is_looked_up(house) -> None:
    service, rows = house
    for row in rows:
        assert service.get(f"/transactions/{row['transaction_id']}").json() == row


def test_accounts_by_filter(house) -> None:
    service, _ = house
    first = {"owner": "Frozen", "currency": "USD", "reference": "a-1"}
    frozen = service.post("/accounts/", first).json()["id"]
    closed = service.open("Closed")
    service.send(f"/accounts/{frozen}", "PATCH", frozen="credits")
    service.send(f"/accounts/{closed}", "PATCH", frozen="both", closed=True)
    everything = pages(service, "/accounts", 1000)
    for query in (
        {"owner": "Alice"},
        {"currency": "INR"},
        {"reference": "a-1"},
        {"reference": "b"},
        {"status": "active"},
        {"status": "frozen"},
        {"status": "closed"},
        {"owner": "Alice", "currency": "INR"},
        {"status": "frozen", "owner": "Frozen"},
    ):
        expected = [row for row in everything if all(row[n] == v for n, v in query.items())]
        assert pages(service, "/accounts", 2, **query) == expected
    assert [row["id"] for row in pages(service, "/accounts", 9, status="frozen")] == [frozen]


# Cursors.


def cursor_of(service: RunningService, target: str) -> str:
    link = service.get(target).links["next"]["url"]
    return str(link.partition("cursor=")[2].partition("&")[0])


def test_a_cursor_is_of_its_list_and_filter_only(house) -> None:
    service, _ = house
    service.post("/ledgers", {"name": "other"})
    targets = [
        "/transactions?limit=1", "/transactions?limit=1&kind=DEPOSIT",
        "/transactions?limit=1&account_id=1", "/transactions?limit=1&owner=Alice",
        "/accounts?limit=1", "/accounts?limit=1&owner=Alice", "/accounts/1/history?limit=1",
        "/accounts/2/history?limit=1", "/accounts/1/statement?limit=1", "/currencies?limit=1",
        "/reports/balances?limit=1", "/ledgers?limit=1",
    ]  # fmt: skip
    cursors = {target: cursor_of(service, target) for target in targets}
    for target in targets:
        for other, cursor in cursors.items():
            answer = service.get(f"{target}&cursor={cursor}")
            assert answer.status_code == (200 if target == other else 422), (target, other)
        assert service.get(f"/ledgers/other{target}&cursor={cursors[target]}").status_code != 200
    longer = service.get(f"/transactions?limit=5&cursor={cursors[targets[0]]}")
    assert longer.status_code == 200  # the size of the page is not part of the filter


def test_a_cursor_cannot_be_made_up(house) -> None:
    service, _ = house
    cursor = cursor_of(service, "/transactions?limit=1")
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    made_up = [raw[:-1], raw + b" ", raw[:12] + b'["2026-01-01T00:00:00+00:00",1]', b"", raw[:12]]
    made_up += [bytes([raw[0] ^ 1]) + raw[1:], raw[:5], b"\0" * 40, raw[12:]]
    texts = [base64.urlsafe_b64encode(text).decode().rstrip("=") for text in made_up]
    texts += [cursor + "=", cursor[:-1], cursor + "A", cursor.swapcase(), "\0", "x" * 2000, "é"]
    for made in texts:
        refused = service.client.get("/transactions", params={"cursor": made})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor"), made


def test_cursors_are_of_the_database_and_of_all_its_processes(new_database) -> None:
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
        # The template of the tests' databases had its secret already; a ledger has its own.
        with connect(other) as owner:
            owner.execute("UPDATE ledger.secrets SET secret = 'another'")
    with serving(DATABASE_URL=url_text(other)) as stranger:
        assert stranger.get(link).json()["code"] == "invalid_cursor"


HOSTILE = [
    "account_id=x", "account_id=1.5", "account_id=9223372036854775808", "account_id=",
    "kind=deposit", "kind=99", "status=2", "min_amount=1", "max_amount=1",
    "currency=USD&min_amount=x", "currency=USD&min_amount=-1", "currency=USD&min_amount=1e3",
    "currency=USD&max_amount=NaN", "currency=USD&max_amount=0.001", "currency=XXX&max_amount=1",
    "metadata=x", "metadata=[]", "metadata=1", 'metadata={"a":NaN}', 'metadata={"a":1,"a":2}',
    "metadata=" + "[" * 2000, 'metadata={"a":1e400}', "owner=a%00", "reference=%00",
    "owner=a&owner=b", "limit=0", "limit=-1", "limit=1001", "limit=x", "unknown=1", "offset=5",
    "from=x", "to=2026-02-30T00:00:00Z", "owner=" + "x" * 256,
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: query[:40])
def test_hostile_filters_are_refused(house, query) -> None:
    service, _ = house
    refused = service.get(f"/transactions?{query}")
    assert refused.status_code == 422
    assert refused.json()["code"] in ("invalid_request", "currency_unknown")


@pytest.mark.parametrize(
    "value", ["' OR '1'='1", "'; DROP TABLE ledger.entries; --", "%", "_", "\\", ":owner", "$1",
              "\u202e", "\N{PILE OF POO}", "{}", "NULL"],
)  # fmt: skip
def test_a_value_is_never_more_than_a_value(house, value) -> None:
    service, rows = house
    for name in ("owner", "reference"):
        assert service.client.get("/transactions", params={name: value}).json() == []
        assert service.client.get("/accounts", params={name: value}).json() == []
    wanted = json.dumps({value: value})
    assert service.client.get("/transactions", params={"metadata": wanted}).json() == []
    assert len(pages(service, "/transactions", 1000)) >= len(rows)


# What they cost.

ACCOUNTS, TRANSACTIONS = 2_000, 120_000
PAGE = 50

FILL = f"""
SET session_replication_role = replica;
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, reference,
                             version, restricted)
SELECT 1, a, CASE WHEN a > 400 THEN 'many' ELSE 'owner ' || a / 4 END, 'USD', 1, 2,
       'account ' || a, 0, (a % 500 = 0)::int
FROM generate_series(1, {ACCOUNTS}) a;
INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id, amount,
    recorded_at, renderer, idempotency_key, decline_reason, deciding_account_id, deciding_version,
    deciding_available)
SELECT 1, n, CASE WHEN n % 1000 = 7 THEN 1 ELSE 3 END, CASE WHEN n % 400 = 5 THEN 2 ELSE 1 END,
       CASE WHEN n % 2 = 0 THEN 1 ELSE 2 + n % 1900 END, 2000 - n % 50,
       CASE WHEN n % 3000 = 11 THEN 77777 + n ELSE 1 + n % 100 END,
       timestamptz '2026-01-01' + n / 20 * interval '1 s', CASE WHEN n % 10 = 0 THEN 2 ELSE 1 END,
       'key ' || n, CASE WHEN n % 400 = 5 THEN 'insufficient_funds' END,
       CASE WHEN n % 400 = 5 THEN 2 END, CASE WHEN n % 400 = 5 THEN 0 END,
       CASE WHEN n % 400 = 5 THEN 0 END
FROM generate_series(1, {TRANSACTIONS}) n;
INSERT INTO ledger.entries (ledger_id, currency_number, account_id, seq, transaction_id, amount,
    held_change, balance, held, recorded_at)
SELECT 1, 1, account, row_number() OVER (PARTITION BY account ORDER BY id), id, amount, 0, 0,
       CASE WHEN account = 1 AND id > 2000 THEN 5 ELSE 0 END, recorded_at
FROM (SELECT id, account_id AS account, -amount AS amount, recorded_at FROM ledger.transactions
      WHERE status = 1
      UNION ALL SELECT id, counterparty_id, amount, recorded_at FROM ledger.transactions
      WHERE status = 1) legs;
UPDATE ledger.accounts a SET version = s.seq
FROM (SELECT account_id, max(seq) AS seq FROM ledger.entries GROUP BY 1) s
WHERE s.account_id = a.id;
INSERT INTO ledger.details (ledger_id, transaction_id, digest, parent_id, reference, metadata)
SELECT 1, id, sha256(id::text::bytea), id / 10, CASE WHEN id BETWEEN 2000 AND 30000 THEN 'payroll'
       WHEN id % 20 = 0 THEN 'often' ELSE 'ref ' || id END,
       json_build_object('order', id, 'often', 'yes', 'some', id % 50, 'campaign',
                         CASE WHEN id BETWEEN 2000 AND 30000 THEN '2019' END)
FROM ledger.transactions WHERE renderer = 2;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          captured, expires_at)
SELECT 1, n, 1, -1, 5, 0, 0, timestamptz '2026-01-01 00:01' FROM generate_series(1, 12000) n;
SET session_replication_role = origin;
ANALYZE ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds;
"""


@pytest.fixture(scope="module")
def large(new_database: Callable[..., Database]) -> Database:
    """A ledger of 120,000 transactions, half of them of account 1."""
    database = new_database()
    with connect(database) as owner:
        for statement in FILL.split(";\n"):
            if statement.strip():
                owner.execute(statement)
    return database


def at(n: int) -> Any:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n // 20)


PLACES = {
    "first page": queries.AT_THE_TOP,
    "in the middle": (at(TRANSACTIONS // 2), 0),
    "last page": (at(300), 0),
}
COSTS = {
    "everything": Filter(),
    "a frequent kind": Filter(kind=Kind.TRANSFER),
    "a rare kind": Filter(kind=Kind.DEPOSIT),
    "a kind that there is not": Filter(kind=Kind.HOLD),
    "what was declined": Filter(status=Status.DECLINED),
    "a rare kind, declined": Filter(kind=Kind.DEPOSIT, status=Status.DECLINED),
    "a time long ago": Filter(since=at(1000), until=at(3000)),
    "a time with nothing": Filter(since=at(-9000), until=at(-1000)),
    "a busy account": Filter(account_id=1),
    "a quiet account": Filter(account_id=77),
    "an account that there is not": Filter(account_id=10**9),
    "a busy account's declines": Filter(account_id=2, status=Status.DECLINED),
    "a busy account long ago": Filter(account_id=1, since=at(1000), until=at(3000)),
    "a busy account at a moment": Filter(account_id=1, since=at(1000), until=at(1040)),
    "a quiet account for long": Filter(account_id=77, since=at(1000), until=at(110_000)),
    "an owner for long": Filter(owner="owner 30", since=at(1000), until=at(110_000)),
    "an owner": Filter(owner="owner 0"),
    "a quiet owner": Filter(owner="owner 30"),
    "nobody": Filter(owner="nobody"),
    "a rare amount": Filter(currency="USD", least=77777 + 3011, most=77777 + 3011),
    "rare amounts": Filter(currency="USD", least=77777),
    "a frequent amount": Filter(currency="USD", least=50, most=50),
    "a rare reference": Filter(reference="ref 10"),
    "a currency": Filter(currency="USD"),
    "an account and a rare reference": Filter(account_id=1, reference="ref 10"),
    "an owner and a rare reference": Filter(owner="owner 0", reference="ref 10"),
    "a rare reference and a frequent amount": Filter(reference="ref 10", currency="USD", least=2),
    "the owner of many accounts": Filter(owner="many"),
    "a rare kind of the owner of many accounts": Filter(owner="many", kind=Kind.DEPOSIT),
    "a quiet owner's frequent amount": Filter(owner="owner 30", currency="USD", least=50, most=50),
    "a quiet account's kind that there is not": Filter(account_id=77, kind=Kind.HOLD),
    "a rare currency": Filter(currency="INR"),
}

# What the right index finds in another order, or finds too much of, takes some tries.
RACES = {
    "a reference of long ago": Filter(reference="payroll"),
    "metadata of long ago": Filter(metadata='{"campaign":"2019"}'),
    "a frequent reference": Filter(reference="often"),
    "rare metadata": Filter(metadata='{"order":500}'),
    "metadata of a part": Filter(metadata='{"some":0}'),
    "a busy account's rare metadata": Filter(account_id=1, metadata='{"order":500}'),
    "a busy account's rare kind": Filter(account_id=1, kind=Kind.DEPOSIT),
    "a busy account's frequent kind": Filter(account_id=1, kind=Kind.TRANSFER),
    "a busy account's rare amounts": Filter(account_id=1, currency="USD", least=77777),
    "a frequent reference of a busy account": Filter(account_id=1, reference="often"),
    "frequent metadata": Filter(metadata='{"often":"yes"}'),
    "frequent amounts": Filter(currency="USD", least=20, most=90),
}


def rows_read(plan: dict[str, Any]) -> float:
    """Rows that the plan's scans have looked at, those that a filter threw away included."""
    read = 0.0
    # The accounts are few here, and are read whole where many would be looked up.
    if plan.get("Relation Name", "accounts") != "accounts":
        removed = plan.get("Rows Removed by Filter", 0)
        removed += plan.get("Rows Removed by Index Recheck", 0)
        read = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return read + sum(rows_read(part) for part in plan.get("Plans", []))


async def rows_of_page(database: Database, wanted: Filter, after: Any) -> tuple[float, list[Any]]:
    """Rows that all the statements for a page have looked at, and the page."""
    engine = database.read_engine()
    read = 0.0
    async with queries.pinned(Reader(engine, 1, 30)) as run:

        async def explained(statement: str, values: dict[str, Any]) -> list[Any]:
            nonlocal read
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            [(found,)] = await run(explain, values)
            read += rows_read(found[0]["Plan"])
            return await run(statement, values)

        page = await queries.page(explained, wanted, PAGE, after)
    await engine.dispose()
    return read, page


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("wanted", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page(large, wanted, after) -> None:
    """Whatever matches, and however many there are: some rows for each that is shown."""
    read, _ = asyncio.run(rows_of_page(large, wanted, after))
    assert read < 25 * PAGE


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("wanted", RACES.values(), ids=RACES.keys())
def test_a_page_of_several_filters_costs_some_tries(large, wanted, after) -> None:
    """A few times what the best way to it costs; the worst one reads all 120,000, with what they
    have."""
    read, _ = asyncio.run(rows_of_page(large, wanted, after))
    assert read < 25 * queries.FIRST_BUDGET_ROWS


CHOICES: dict[str, list[Any]] = {
    "account_id": [1, 77, 399, 10**9],
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "kind": [Kind.DEPOSIT, Kind.TRANSFER, Kind.HOLD],
    "status": list(Status),
    "currency": ["USD", "INR"],
    "least": [1, 50, 77777],
    "most": [50, 90, 10**9],
    "since": [at(1000), at(100_000)],
    "until": [at(3000), at(110_000)],
    "reference": ["ref 10", "often", "payroll", "none"],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', '{"some":0}'],
}
choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 3), max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices, st.sampled_from(sorted(PLACES)), st.sampled_from([1, 5, 60]))
def test_every_way_leads_to_the_same_page(large, chosen, place, rows) -> None:
    """Tries of a few rows, against the filters asked one by one of every transaction."""
    wanted = Filter(**{n: CHOICES[n][i % len(CHOICES[n])] for n, i in chosen.items()})
    after = PLACES[place]

    async def pages() -> tuple[list[int], list[int]]:
        engine = large.read_engine()
        async with queries.pinned(Reader(engine, 1, 60)) as run:
            found = await queries.page(run, wanted, rows, after)
            values = {n: v for n, v in msgspec.structs.asdict(wanted).items() if v is not None}
            where = " AND ".join([queries._CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT t.id FROM (SELECT * FROM ledger.transactions t
                    WHERE t.ledger_id = :ledger
                      AND (t.recorded_at, t.id) < (:moment, :number) OFFSET 0) t
                WHERE {where} ORDER BY t.recorded_at DESC, t.id DESC LIMIT :rows"""
            values |= {"moment": after[0], "number": after[1], "rows": rows}
            expected = await run(everything, values)
        await engine.dispose()
        return [row[0] for row in found], [row[0] for row in expected]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "FIRST_BUDGET_ROWS", 8)
        patch.setattr(queries, "FEW_ACCOUNTS", 2)
        found, expected = asyncio.run(pages())
    assert found == expected, wanted


ACCOUNT_COSTS = [
    {"owner": "owner 30"}, {"currency": "USD"}, {"reference": "account 77"}, {"status": "frozen"},
    {"status": "active"}, {"status": "closed"}, {"owner": "nobody"},
]  # fmt: skip


@pytest.mark.parametrize("query", ACCOUNT_COSTS, ids=str)
def test_a_page_of_accounts_costs_a_page(large, query) -> None:
    compiled = accounts_statement(AccountFilter(**query)).compile(dialect=postgresql.dialect())
    statement = str(compiled) % {
        name: f"'{value}'" if isinstance(value, str) else value
        for name, value in {**compiled.params, "ledger": 1, "after": 0, "rows": PAGE}.items()
    }
    with connect(large) as owner:
        row = owner.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}").fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert rows_read(plan) < 3 * PAGE, json.dumps(plan)[:2000]


def test_as_of_costs_a_binary_search(large) -> None:
    with connect(large, role="ledgerservice") as service:
        version = "SELECT version FROM ledger.accounts WHERE id = 1"
        [(last,)] = service.execute(version).fetchall()
        assert last > 50_000
        service.execute("SELECT pg_stat_force_next_flush()")
        read = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'entries'"
        [(before,)] = service.execute(read).fetchall()
        service.execute(f"SELECT ledger.version_at(1, 1, {last}, '2026-01-01T00:10:00Z')")
        service.execute("SELECT pg_stat_force_next_flush()")
        [(after,)] = service.execute(read).fetchall()
        assert after - before <= 17


@pytest.mark.parametrize("n", [1000, 5000, 60_000, TRANSACTIONS])
def test_as_of_reads_no_history(large, n) -> None:
    """Also where something was held, of holds that have been released since."""

    async def explained() -> Any:
        engine = large.read_engine()
        async with Reader(engine, 1, 30).connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statements.ACCOUNT_AT}"
            values = {"ledger": 1, "account": 1, "at": at(n)}
            found = await connection.scalar(text(explain), values)
        await engine.dispose()
        return found[0]["Plan"]

    plan = asyncio.run(explained())
    assert rows_read(plan) < 100, json.dumps(plan)[:3000]
