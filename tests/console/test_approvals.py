"""Deciding on proposals in the browser, which signs with a private key that does not leave it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page

from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.access.signatures import public_key_of
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.connections import Database
from tests.access.approvals.proposing import set_rules
from tests.access.made import bearer, make_key
from tests.access.signing import new_key
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, serving

RULES = [RuleRow(1, "amount", "USD", "100.00", 1), RuleRow(1, "unfreeze", "", None, 2)]


class Office(NamedTuple):
    """A service with rules, keys by the names of people, and the folder of their private keys."""

    service: RunningService
    keys: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def office(
    new_database: Callable[..., Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    database, folder = new_database(), tmp_path_factory.mktemp("deciding")
    keys = {
        "operator": make_key(database, "operator"),
        "reader": make_key(database, "reader", int(SETS["reader"] | NAMES["approvals:decide"])),
    }
    for name in ("bob", "carol", "eve"):
        public = public_key_of(new_key(folder, name).with_suffix(".pem").read_bytes())
        keys[name] = make_key(database, name, int(NAMES["approvals:decide"]), public_key=public)
    set_rules(database, RULES)
    with serving(DATABASE_URL=url_text(database), LEDGER_CONSOLE="write", **PATIENT) as service:
        service.client.headers.update(bearer(keys["operator"]))
        yield Office(service, keys, folder)


@pytest.fixture
def page(office: Office, browser: Browser) -> Iterator[Page]:
    """A browser in which a reader is signed in, whose own key signs nothing."""
    complaints: list[str] = []
    with browser.new_context(base_url=office.service.base) as context:
        opened = watched(context, complaints)
        opened.goto("/console/sign-in")
        opened.locator("input[name=key]").fill(office.keys["reader"])
        opened.get_by_role("button", name="Sign in").click()
        opened.wait_for_url("**/console")
        yield opened
    # A refusal is a page with the status of the API, which Chromium mentions.
    assert [one for one in complaints if "status of 4" not in one] == []


def proposed(office: Office, path: str, method: str = "POST", **body: Any) -> int:
    """The id of the proposal that a request becomes."""
    answer = office.service.client.request(method, path, json={"idempotency_key": "k", **body})
    assert answer.status_code == 202, answer.text
    number: int = answer.json()["id"]
    return number


def decide(office: Office, page: Page, who: str, verdict: str, with_key_of: str = "") -> None:
    """Fill in the form that signs, and wait for the page that answers."""
    form = page.locator("form[data-signed]")
    form.get_by_label("Reason").fill(f"{who} has checked it")
    form.get_by_label("API key").fill(office.keys[who])
    form.get_by_label("private key").set_input_files(office.folder / f"{with_key_of or who}.key")
    with page.expect_navigation():
        form.get_by_role("button", name=verdict).click()


def state(office: Office, number: int) -> Any:
    return office.service.get(f"/approvals/{number}").json()


def test_a_second_person_approves(office: Office, page: Page) -> None:
    account = office.service.open("Ada")
    number = proposed(office, "/deposit", account_id=account, amount="500.00")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    page.goto(f"/console/approvals/{number}")
    decide(office, page, "bob", "Approve")
    assert "bob has checked it" in page.locator("#decisions").inner_text()
    row = state(office, number)
    assert (row["state"], row["execution"]["status"]) == ("executed", 200)
    link = page.locator("#execution a.id")
    assert link.inner_text() == str(row["execution"]["transaction_id"])
    assert office.service.account(account, "balance") == ("500.00",)
    private = (office.folder / "bob.key").read_text().splitlines()[1]
    assert sent and not any(private[:20] in text for text in sent)


@pytest.mark.thorough
def test_the_second_of_two_carries_it_out(office: Office, page: Page) -> None:
    account = office.service.open("Bea")
    office.service.send(f"/accounts/{account}", "PATCH", frozen="both")
    change = {"frozen": None, "actor": "risk", "reason": "case closed"}
    number = proposed(office, f"/accounts/{account}", "PATCH", **change)
    page.goto(f"/console/approvals/{number}")
    decide(office, page, "bob", "Approve")
    assert page.locator("#decisions tbody tr").count() == 1
    assert (state(office, number)["state"], page.locator("#execution").count()) == ("open", 0)
    decide(office, page, "bob", "Approve")  # nobody counts twice
    assert len(state(office, number)["decisions"]) == 1
    assert office.service.account(account, "frozen") == ("both",)
    page.goto(f"/console/approvals/{number}")
    decide(office, page, "carol", "Approve")
    assert page.locator("#decisions tbody tr").count() == 2
    assert state(office, number)["state"] == "executed"
    assert office.service.account(account, "frozen") == (None,)


def test_a_rejection_is_signed_too(office: Office, page: Page) -> None:
    account = office.service.open("Cid")
    number = proposed(office, "/deposit", account_id=account, amount="900.00")
    page.goto(f"/console/approvals/{number}")
    decide(office, page, "carol", "Reject")
    assert state(office, number)["state"] == "rejected"
    assert page.locator("form").filter(has_text="Reason").count() == 0


def test_what_another_has_signed_decides_nothing(office: Office, page: Page) -> None:
    account = office.service.open("Dan")
    number = proposed(office, "/deposit", account_id=account, amount="700.00")
    page.goto(f"/console/approvals/{number}")
    decide(office, page, "bob", "Approve", with_key_of="eve")
    assert "signature" in page.locator("#refusal").inner_text()
    form = page.locator("form[data-signed]")
    form.get_by_label("Reason").fill("r")
    form.get_by_label("API key").fill(office.keys["bob"])
    form.get_by_label("private key").set_input_files(office.folder / "bob.pem")  # the public one
    form.get_by_role("button", name="Approve").click()
    form.get_by_role("alert").wait_for()
    row = state(office, number)
    assert (row["state"], row["decisions"]) == ("open", [])


def test_without_javascript_the_command_is_shown(office: Office, browser: Browser) -> None:
    account = office.service.open("Eli")
    number = proposed(office, "/deposit", account_id=account, amount="800.00")
    options: dict[str, Any] = {
        "base_url": office.service.base,
        "java_script_enabled": False,
        "extra_http_headers": bearer(office.keys["reader"]),
    }
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.goto(f"/console/approvals/{number}")
        assert not page.locator("form[data-signed]").is_visible()
        assert f"ledgerservice approvals approve {number}" in page.locator("#decide").inner_text()
