"""An account as of a moment, statements, and reports, over HTTP."""

import csv
import html
import io
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import RunningService, serving

FAR = "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def slept_on(new_database: Callable[..., Database]) -> Database:
    return new_database()


@pytest.fixture(scope="module")
def sleepy(slept_on: Database) -> Iterator[RunningService]:
    """A service whose sweeper never comes by."""
    values = {"DATABASE_URL": url_text(slept_on), "LEDGER_SWEEP_INTERVAL_S": "3600"}
    with serving(**values) as running:
        yield running


def trial_balance(service: RunningService, at: str | None) -> dict[str, Any]:
    answer = service.client.get("/reports/trial-balance", params={"at": at} if at else {})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def as_of(service: RunningService, account: int, at: str) -> dict[str, Any]:
    answer = service.client.get(f"/accounts/{account}", params={"as_of": at})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def shifted(moment: str, seconds: float) -> str:
    return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("released", [None, "1", "1000"])
def test_a_hold_reserves_until_it_expires_also_in_the_past(sleepy, released) -> None:
    a = sleepy.open(balance="100")
    expires_at = shifted(datetime.now(UTC).isoformat(), 0.5)
    kept = sleepy.send("/holds", account_id=a, amount="7").json()
    held = sleepy.send("/holds", account_id=a, amount="20", expires_at=expires_at).json()
    sleepy.send("/holds", account_id=a, amount="5", expires_at=FAR)
    time.sleep(0.8)
    if released is not None:  # by what comes next, which may be declined
        status = sleepy.send("/withdraw", account_id=a, amount=released).status_code
        assert status == (200 if released == "1" else 400)
    before = as_of(sleepy, a, kept["recorded_at"])
    assert (before["held"], before["available"], before["version"]) == ("7.00", "93.00", 2)
    during = as_of(sleepy, a, shifted(expires_at, -0.000001))
    assert (during["held"], during["available"], during["version"]) == ("32.00", "68.00", 4)
    after = as_of(sleepy, a, expires_at)
    assert (after["held"], after["available"], after["version"]) == ("12.00", "88.00", 4)
    assert held["remaining"] == "20.00"


def test_the_policy_of_then_is_told_too(sleepy) -> None:
    a = sleepy.open(balance="10")
    first = sleepy.send(f"/accounts/{a}", "PATCH", floor="-5", frozen="debits").json()
    second = sleepy.send(f"/accounts/{a}", "PATCH", floor="0", frozen=None).json()
    then = as_of(sleepy, a, first["recorded_at"])
    assert (then["floor"], then["status"], then["frozen"]) == ("-5.00", "frozen", "debits")
    assert as_of(sleepy, a, shifted(first["recorded_at"], -0.000001))["floor"] == "0.00"
    assert as_of(sleepy, a, second["recorded_at"])["status"] == "active"


def test_what_is_final_stays_as_it_is_while_others_write(sleepy) -> None:
    a, b = sleepy.open(balance="1000"), sleepy.open(balance="1000")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            sleepy.post("/transfer", {"from_account_id": a, "to_account_id": b, "amount": "0.01",
                                      "idempotency_key": f"{number}"})  # fmt: skip

    writers = [threading.Thread(target=write)]
    for writer in writers:
        writer.start()
    seen = []
    end_s = time.monotonic() + 3
    while time.monotonic() < end_s:
        at = datetime.now(UTC).isoformat()
        seen.append((at, as_of(sleepy, a, at)))
    stop.set()
    for writer in writers:
        writer.join()
    final = [(at, body) for at, body in seen if body["final"]]
    assert len(final) > 10
    for at, body in final:
        assert as_of(sleepy, a, at) == body
    future = as_of(sleepy, a, FAR)
    assert future["final"] is False


def test_while_a_batch_is_in_flight_nothing_of_it_is_final(new_database) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as service, connect(database) as owner:
        a, b = service.open(balance="10"), service.open(balance="10")
        at = datetime.now(UTC).isoformat()
        with owner.transaction():
            owner.execute("SELECT pg_current_xact_id()")  # as a batch, before its clock
            assert as_of(service, a, at)["final"] is False
            assert as_of(service, b, at)["final"] is False
            assert trial_balance(service, at)["final"] is False
        for _ in range(2):
            assert as_of(service, a, at)["final"] is True
            assert trial_balance(service, at)["final"] is True
        assert trial_balance(service, None)["final"] is False
        assert trial_balance(service, FAR)["final"] is False


def test_what_was_followed_is_final_without_a_lock(sleepy, slept_on) -> None:
    """A reader of the past must not hold up whoever writes."""
    a = sleepy.open(balance="10")
    times = [sleepy.send("/withdraw", account_id=a, amount="1").json()["recorded_at"] for _ in "12"]
    with connect(slept_on) as owner:
        locker = f"SELECT xmax FROM ledger.accounts WHERE id = {a}"
        before = owner.execute(locker).fetchone()
        assert as_of(sleepy, a, times[0])["final"] is True
        assert owner.execute(locker).fetchone() == before
        with owner.transaction():
            owner.execute(f"SELECT FROM ledger.accounts WHERE id = {a} FOR NO KEY UPDATE")
            assert as_of(sleepy, a, times[0])["final"] is True
            assert as_of(sleepy, a, times[1])["final"] is False
        before = owner.execute(locker).fetchone()
        assert as_of(sleepy, a, times[1])["final"] is True
        assert owner.execute(locker).fetchone() == before


MOMENTS = [
    "", "now", "2026-01-01T", "2026-01-01T00:00:00", "0000-01-01T00:00:00Z", "infinity",
    "99999-01-01T00:00:00Z", "2026-01-01T00:00:00+99:00", "' OR 1=1 --", "2026-01-01T00:00:00Z\0",
    "1e9",
]  # fmt: skip


@pytest.mark.parametrize("text", MOMENTS)
def test_hostile_moments_are_refused(sleepy, text) -> None:
    for path, name in (
        ("/accounts/1", "as_of"),
        ("/accounts/1/balances", "at"),
        ("/accounts/1/statement", "from"),
        ("/accounts/1/statement", "to"),
        ("/reports/trial-balance", "at"),
        ("/transactions", "from"),
        ("/transactions", "to"),
    ):
        refused = sleepy.client.get(path, params={name: text})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


def test_edges_of_time(sleepy) -> None:
    a = sleepy.open(balance="1")
    for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-01-01T00:00:00+14:00"):
        for path, name in ((f"/accounts/{a}/balances", "at"), (f"/accounts/{a}/statement", "from"),
                           (f"/accounts/{a}/statement", "to"), ("/transactions", "to"),
                           ("/reports/trial-balance", "at")):  # fmt: skip
            answer = sleepy.client.get(path, params={name: at})
            # Without a `to` a period ends before the last day of all.
            assert answer.status_code == 200 or (name, at[:4]) == ("from", "9999")
    unescaped = sleepy.get(f"/accounts/{a}?as_of=2026-01-01T00:00:00+14:00")
    assert unescaped.json()["as_of"] == "2025-12-31T10:00:00.000000Z"
    for missing in (10**12, "x"):
        assert sleepy.get(f"/accounts/{missing}?as_of={FAR}").status_code == 404
        assert sleepy.get(f"/accounts/{missing}/balances?at={FAR}").status_code == 404
        assert sleepy.get(f"/accounts/{missing}/statement").status_code == 404
    assert sleepy.get(f"/accounts/{a}/balances").json()["code"] == "invalid_request"
    assert sleepy.get(f"/accounts/{a}?asof={FAR}").json()["code"] == "invalid_request"


# Statements.


@pytest.fixture(scope="module")
def stated(sleepy) -> tuple[RunningService, int, list[dict[str, Any]]]:
    """An account with 25 transactions, and their answers."""
    a, b = sleepy.open("<b>Alice & Co</b>", balance="100"), sleepy.open(balance="100")
    answers = []
    for number in range(24):
        mine, theirs = (a, b) if number % 3 else (b, a)
        body = {"from_account_id": mine, "to_account_id": theirs, "amount": f"1.{number:02}",
                "reference": f"=cmd|{number}"}  # fmt: skip
        if number == 5:
            body["description"] = "<script>alert('x')</script>"
        answers.append(sleepy.send("/transfer", **body).json())
    answers.append(sleepy.send("/holds", account_id=a, amount="3").json())
    return sleepy, a, answers


@pytest.mark.parametrize("limit", [3, 25, 1000])
@pytest.mark.parametrize(("first", "last"), [(None, None), (4, 20), (4, 4), (0, 25)])
def test_opening_plus_entries_is_closing(stated, first, last, limit) -> None:
    service, account, answers = stated
    times = [answer["recorded_at"] for answer in answers] + [FAR]
    query = {"limit": limit}
    if first is not None:
        query |= {"from": times[first], "to": times[last]}
    answer = service.client.get(f"/accounts/{account}/statement", params=query)
    head, lines = answer.json(), answer.json()["entries"]
    while "next" in answer.links:
        assert len(answer.json()["entries"]) == limit
        answer = service.get(answer.links["next"]["url"])
        assert answer.json() | {"entries": None} == head | {"entries": None}
        lines += answer.json()["entries"]
    balance = Fraction(head["opening_balance"])
    for line in lines:
        balance += Fraction(line["amount"])
        assert Fraction(line["balance"]) == balance
    assert balance == Fraction(head["closing_balance"])
    assert len(lines) == head["entries_total"]
    expected = answers if first is None else answers[first:last]
    own = [line for line in lines if line["idempotency_key"] != "funding"]
    assert [line["transaction_id"] for line in own] == [a["transaction_id"] for a in expected]


def test_the_pages_are_of_one_statement_whatever_is_recorded_meanwhile(sleepy) -> None:
    a = sleepy.open(balance="100")
    first = sleepy.send("/withdraw", account_id=a, amount="1").json()["recorded_at"]
    for _ in range(5):
        sleepy.send("/withdraw", account_id=a, amount="1")
    answer = sleepy.client.get(
        f"/accounts/{a}/statement", params={"from": first, "to": FAR, "limit": 2}
    )
    heads, versions = [], []
    while True:
        body = answer.json()
        versions += [line["version"] for line in body.pop("entries")]
        heads.append(body)
        if "next" not in answer.links:
            break
        sleepy.send("/withdraw", account_id=a, amount="1")
        answer = sleepy.get(answer.links["next"]["url"])
    assert heads == [heads[0]] * 3
    assert (heads[0]["opening_balance"], heads[0]["closing_balance"]) == ("100.00", "94.00")
    assert versions == [2, 3, 4, 5, 6, 7]
    assert sleepy.get(f"/accounts/{a}/statement").json()["closing_balance"] == "92.00"


def test_a_statement_is_of_one_snapshot(sleepy) -> None:
    """Also one that begins in the future, with what is recorded until then."""
    a, b = sleepy.open(balance="1000"), sleepy.open(balance="1000")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            sleepy.send("/transfer", from_account_id=a, to_account_id=b, amount="0.01")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(150):
            query = {"from": FAR, "to": shifted(FAR, 1)}
            body = sleepy.client.get(f"/accounts/{a}/statement", params=query).json()
            assert (body["entries_total"], body["entries"]) == (0, [])
    finally:
        stop.set()
        writer.join()


def test_a_statement_as_csv(stated) -> None:
    service, account, _ = stated
    answer = service.get(f"/accounts/{account}/statement?format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    in_json = service.get(f"/accounts/{account}/statement?limit=1000").json()
    assert (rows[0]["transaction_type"], rows[0]["balance"]) == ("OPENING", "0.00")
    assert rows[-1]["balance"] == in_json["closing_balance"]
    for row, line in zip(rows[1:-1], in_json["entries"], strict=True):
        for name in ("version", "transaction_id", "amount", "balance", "idempotency_key"):
            assert row[name] == str(line[name])
        # A spreadsheet takes no text for a formula.
        assert row["reference"] == ("" if line["reference"] is None else f"'{line['reference']}")


def test_a_statement_as_a_page(stated) -> None:
    service, account, answers = stated
    answer = service.get(f"/accounts/{account}/statement?format=html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert html.escape("<b>Alice & Co</b>") in page
    assert "<script" not in page
    assert page.count("<tr>") == len(answers) + 2  # its head and the funding
    totals = service.get(f"/accounts/{account}/statement?limit=1").json()
    assert totals["closing_balance"] in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_is_shown_and_printed_by_a_browser(stated, tmp_path) -> None:
    service, account, answers = stated
    target = f"{service.base}/accounts/{account}/statement?format=html"
    chromium = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
    ]
    shown = subprocess.run(
        [*chromium, "--dump-dom", target], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert shown.count("<td>") > len(answers)
    assert "alert('x')" in shown and "<script>" not in shown
    printed = tmp_path / "statement.pdf"
    subprocess.run(
        [*chromium, f"--print-to-pdf={printed}", target], check=True, timeout=120,
        capture_output=True,
    )  # fmt: skip
    assert printed.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    "query", ["format=xml", "format=", "format=csv&cursor=x", "format=html&cursor=x", "limit=0",
              "limit=1001", "cursor=x", "form=csv",
              "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from=" + FAR + "&from=" + FAR],
)  # fmt: skip
def test_hostile_statements_are_refused(stated, query) -> None:
    service, account, _ = stated
    refused = service.get(f"/accounts/{account}/statement?{query}")
    assert (refused.status_code, refused.json()["code"][:8]) == (422, "invalid_")


# Reports.


def test_the_trial_balance_of_any_moment_sums_to_zero(new_database) -> None:
    with serving(DATABASE_URL=url_text(new_database())) as service:
        accounts = [service.open(balance="10") for _ in range(6)]
        yen = service.open(currency="JPY", balance="500")
        stop = threading.Event()
        moments: list[str] = []
        reports: list[dict[str, Any]] = []

        def write(mark: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                a, b = accounts[(mark + number) % 6], accounts[(mark + number * 5 + 1) % 6]
                body = {"from_account_id": a, "to_account_id": b, "amount": "0.07"}
                service.post("/transfer", {**body, "idempotency_key": f"{mark} {number}"})

        threads = [threading.Thread(target=write, args=(mark,)) for mark in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            moments.append(datetime.now(UTC).isoformat())
            now = service.get("/reports/trial-balance").json()
            then = trial_balance(service, moments[-1])
            reports.append(then)
            for report in (now, then):
                for row in report["currencies"]:
                    assert Fraction(row["total"]) == 0
                    assert Fraction(row["debits"]) == Fraction(row["credits"])
        stop.set()
        for thread in threads:
            thread.join()
        assert sum(report["final"] for report in reports) > 10
        for report in reports:
            if report["final"]:
                assert trial_balance(service, report["at"]) == report
        for at in moments[::4]:
            report = service.client.get("/reports/trial-balance", params={"at": at}).json()
            [jpy, usd] = report["currencies"]
            assert (usd["accounts"], usd["customers"], usd["external"]) == (6, "60.00", "-60.00")
            assert (jpy["accounts"], jpy["customers"], jpy["total"]) == (1, "500", "0")
            # It is the sum of the accounts as of then.
            parts = [Fraction(as_of(service, account, at)["balance"]) for account in accounts]
            assert sum(parts) == Fraction(usd["customers"])
        assert as_of(service, yen, moments[0])["balance"] == "500"
        early = service.get("/reports/trial-balance?at=2020-01-01T00:00:00Z").json()
        assert early["currencies"] == []


def test_balances_by_owner(new_database) -> None:
    with serving(DATABASE_URL=url_text(new_database())) as service:
        for owner in ("Bob", "Alice", "Al", "Alice", "Zoë"):
            service.open(owner, "USD", "10")
        rupees = service.open("Alice", "INR", "7")
        service.send("/holds", account_id=rupees, amount="2")
        rows, target = [], "/reports/balances?limit=2"
        while target:
            page = service.get(target)
            rows += page.json()
            target = page.links.get("next", {}).get("url", "")
        assert [
            (r["owner"], r["currency"], r["accounts"], r["balance"], r["held"]) for r in rows
        ] == [
            ("Al", "USD", 1, "10.00", "0.00"),
            ("Alice", "INR", 1, "7.00", "2.00"),
            ("Alice", "USD", 2, "20.00", "0.00"),
            ("Bob", "USD", 1, "10.00", "0.00"),
            ("Zoë", "USD", 1, "10.00", "0.00"),
        ]


def test_expired_holds_are_not_held_in_any_report(sleepy) -> None:
    a = sleepy.open("Held", balance="10")
    soon = shifted(datetime.now(UTC).isoformat(), 0.3)
    for at in (soon, FAR):
        sleepy.send("/holds", account_id=a, amount="2", expires_at=at)
    time.sleep(0.4)
    rows = sleepy.get("/reports/balances?limit=1000").json()
    assert [row["held"] for row in rows if row["owner"] == "Held"] == ["2.00"]


@pytest.mark.parametrize("name", ["\N{PILE OF POO}", "\N{CJK UNIFIED IDEOGRAPH-5B57}", '"', "\\"])
def test_long_names_can_be_paged_through(sleepy, name) -> None:
    a = sleepy.open(name * 255, balance="10")
    for n in range(3):
        metadata = {"paged": f"{name * 500}{n}"}
        sleepy.send("/withdraw", account_id=a, amount="1", metadata=metadata)
    for path in ("/reports/balances?limit=1", "/reports/totals?key=paged&limit=1"):
        rows, target = [], path
        while target:
            page = sleepy.get(target)
            assert page.status_code == 200, page.text
            rows += page.json()
            target = page.links.get("next", {}).get("url", "")
        assert rows == sleepy.get(path.replace("limit=1", "limit=1000")).json()
        assert any(name * 255 in row.get("owner", row.get("value")) for row in rows)


@pytest.mark.parametrize(
    "target", ["/accounts/1?limit=1", "/accounts/1?cursor=x",
               f"/accounts/1/balances?at={FAR}&limit=1",
               "/reports/trial-balance?limit=1", "/reports/trial-balance?cursor=x",
               "/reports/totals?key=a&cursor=x", "/reports/totals?key=a&key=b",
               f"/reports/totals?key=a&from={FAR}&to=2026-01-01T00:00:00Z"],
)  # fmt: skip
def test_what_does_nothing_is_refused(sleepy, target) -> None:
    sleepy.open()
    refused = sleepy.get(target)
    assert (refused.status_code, refused.json()["code"][:8]) == (422, "invalid_")


def test_totals_by_a_metadata_key(new_database) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as service:
        a = service.open(balance="100")
        for place, value in enumerate(["x", "y", "x", 7, {"deep": 1}, None]):
            service.send("/withdraw", account_id=a, amount=f"{place + 1}", metadata={"k": value})
        service.send("/withdraw", account_id=a, amount="500", metadata={"k": "x"})  # declined
        service.send("/withdraw", account_id=a, amount="1", metadata={"other": "x"})
        rows = service.get("/reports/totals?key=k").json()
        assert {(r["value"], r["transactions"], r["amount"]) for r in rows} == {
            ("x", 2, "4.00"), ("y", 1, "2.00"), ("7", 1, "4.00"), ('{"deep":1}', 1, "5.00"),
            (None, 1, "6.00"),
        }  # fmt: skip
        paged, target = [], "/reports/totals?key=k&limit=2"
        while target:
            page = service.get(target)
            paged += page.json()
            target = page.links.get("next", {}).get("url", "")
        assert paged == rows
        assert paged[-1]["value"] is None
        assert service.get(f"/reports/totals?key=k&from={FAR}").json() == []

        # What was moved: a hold moves nothing, a reversal takes away, legs count with their gains.
        b, tag = service.open(), {"metadata": {"job": "x"}}
        held = service.send("/holds", account_id=a, amount="9", **tag).json()["hold_id"]
        service.send(f"/holds/{held}/capture", amount="4", **tag)
        both = {"from_account_id": a, "to_account_id": b}
        moved = service.send("/transfer", **both, amount="10", **tag).json()["transaction_id"]
        service.send(f"/transactions/{moved}/reverse", amount="2", **tag)
        service.send(f"/transactions/{moved}/reverse", amount="1")  # by its original's
        service.send(f"/transactions/{moved}/reverse", amount="2", metadata={"job": "y"})
        pairs = [(b, "-1"), (b, "-2"), (a, "3"), (a, "7"), (a, "-7")]
        legs = [{"account_id": account, "amount": amount} for account, amount in pairs]
        service.send("/transactions", legs=legs, **tag)
        found = service.get("/reports/totals?key=job").json()
        told = [(r["value"], r["transactions"], r["amount"]) for r in found]
        assert told == [("x", 5, "14.00"), ("y", 1, "-2.00")]
        assert service.get("/reports/totals").json()["code"] == "invalid_request"
        for key in ("'; DROP TABLE ledger.entries; --", "k%", "?", "\\"):
            assert service.client.get("/reports/totals", params={"key": key}).json() == []
        refused = service.client.get("/reports/totals", params={"key": "\0"})
        assert refused.json()["code"] == "invalid_request"
    with connect(database) as owner:
        assert owner.execute("SELECT count(*) > 0 FROM ledger.entries").fetchone() == (True,)
