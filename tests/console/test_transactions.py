"""The lists of transactions and the page of one, compared with what the API answers."""

import json
from collections import Counter
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.console.contents import CANARY, Contents
from tests.processes import RunningService

ROWS = """rows => rows.map(row => [row.querySelector('a.id').textContent,
  row.querySelector('td.number data').value, row.querySelector('.status').textContent])"""


def shown(page: Page) -> list[list[str]]:
    """The id, the amount and the outcome of each row of the list."""
    rows: list[list[str]] = page.locator("#list tbody tr").evaluate_all(ROWS)
    return rows


def days_of(page: Page) -> list[list[str]]:
    """The figures of the rows of the volume."""
    return values(page, "#volume tbody tr")


def values(page: Page, rows: str) -> list[list[str]]:
    script = "rows => rows.map(row => [...row.querySelectorAll('data')].map(one => one.value))"
    found_values: list[list[str]] = page.locator(rows).evaluate_all(script)
    return found_values


def answered(console: RunningService, query: str) -> list[list[str]]:
    rows = console.get(f"/transactions/?{query}").json()
    return [[str(r["transaction_id"]), r["amount"], r["status"].capitalize()] for r in rows]


@pytest.mark.thorough
def test_every_filter_is_that_of_the_api(visited, console, contents: Contents) -> None:
    queries = [
        "",
        f"account_id={contents.accounts['Bob']}",
        "owner=Alice",
        "kind=HOLD",
        "status=declined",
        "currency=EUR",
        "currency=USD&min_amount=9.50&max_amount=40",
        "reference=inv-1",
        'metadata={"channel":"web"}',
        "from=2026-01-01&to=2026-02&by=effective",
        "to=2026-01",
        "kind=CAPTURE&status=posted&owner=Bob",
    ]
    page = visited("/console/transactions")
    for query in queries:
        page.goto(f"/console/transactions?{query}")
        rows = answered(console, f"{query}&limit=50")
        assert shown(page) == rows, query
        assert rows or query == "to=2026-01"
    assert page.locator(".problem").count() == 0


def test_a_form_leads_to_its_filters(visited, console: RunningService) -> None:
    page = visited("/console/transactions")
    page.locator("details.panel summary").first.click()
    page.get_by_label("Kind").select_option("HOLD")
    page.get_by_label("Owner").fill("Alice")
    page.get_by_role("button", name="Apply").last.click()
    page.wait_for_url("**kind=HOLD**")
    assert shown(page) == answered(console, "kind=HOLD&owner=Alice")
    page.go_back()
    page.wait_for_url("**/console/transactions")
    assert page.get_by_label("Kind").input_value() == ""


def test_the_as_of_control_ends_the_list(visited, console: RunningService) -> None:
    page = visited("/console/transactions?at=2026-02&by=effective")
    rows = answered(console, "to=2026-02&by=effective")
    assert len(rows) == 1
    assert shown(page) == rows
    # So are the figures.
    report = console.get("/reports/volume?to=2026-02&basis=effective").json()
    assert days_of(page) == [[str(one["posted"]), "0"] for one in report["periods"]]
    assert len(report["periods"]) == 1
    page.goto("/console/transactions?at=2026-02")
    assert shown(page) == []
    assert page.locator("#list .empty").count() == 1


def test_pages_go_through_the_whole_list(visited, console: RunningService) -> None:
    page = visited("/console/transactions?limit=7")
    rows = shown(page)
    pages = 1
    while (after := page.get_by_role("link", name="Next page")).count():
        after.click()
        page.wait_for_url("**cursor=**")
        page.wait_for_load_state()
        rows += shown(page)
        pages += 1
    assert pages > 2
    assert rows == answered(console, "limit=100")


def test_the_figures_are_those_of_the_report(visited, console: RunningService) -> None:
    page = visited("/console/transactions?currency=USD")
    report = console.get("/reports/volume?currency=USD").json()
    declined: Counter[str] = Counter()
    for period in report["periods"]:
        declined.update(period["declined"])
    assert days_of(page) == [
        [str(p["posted"]), str(sum(p["declined"].values()))] for p in report["periods"]
    ]
    amounts = values(page, "#amounts tbody tr")
    assert amounts == [[one["at_least"], str(one["transactions"])] for one in report["amounts"]]
    codes = page.locator("#declines tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].dataset.code, row.querySelector('data').value])"
    )
    assert codes == [[code, str(count)] for code, count in declined.most_common()]
    page.goto("/console/transactions?currency=USD&owner=Alice")
    assert page.locator("#volume, #amounts, #declines").count() == 0


@pytest.mark.thorough
def test_a_transaction_is_shown_as_it_was_answered(visited, console, contents: Contents) -> None:
    page = visited("/console")
    for name, number in contents.transactions.items():
        page.goto(f"/console/transactions/{number}")
        row = console.get(f"/transactions/{number}").json()
        entries = values(page, "#entries tbody tr")
        members = ("amount", "held_change", "balance", "held", "version")
        assert entries == [[str(one[m]) for m in members] for one in row["entries"]], name
        answer = page.locator("pre.answer").inner_text()
        first = console.get(f"/transactions/{number}/answer")
        assert f'"body":{answer}}}'.encode() in first.content, name
        assert row["idempotency_key"] in page.locator("#details").inner_text()


def test_a_decline_shows_what_decided_it(visited, contents: Contents) -> None:
    page = visited(f"/console/transactions/{contents.transactions['decline']}")
    assert "Insufficient funds" in page.locator(".figures").first.inner_text()
    answer = json.loads(page.locator("pre.answer").inner_text())
    assert (answer["code"], answer["status"]) == ("insufficient_funds", 400)
    decided = page.locator("#decided data").evaluate_all("all => all.map(one => one.value)")
    state = answer["decided_on"]
    assert decided == [state["available"], state["balance"], str(state["version"])]


def test_the_drawing_has_each_leg(visited, console, contents: Contents) -> None:
    sale = contents.transactions["sale"]
    page = visited(f"/console/transactions/{sale}")
    texts = page.locator(".flow .sum").all_text_contents()
    assert texts == ["9.00 USD", "8.00 USD", "1.00 USD"]
    bars = page.locator(".flow .bar").evaluate_all("all => all.map(b => b.getBBox().height)")
    assert bars[0] == pytest.approx(bars[1] + bars[2], abs=0.2)
    assert page.locator(".flow .band").count() == 2
    page.goto(f"/console/transactions/{contents.transactions['open hold']}")
    assert page.locator(".flow .sum").all_text_contents() == [
        "15.00 USD available",
        "15.00 USD held",
    ]
    page.goto(f"/console/transactions/{contents.transactions['schedule']}")
    assert page.locator(".flow").count() == 0


def test_the_chain_is_the_same_from_each_of_its_pages(visited, console, contents) -> None:
    hold, capture = contents.transactions["hold"], contents.transactions["capture"]
    back = console.send(f"/transactions/{capture}/reverse", amount="3.00").json()["transaction_id"]
    chain = [str(hold), str(capture), str(back)]
    page = visited("/console")
    for number in chain:
        page.goto(f"/console/transactions/{number}")
        assert page.locator(".timeline a.id").all_inner_texts() == chain
        assert page.locator(".timeline [aria-current] a.id").inner_text() == number
    hold_now = console.get(f"/holds/{hold}").json()
    page.goto(f"/console/transactions/{hold}")
    figures = page.locator(".figures").first
    assert figures.locator("data").last.get_attribute("value") == hold_now["remaining"]


def test_an_exchange_shows_its_rate(visited, console, contents: Contents) -> None:
    dealer = {code: console.open("Dealer", code, "500.00") for code in ("USD", "EUR")}
    buyer = contents.accounts["Erik"]
    pairs = ((dealer["USD"], "-10.90"), (contents.accounts["Alice"], "10.90"), (buyer, "-10.00"),
             (dealer["EUR"], "10.00"))  # fmt: skip
    legs = [{"account_id": number, "amount": amount} for number, amount in pairs]
    terms = {"sell": "EUR", "buy": "USD", "rate": "1.09"}
    row = console.send("/transactions/", legs=legs, exchange=terms).json()
    page = visited(f"/console/transactions/{row['transaction_id']}")
    assert "1 EUR = 1.09 USD" in page.locator("#details").inner_text()
    assert len(page.locator(".flow .bar").all()) == 4


def test_no_text_of_a_caller_runs(visited, console: RunningService, contents: Contents) -> None:
    account = contents.accounts["canary"]
    texts: dict[str, Any] = {
        "description": CANARY,
        "reference": CANARY,
        "metadata": {CANARY: CANARY, "list": [CANARY], "number": 1.50},
    }
    body = {"account_id": account, "amount": "9.00", "idempotency_key": CANARY, **texts}
    content = json.dumps(body).replace("1.5}", "1.50}")
    as_json = {"content-type": "application/json"}
    made = console.client.post("/deposit/", content=content, headers=as_json)
    moved = made.json()["transaction_id"]
    policy = console.send(
        f"/accounts/{account}", "PATCH", frozen="debits", actor=CANARY, reason=CANARY
    ).json()["transaction_id"]
    legs = [{"account_id": account, "amount": "-1"}, {"account_id": 1, "amount": "1"}]
    declined = console.send("/transactions/", legs=legs, **texts).json()["transaction_id"]
    pages = [f"/transactions/{number}" for number in (moved, policy, declined)]
    pages += ["", "/transactions", f"/transactions?account_id={account}", f"/accounts/{account}"]
    pages += ["/accounts", "/reports", "/find?q=canary", f"/transactions?owner={CANARY}"]
    page = visited("/console")
    for path in pages:
        if console.get(f"/console{path}").status_code == 404:
            continue  # a page that is not there yet
        page.goto(f"/console{path}")
        assert page.title() != "run", path
        assert page.locator("img, script:not([src])").count() == 0, path
        assert "{{7*7}}" in page.content() or path in {"", "/reports", "/find?q=canary"}, path
    page.goto(f"/console/transactions/{moved}")
    # As the caller has sent it, to the last digit.
    shown_texts = page.locator("#metadata dd").all_inner_texts()
    assert shown_texts == [CANARY, json.dumps([CANARY]), "1.50"]
    assert page.locator("#metadata dt").first.inner_text() == CANARY


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_transaction_is_for_everyone(visited, contents: Contents, scheme: str) -> None:
    page = visited("/console", 360, color_scheme=scheme)
    for name in ("sale", "capture", "decline"):
        page.goto(f"/console/transactions/{contents.transactions[name]}")
        violations = Axe().run(page).response["violations"]
        assert [one["id"] for one in violations if one["impact"] in {"serious", "critical"}] == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_transaction_that_is_not_there(visited, console: RunningService) -> None:
    answer = console.get("/console/transactions/999999999")
    assert answer.status_code == 404
    assert "transaction" in answer.text.lower()
