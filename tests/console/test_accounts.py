"""Finding accounts, and one account as it is and as of other times, beside the API's figures."""

import re
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page

from tests.console.contents import CANARY, Contents
from tests.processes import RunningService, wait_for


def values(place: Locator) -> list[str | None]:
    """The exact amounts in a part of a page."""
    return [one.get_attribute("value") for one in place.locator("data").all()]


def ids(page: Page) -> list[str]:
    return page.locator("tbody td .id").all_inner_texts()


FILTERS: list[dict[str, Any]] = [
    {},
    {"owner": "Alice"},
    {"currency": "EUR"},
    {"status": "active"},
    {"status": "frozen"},
    {"min_balance": "980.00", "currency": "USD"},
    {"max_balance": "50.00", "currency": "USD"},
    {"metadata": '{"note":"none"}'},
    {"reference": CANARY},
    {"from": "2026-01-01", "to": "2030-01-01"},
    {"to": "2025-01-01"},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_every_filter_lists_what_the_api_lists(visited, console: RunningService, filters) -> None:
    rows = console.client.get("/accounts/", params=filters).json()
    page = visited("/console/accounts", java_script_enabled=False)
    if filters:
        page.locator("details.panel summary").first.click()
        for name, value in filters.items():
            field = page.locator(f".filters [name='{name}']")
            field.select_option(value) if name == "status" else field.fill(value)
        page.locator(".filters .primary").click()
    assert ids(page) == [str(row["id"]) for row in rows]
    shown = [row[name] for row in rows for name in ("held", "available", "balance")]
    assert values(page.locator("tbody")) == shown


@pytest.mark.thorough
def test_columns_are_chosen_and_kept_in_the_url(visited) -> None:
    page = visited("/console/accounts?column=id&column=metadata&column=created_at")
    assert page.locator("thead th").all_inner_texts() == ["Account", "Metadata", "Opened"]
    page.reload()
    assert page.locator("thead th").count() == 3


@pytest.mark.thorough
def test_a_list_goes_on_and_back_works(visited, console: RunningService, contents) -> None:
    for number in range(52 - len(contents.accounts)):
        console.open(f"Customer {number}")
    page = visited("/console/accounts")
    first = ids(page)
    page.locator("a[rel=next]").click()
    page.wait_for_url("**cursor=**")
    assert (len(first), len(ids(page))) == (50, 2) and not {*first} & {*ids(page)}
    page.go_back()
    assert ids(page) == first


def test_an_account_shows_what_the_api_has(visited, console: RunningService, contents) -> None:
    number = contents.accounts["Alice"]
    account = console.get(f"/accounts/{number}").json()
    history = console.get(f"/accounts/{number}/history").json()
    holds = console.get(f"/accounts/{number}/holds").json()
    page = visited(f"/console/accounts/{number}")
    shown = [account[name] for name in ("balance", "held", "available")]
    assert values(page.locator(".figures")) == [*shown, str(account["version"])]
    entries = page.locator("#entries tbody tr")
    assert entries.count() == len(history)
    for row, entry in zip(entries.all(), history, strict=True):
        shown = values(row)
        assert (shown[0], shown[-1]) == (entry["amount"], entry["balance"])
    remaining = [hold["remaining"] for hold in holds]
    assert values(page.get_by_role("region", name="Open holds")) == remaining
    assert page.locator("figure .u-over").is_visible()


TIMES = ["2026-01-15T11:59:59Z", "2026-01", "2026-02-01", "2099"]


@pytest.mark.thorough
@pytest.mark.parametrize("at", TIMES)
def test_one_control_holds_for_all_figures(visited, console, contents, at: str) -> None:
    number = contents.accounts["Bob"]
    balances = console.client.get(f"/accounts/{number}/balances", params={"at": at}).json()
    page = visited(f"/console/accounts/{number}?at={at}&by=effective&timezone=UTC")
    assert values(page.locator(".figures")) == [balances["effective"]["balance"]]
    page.goto(f"/console/accounts/{number}?at={at}&timezone=UTC")
    recorded = [balances["recorded"][name] for name in ("balance", "held", "available")]
    assert values(page.locator(".figures"))[:3] == recorded
    listed = console.client.get(
        "/transactions/", params={"account_id": number, "to": at, "status": "posted"}
    )
    shown = page.locator("#entries tbody tr").count()
    assert shown == len(listed.json())
    # What is known for the present only is left out.
    assert page.get_by_text("is known for the present only").count() == 2


def test_links_keep_the_time(visited, contents: Contents) -> None:
    page = visited("/console/accounts?at=2026-02")
    names = ["Account", "Owner", "Held", "Available", "Balance"]
    assert page.locator("thead th").all_inner_texts() == names
    page.locator("tbody a").first.click()
    page.wait_for_url("**at=2026-02**")


@pytest.mark.parametrize("by", ["recorded", "effective"])
def test_a_list_has_the_balances_of_its_time(
    visited, console: RunningService, contents: Contents, by: str
) -> None:
    """The backdated deposit of Bob counts as effective then, and was not recorded then."""
    bob = contents.accounts["Bob"]
    page = visited(f"/console/accounts?owner=Bob&at=2026-02&by={by}")
    [row] = page.locator("tbody tr").all()
    shown = [cell.get_attribute("value") for cell in row.locator("data").all()]
    answer = console.get(f"/accounts/{bob}/balances?at=2026-02&timezone=Europe/Berlin").json()
    names = ["held", "available", "balance"] if by == "recorded" else ["balance"]
    assert shown == [answer[by][name] for name in names]
    assert shown[-1] == ("0.00" if by == "recorded" else "30.00")


@pytest.mark.parametrize("path", ["/accounts", "/accounts/{canary}", "/find?q=note:x", ""])
def test_no_text_of_a_caller_is_run(visited, contents: Contents, path: str) -> None:
    page = visited("/console" + path.format(canary=contents.accounts["canary"]))
    assert page.title() != "run" and page.locator("img, main script").count() == 0
    if "{" in path:
        assert CANARY in page.locator("main").inner_text()


def test_one_hit_opens_its_page(visited, console: RunningService, contents: Contents) -> None:
    alice, transfer = contents.accounts["Alice"], contents.transactions["transfer"]
    key = console.get(f"/transactions/{transfer}").json()["idempotency_key"]
    found = {
        "Alice": f"accounts/{alice}",
        "inv-1": f"transactions/{transfer}",
        str(transfer): f"transactions/{transfer}",
        "order:o-1": f"transactions/{transfer}",
        f"{alice} {key}": f"transactions/{transfer}",
        "o-1": f"transactions/{transfer}",
        key: f"transactions/{transfer}",
    }
    for text, place in found.items():
        answer = console.client.get("/console/find", params={"q": text})
        assert answer.headers["location"] == f"/console/{place}", text


def test_a_bare_value_is_looked_for_in_the_keys_that_there_are(
    visited, console: RunningService, contents: Contents
) -> None:
    bob = contents.accounts["Bob"]
    numbers = [
        console.send("/deposit/", account_id=bob, amount="1.00", metadata={"batch": value})
        .json()["transaction_id"]
        for value in (4711, "4711 b", 4711)
    ]  # fmt: skip
    page = visited("/console/find?q=4711")
    assert "of batch" in page.locator(".head .note").inner_text()
    shown = page.locator("tbody a.id").all_inner_texts()
    assert shown == [str(numbers[2]), str(numbers[0])]
    searched = page.locator("#searched").inner_text()
    assert "batch" in searched and "order" in searched and "channel" in searched


def test_several_hits_are_listed_and_none_is_explained(visited, contents: Contents) -> None:
    page = visited(f"/console/find?{urlencode({'q': CANARY})}")
    assert page.locator("main h2").all_inner_texts() == ["Accounts", "Transactions"]
    page.keyboard.press("/")
    page.keyboard.type("nobody")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=nobody**")
    assert page.get_by_text("Nothing was found").is_visible()
    assert page.locator("#find").input_value() == "nobody"


def test_a_page_links_to_itself_as_json_csv_and_curl(visited, console: RunningService) -> None:
    page = visited("/console/accounts?currency=EUR")
    source = page.locator(".sources li").first
    rows = console.get("/accounts/?currency=EUR&limit=50")
    json_url = source.locator("a", has_text="JSON").get_attribute("href")
    assert json_url and console.get(json_url).content == rows.content
    csv_url = source.locator("a", has_text="CSV").get_attribute("href")
    lines = console.get(csv_url or "").text.splitlines()
    assert lines[0].startswith("id,owner,currency") and len(lines) == 1 + len(rows.json())
    command = source.locator("[data-copy]").get_attribute("data-copy") or ""
    assert re.fullmatch(r"curl -s 'http://[^']+/accounts/\?limit=50&currency=EUR'", command)


def test_a_statement_opens_to_print(visited, contents: Contents) -> None:
    page = visited(f"/console/accounts/{contents.accounts['Alice']}")
    page.locator("input[name=from]").fill("2026-01")
    page.get_by_role("button", name="Open to print").click()
    page.wait_for_url("**/raw/accounts/**")
    assert "Alice" in page.locator("body").inner_text()


@pytest.mark.thorough
def test_a_plot_is_of_its_table_also_at_another_width(visited, contents: Contents) -> None:
    page = visited(f"/console/accounts/{contents.accounts['Alice']}")
    legend = page.locator(".u-legend .u-value")
    balance = page.locator("figure details tbody tr").last.locator("data").first
    shown = balance.text_content()

    def has_width(width: int) -> bool:
        plotted: int = page.evaluate("document.querySelector('.uplot').clientWidth")
        return width - 320 < plotted < width

    for width in (1440, 700):
        page.set_viewport_size({"width": width, "height": 900})
        assert wait_for(partial(has_width, width))
        assert legend.nth(1).inner_text() == (shown or "").removesuffix(".00")
    page.locator("figure summary").click()
    assert page.locator("figure details tbody tr").count() == 15
