"""What the console does with LEDGER_CONSOLE=write, and what it does not without."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from ledgerservice.postgres.connections import Database
from tests.console.contents import Contents, fill
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, cli, serving, wait_for

Place = tuple[RunningService, Contents, dict[str, str]]


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database]) -> Iterator[Place]:
    """A service that permits actions, its contents, and keys by their names."""
    url = {"DATABASE_URL": url_text(new_database())}
    with serving(**url, LEDGER_CONSOLE="write", **PATIENT) as service:
        contents = fill(service)
        done = cli("approvals", "require", "default", "unfreeze", **url)
        assert done.returncode == 0, done.stderr
        names: dict[str, tuple[str, ...]] = {
            "operator": ("--role", "operator"),
            "reader": ("--role", "reader"),
            "decider": ("--scope", "approvals:decide", "--scope", "transactions:read"),
        }
        keys = {}
        for name, options in names.items():
            made = cli("keys", "create", name, *options, "--json", **url)
            assert made.returncode == 0, made.stderr
            keys[name] = json.loads(made.stdout)["key"]
        service.client.headers["authorization"] = f"Bearer {keys['operator']}"
        wait_for(lambda: httpx.get(f"{service.base}/accounts/1").status_code == 401)
        yield service, contents, keys


@pytest.fixture
def page(place: Place, browser: Browser) -> Iterator[Page]:
    """A browser in which the operator is signed in."""
    service, _, keys = place
    complaints: list[str] = []
    with browser.new_context(base_url=service.base) as context:
        opened = watched(context, complaints)
        opened.goto("/console/sign-in")
        opened.locator("input[name=key]").fill(keys["operator"])
        opened.get_by_role("button", name="Sign in").click()
        opened.wait_for_url("**/console")
        yield opened
    # A refusal is a page with the status of the API, which Chromium mentions.
    assert [one for one in complaints if "status of 409" not in one] == []


@contextmanager
def signed_in(service: RunningService, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base, headers={"origin": service.base}) as client:
        assert client.post("/console/sign-in", data={"key": key}).status_code == 303
        yield client


def fields_of(client: httpx.Client, path: str) -> dict[str, str]:
    """The hidden fields of the first form of a page that has a key."""
    text = client.get(path).text
    found_fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text)
    return dict(found_fields[-3:])


def newest(service: RunningService) -> int:
    number: int = service.get("/transactions/?limit=1").json()[0]["transaction_id"]
    return number


def reached(page: Page) -> dict[str, Any]:
    """What the API answers of the transaction to whose page an action has led."""
    page.wait_for_url(re.compile(r"/console/transactions/\d+$"))
    number = page.url.rsplit("/", 1)[1]
    row: dict[str, Any] = json.loads(page.request.get(f"/console/raw/transactions/{number}").text())
    return row


def values(page: Page, rows: str) -> list[list[str]]:
    script = "rows => rows.map(row => [...row.querySelectorAll('data')].map(one => one.value))"
    found_values: list[list[str]] = page.locator(rows).evaluate_all(script)
    return found_values


@pytest.mark.thorough
def test_a_reversal_is_tried_and_then_made(place: Place, page: Page) -> None:
    service, contents, _ = place
    transfer, before = contents.transactions["transfer"], newest(service)
    page.goto(f"/console/transactions/{transfer}")
    page.get_by_role("link", name="Reverse").click()
    page.get_by_label("Amount").fill("5.00")
    page.get_by_label("Description").fill("one item came back")
    page.get_by_role("button", name="Show the result").click()
    page.locator("#result").wait_for()
    assert newest(service) == before  # nothing was done yet
    shown = values(page, "#result tbody tr")
    page.get_by_role("button", name="Reverse it").click()
    row = reached(page)
    assert (row["transaction_type"], row["reverses"], row["amount"]) == (
        "REVERSAL",
        transfer,
        "5.00",
    )
    assert row["description"] == "one item came back"
    members = ("amount", "held_change", "balance", "held")
    assert shown == [[entry[member] for member in members] for entry in row["entries"]]


def test_a_form_that_is_sent_twice_does_it_once(place: Place) -> None:
    service, contents, keys = place
    path = f"/console/actions/reverse/{contents.transactions['transfer']}"
    with signed_in(service, keys["operator"]) as client:
        form = fields_of(client, path) | {"amount": "1.00", "step": "do"}
        first, second = client.post(path, data=form), client.post(path, data=form)
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]


@pytest.mark.thorough
def test_a_hold_is_captured_and_released(place: Place, page: Page) -> None:
    service, contents, _ = place
    hold = contents.transactions["hold"]
    page.goto(f"/console/transactions/{hold}")
    page.get_by_role("link", name="Capture", exact=True).click()
    page.get_by_label("Amount").fill("4.00")
    page.get_by_role("button", name="Show the result").click()
    page.get_by_role("button", name="Capture it").click()
    assert reached(page)["hold_id"] == hold
    page.goto(f"/console/actions/release/{hold}")
    page.get_by_role("button", name="Show the result").click()
    page.get_by_role("button", name="Release it").click()
    assert reached(page)["remaining"] == "0.00"
    state = service.get(f"/holds/{hold}").json()
    assert (state["captured"], state["released"]) == ("14.00", "11.00")
    page.goto(f"/console/transactions/{hold}")
    assert page.get_by_role("link", name="Release", exact=True).count() == 0


def test_a_refusal_is_shown_and_cannot_be_confirmed(place: Place, page: Page) -> None:
    _, contents, _ = place
    page.goto(f"/console/actions/capture/{contents.transactions['open hold']}")
    page.get_by_label("Amount").fill("9000")
    page.get_by_role("button", name="Show the result").click()
    page.locator("#refusal").wait_for()
    assert "Hold exceeded" in page.locator("#refusal").inner_text()
    assert page.get_by_role("button", name="Capture it").count() == 0
    assert page.get_by_label("Amount").input_value() == "9000"


@pytest.mark.thorough
def test_unfreezing_waits_for_others(place: Place, page: Page) -> None:
    service, contents, keys = place
    fees = contents.accounts["Fees"]
    for choice in ("both", "none"):
        page.goto(f"/console/actions/freeze/{fees}")
        page.get_by_label("Frozen").select_option(choice)
        page.get_by_label("Actor").fill("risk desk")
        page.get_by_label("Reason").fill("case 12")
        page.get_by_role("button", name="Show the result").click()
        assert page.locator("#result .notice").count() == (choice == "none")
        page.get_by_role("button", name="Change it").click()
        if choice == "both":
            assert (reached(page)["frozen"], page.url != "") == ("both", True)
    page.wait_for_url("**/console/approvals/*")
    proposal = page.url.rsplit("/", 1)[1]
    assert '"frozen":null' in page.locator("#request pre").inner_text()
    assert service.get(f"/accounts/{fees}").json()["frozen"] == "both"
    # A key without signatures approves nothing, and the page says how it is done.
    path = f"/console/approvals/{proposal}"
    with signed_in(service, keys["decider"]) as client:
        form = {**fields_of(client, path), "reason": "checked"}
        answer = client.post(f"{path}/approve", data=form)
        assert answer.status_code == 401
        assert f"ledgerservice approvals approve {proposal}" in answer.text
    page.locator("form[action$=withdraw] input[name=reason]").fill("a mistake")
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_text("Withdrawn").first.wait_for()
    assert service.get(f"/approvals/{proposal}").json()["state"] == "withdrawn"
    page.goto("/console/approvals?state=withdrawn")
    assert page.locator("tbody a.id").all_inner_texts() == [proposal]


def test_a_key_without_the_scope_does_nothing(place: Place) -> None:
    service, contents, keys = place
    path = f"/console/actions/reverse/{contents.transactions['sale']}"
    before = newest(service)
    with signed_in(service, keys["reader"]) as client:
        for step in ("try", "do"):
            answer = client.post(path, data=fields_of(client, path) | {"step": step})
            assert answer.status_code == 403
            assert "reversals" in answer.text
    assert newest(service) == before


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("", {}),
        ("0" * 64, {}),
        (None, {"origin": "http://elsewhere"}),
        (None, {"sec-fetch-site": "cross-site"}),
    ],
)
def test_a_foreign_form_does_nothing(place: Place, token: str | None, headers: Any) -> None:
    service, contents, keys = place
    path = f"/console/actions/reverse/{contents.transactions['sale']}"
    before = newest(service)
    with signed_in(service, keys["operator"]) as client:
        form = fields_of(client, path) | {"step": "do"}
        form["token"] = form["token"] if token is None else token
        assert client.post(path, data=form, headers=headers).status_code == 403
    assert newest(service) == before


def test_reading_permits_no_action(console: RunningService, contents: Contents) -> None:
    number = contents.transactions["sale"]
    path = f"/console/actions/reverse/{number}"
    assert console.get(path).status_code == 404
    assert "/console/actions/" not in console.get(f"/console/transactions/{number}").text
    form, headers = {"step": "do", "key": "k"}, {"origin": console.base}
    assert console.client.post(path, data=form, headers=headers).status_code == 404
    decision = "/console/approvals/1/approve"
    assert console.client.post(decision, data=form, headers=headers).status_code == 404
    assert "reversed_by" not in console.get(f"/transactions/{number}").json()
