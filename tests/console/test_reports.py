"""Reports, health and what went on: each figure is that of the API's answer."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from ledgerservice.console.activity import first_day
from ledgerservice.console.filters import AsOf
from ledgerservice.postgres.connections import Database
from tests.access.made import alter_key, bearer, make_key
from tests.console.places import PATIENT
from tests.console.watching import visiting
from tests.databases import url_text
from tests.processes import RunningService, serving

PATHS = [
    "/reports", "/reports/owners", "/reports/metadata", "/reports/metadata?key=order",
    "/reports/months", "/health",
]  # fmt: skip
TIMES = [
    "",
    "?at=2026-01-20&timezone=Asia/Kolkata",
    "?at=2099&by=effective",
    "?at=2026&by=effective",
]


def read(console: RunningService, path: str, query: str = "", **more: str) -> Any:
    answer = console.client.get(f"{path}{query}", params=more or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cells(row: Locator) -> list[str | None]:
    """The exact values of the amounts and counts of a row."""
    return [one.get_attribute("value") for one in row.locator("data").all()]


def rows(page: Page, place: str = "main") -> list[list[str | None]]:
    return [cells(row) for row in page.locator(f"{place} tbody tr").all()]


@pytest.mark.parametrize("time", TIMES)
def test_the_trial_balance(
    visited: Callable[..., Page], console: RunningService, time: str
) -> None:
    page = visited(f"/console/reports{time}", timezone_id="UTC")
    answer = read(console, "/reports/trial-balance", time)
    names = ("debits", "credits", "customers", "external", "total")
    expected = [[str(one["accounts"]), *(one[n] for n in names)] for one in answer["currencies"]]
    assert rows(page) == expected
    remark = page.locator(".remark")
    assert remark.count() == bool(expected)
    if expected:
        assert remark.inner_text().startswith("Final:") is answer["final"]


@pytest.mark.parametrize("time", ["", "?at=2099&by=effective"])
def test_the_balances_by_owner(
    visited: Callable[..., Page], console: RunningService, time: str
) -> None:
    page = visited(f"/console/reports/owners{time}")
    names = ("balance", "held")
    assert rows(page) == [
        [str(one["accounts"]), *(one[n] for n in names if n in one)]
        for one in read(console, "/reports/balances", time)
    ]


def test_the_sums_by_metadata(visited: Callable[..., Page], console: RunningService) -> None:
    page = visited("/console/reports/metadata")
    page.locator("input[name=key]").fill("order")
    page.locator("input[name=from]").fill("2020")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**/metadata?*key=order*")
    answer = read(console, "/reports/totals", key="order", **{"from": "2020"})
    assert len(answer) == 1
    assert rows(page) == [[str(one["transactions"]), one["amount"]] for one in answer]


@pytest.mark.parametrize("time", ["", "?at=2099&by=effective"])
def test_the_months(visited: Callable[..., Page], console: RunningService, time: str) -> None:
    """Also what customers held at the end of each, which no answer of the API has by itself."""
    page = visited(f"/console/reports/months{time}", timezone_id="UTC")
    basis = "effective" if time else "recorded"
    volume = read(console, "/reports/volume", by="month", basis=basis)
    expected = []
    for period in reversed(volume["periods"]):
        month = period["begins_at"][:7]
        balance = read(console, "/reports/trial-balance", at=month, by=basis)["currencies"]
        held = {one["currency"]: one["customers"] for one in balance}
        sums = {one["currency"]: one for one in period["currencies"]}
        for currency in ("EUR", "USD"):
            names = ("amount_in", "amount_out", "moved")
            moved = [sums[currency][n] if currency in sums else "0.00" for n in names]
            counts = [str(period["posted"]), str(sum(period["declined"].values()))]
            expected.append([*counts, *moved, held.get(currency, "0.00")])
    assert rows(page) == expected
    assert len(expected) == (4 if time else 2)


def test_a_report_as_csv_has_every_row(console: RunningService) -> None:
    for path, source in (
        ("/reports", read(console, "/reports/trial-balance")["currencies"]),
        ("/reports/owners", read(console, "/reports/balances")),
        ("/reports/metadata?key=order", read(console, "/reports/totals", key="order")),
    ):
        answer = console.get(f"/console{path}{'&' if '?' in path else '?'}as=csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        found = list(csv.DictReader(io.StringIO(answer.text)))
        assert [list(one.values()) for one in found] == [
            [str(v) for v in one.values()] for one in source
        ]


def test_a_long_report_as_csv_goes_through_all_pages(console: RunningService) -> None:
    """The service's bound of a page is 1,000 rows."""
    owners = [{"owner": f"=owner {n:04}", "currency": "USD"} for n in range(1_050)]
    assert console.post("/ledgers/", {"name": "long"}).status_code == 201
    for start in (0, 525):
        body = {"accounts": [
            {**one, "idempotency_key": f"csv-{one['owner'][1:].replace(' ', '-')}"}
            for one in owners[start : start + 525]
        ]}  # fmt: skip
        answer = console.post("/ledgers/long/accounts/batches", body)
        assert answer.status_code == 200, answer.text
    text = console.get("/console/ledgers/long/reports/owners?as=csv").text
    found = list(csv.DictReader(io.StringIO(text)))
    # A spreadsheet must not take an owner for a formula.
    assert [one["owner"] for one in found] == [f"'{one['owner']}" for one in owners]


def test_a_report_is_printed_without_the_frame(visited: Callable[..., Page]) -> None:
    page = visited("/console/reports")
    page.emulate_media(media="print")
    for hidden in (".side", ".bar", ".tabs", ".print"):
        assert page.locator(hidden).first.is_hidden(), hidden
    assert page.get_by_role("heading", name="Trial balance").is_visible()
    assert page.locator("tbody tr").first.is_visible()


def test_the_plots_have_what_the_tables_have(
    visited: Callable[..., Page], console: RunningService
) -> None:
    page = visited("/console?currency=USD", timezone_id="UTC")
    volume = read(console, "/reports/volume")
    assert rows(page, "#by-day details") == [
        [str(one["posted"]), str(sum(one["declined"].values()))] for one in volume["periods"]
    ]
    [usd] = [
        one for one in read(console, "/reports/trial-balance")["currencies"]
        if one["currency"] == "USD"
    ]  # fmt: skip
    assert rows(page, "#balance details")[-1] == [usd["customers"]]
    minutes = read(console, "/reports/volume", by="minute")["periods"]
    codes = page.locator("#by-minute details thead th").all_inner_texts()[2:]
    shown = rows(page, "#by-minute details")
    assert [one[0] for one in shown] == [str(one["posted"]) for one in minutes]
    declined = sum(sum(one["declined"].values()) for one in minutes)
    assert len(codes) >= 1 and sum(int(n or 0) for one in shown for n in one[1:]) == declined
    assert page.locator("#by-day canvas").count() == 1


@pytest.mark.thorough
def test_the_overview_has_what_is_open(
    visited: Callable[..., Page], console: RunningService
) -> None:
    page, open_items = visited("/console"), read(console, "/reports/open")
    usd = page.locator("#held tbody tr", has=page.get_by_role("rowheader", name="USD"))
    for kind, place in (("holds", 2), ("schedules", 3)):
        [row] = [one for one in open_items[kind]["currencies"] if one["currency"] == "USD"]
        text = "".join(usd.locator("td").nth(place).inner_text().split())
        assert text == f"{row['amount']}USDin{row['number']}"
    then = visited("/console?at=2026-01-20&by=effective")
    assert then.locator("#held thead th").count() == 5


def test_the_plots_are_of_the_chosen_time(
    visited: Callable[..., Page], console: RunningService
) -> None:
    """By when transactions take effect, and without what is known of the present only."""
    page = visited("/console?at=2026-01-20&by=effective&currency=USD&timezone=UTC")
    query = {"basis": "effective", "from": "2025-12-22", "to": "2026-01-20"}
    volume = read(console, "/reports/volume", **query)
    shown = rows(page, "#by-day details")
    assert shown == [[str(one["posted"]), "0"] for one in volume["periods"]] == [["1", "0"]]
    assert rows(page, "#balance details") == [["30.00"]]
    assert page.locator("#by-minute").count() == page.locator("#state").count() == 0


def test_first_days() -> None:
    for at, day in (
        ("2026", "2026-12-02"), ("2026-02", "2026-01-30"), ("2026-12", "2026-12-02"),
        ("2026-11-30", "2026-11-01"), ("2026-11-29T23:30:00Z", "2026-11-01"), ("never", ""),
    ):  # fmt: skip
        assert first_day(AsOf(at, timezone="Europe/Berlin")) == day
    assert first_day(AsOf("2026", timezone="Mars")) == ""


@pytest.fixture(scope="module")
def keyed(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, dict[str, str]]]:
    """A service with a webhook that nobody answers, and keys."""
    database = new_database()
    place = {"DATABASE_URL": url_text(database), "LEDGER_VERIFY_INTERVAL_S": "0.2"}
    with serving(**place, **PATIENT) as service:
        service.open("Alice", balance="5.00")
        hook = {"url": "https://hooks.example/x"}
        assert service.post("/webhooks", hook).status_code == 201
        keys = {"admin": make_key(database, "admin"), "blind": make_key(database, "blind", 1)}
        keys["shop"] = make_key(database, "one", ledgers=["default"])
        alter_key(database, keys["admin"], "expires_at = now() + interval '3 days'")
        yield service, keys


@pytest.fixture
def opened(keyed: Any, browser: Browser) -> Iterator[Callable[[str, str], Page]]:
    """Opens a path with a key; complaints of the browser fail the test."""
    service, keys = keyed
    with visiting(browser, service.base) as visit:
        yield lambda path, key: visit(path, extra_http_headers=bearer(keys[key]))


def test_the_health_of_a_service(keyed: Any, opened: Callable[[str, str], Page]) -> None:
    service, keys = keyed
    page = opened("/console/health", "admin")
    admin = {"Authorization": f"Bearer {keys['admin']}"}
    found = service.client.get("/status", headers=admin).json()
    operations = found["operations"]
    assert page.locator("#ready .status").first.inner_text() == "Ready"
    for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert page.locator(f"[data-setting={name}]").inner_text() == found["server"][name]
    for name, phase in operations["phases_s"].items():
        shown = cells(page.locator(f"[data-phase={name}]"))
        assert shown == [str(phase[n]) for n in ("count", "mean", "p50", "p99")]
    [movements] = [one for one in operations["queues"] if one["queue"] == "movements"]
    shown = cells(page.locator("[data-queue=movements]"))
    sizes, times = movements["batch_requests"], movements["batch_s"]
    assert shown[0] == str(movements["requests"])
    assert shown[2:] == [str(times["count"]), f"{sizes['mean']:.1f}",
                         *(str(times[n]) for n in ("mean", "p50", "p99"))]  # fmt: skip
    [webhook] = found["webhooks"]
    row = page.locator(f"[data-webhook='{webhook['id']}']")
    assert cells(row) == [str(webhook["waiting"]), str(webhook["dead_letters"])]
    keys_shown = page.locator("#keys tbody code").all_inner_texts()
    assert keys_shown == [one["id"] for one in found["expiring_keys"]]
    page.locator("#settings summary").click()
    listed = page.locator("#settings tbody tr").count()
    assert listed == len(operations["settings"])
    assert all(key not in page.content() for key in keys.values())


def test_who_reads_one_ledger_does_not_see_the_rest(opened: Callable[[str, str], Page]) -> None:
    page = opened("/console/health", "shop")
    assert "metrics:read on all of them" in page.locator("#writing").inner_text()
    assert page.locator("#settings").count() == 0
    assert page.locator("#server").is_visible()
    blind = opened("/console/health", "blind")
    assert "metrics:read" in blind.locator("main").inner_text()
    assert blind.locator("#server").count() == 0


@pytest.mark.thorough
def test_the_pages_are_in_german_too(visited: Callable[..., Page]) -> None:
    for path in PATHS:
        page = visited(f"/console{path}", locale="de-DE")
        assert page.locator("html").get_attribute("lang") == "de"
        assert page.locator("h1").inner_text() in {"Berichte", "Zustand"}
