"""What a reader is shown: the sections and actions that the scopes of the key allow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page

from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.made import alter_key, bearer, make_key
from tests.console.contents import Contents, fill
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for

ALL_SECTIONS = ["Overview", "Accounts", "Transactions", "Proposals", "Reports", "Health"]
READING = [one for one in ALL_SECTIONS if one != "Health"]


class Desk(NamedTuple):
    """A service that permits actions, its contents, and keys by the names of principals."""

    service: RunningService
    contents: Contents
    keys: dict[str, str]


@pytest.fixture(scope="module")
def desk(new_database: Callable[..., Database]) -> Iterator[Desk]:
    database = new_database()
    with serving(DATABASE_URL=url_text(database), LEDGER_CONSOLE="write", **PATIENT) as service:
        contents = fill(service)
        keys = {name: make_key(database, name, int(SETS[name])) for name in SETS}
        keys["blind"] = make_key(database, "blind", int(NAMES["accounts:read"]))
        one = GrantedAccounts([contents.accounts["Alice"]])
        keys["limited"] = make_key(
            database, "limited", int(SETS["reader"] | NAMES["holds"]), ["default"], None, one
        )
        soon = make_key(database, "soon", int(SETS["reader"]))
        keys["soon"] = alter_key(database, soon, "expires_at = now() + interval '3 days'")
        limited = bearer(keys["soon"])
        wait_for(lambda: service.client.get("/me", headers=limited).status_code == 200)
        yield Desk(service, contents, keys)


@contextmanager
def signed_in(desk: Desk, browser: Browser, name: str, width: int = 1440) -> Iterator[Page]:
    complaints: list[str] = []
    with browser.new_context(base_url=desk.service.base) as context:
        page = watched(context, complaints)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto("/console/sign-in")
        page.locator("input[name=key]").fill(desk.keys[name])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/console")
        yield page
    assert complaints == []


def sections(page: Page) -> list[str]:
    return page.locator("nav.wide a").all_inner_texts()


def buttons(page: Page) -> list[str]:
    return page.locator(".title .actions a").all_inner_texts()


SEEN = {
    "reader": (READING, [], [], []),
    "poster": (READING, ["Reverse"], ["Capture", "Release"], []),
    "operator": (ALL_SECTIONS, ["Reverse"], ["Capture", "Release"], ["Freeze or unfreeze"]),
    "auditor": (ALL_SECTIONS, [], [], []),
    "limited": (READING, [], ["Capture", "Release"], []),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SEEN)
def test_what_the_scopes_do_not_allow_is_not_shown(desk: Desk, browser: Browser, name: str) -> None:
    shown, on_sale, on_hold, on_account = SEEN[name]
    numbers = desk.contents.transactions
    alice = desk.contents.accounts["Alice"]
    with signed_in(desk, browser, name) as page:
        assert sections(page) == shown
        assert page.locator(".foot .reader").inner_text() == name
        page.goto(f"/console/transactions/{numbers['transfer']}")
        assert buttons(page) == on_sale
        page.goto(f"/console/transactions/{numbers['open hold']}")
        assert buttons(page) == on_hold
        page.goto(f"/console/accounts/{alice}")
        assert buttons(page) == on_account
        assert page.locator("#expiry").count() == 0


@pytest.mark.thorough
def test_one_scope_leaves_two_sections(desk: Desk, browser: Browser) -> None:
    with signed_in(desk, browser, "blind") as page:
        assert sections(page) == ["Overview", "Accounts"]


def test_a_key_of_single_accounts_sees_what_is_of_them(desk: Desk, browser: Browser) -> None:
    with signed_in(desk, browser, "limited") as page:
        assert "limited to single accounts" in page.locator("#held .withheld").inner_text()
        page.goto("/console/accounts")
        numbers = page.locator("tbody a.id").all_inner_texts()
        assert numbers == [str(desk.contents.accounts["Alice"])]


@pytest.mark.thorough
def test_forcing_is_offered_to_those_who_may(desk: Desk, browser: Browser) -> None:
    path = f"/console/actions/reverse/{desk.contents.transactions['transfer']}"
    for name, count in (("operator", 0), ("admin", 1)):
        with signed_in(desk, browser, name) as page:
            page.goto(path)
            assert page.locator("#form input[name=force]").count() == count
            assert page.locator("#form .withheld").count() == 0
    with signed_in(desk, browser, "reader") as page:
        page.goto(path)
        assert "reversals" in page.locator("#form .withheld").inner_text()


def test_a_key_that_expires_soon_says_when(desk: Desk, browser: Browser) -> None:
    with signed_in(desk, browser, "soon", width=360) as page:
        notice = page.locator("#expiry")
        assert "expires soon" in notice.inner_text()
        time = notice.locator("time").get_attribute("datetime")
        me = desk.service.client.get("/me", headers=bearer(desk.keys["soon"])).json()
        assert time == me["expires_at"]
        widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        assert page.evaluate(widths) == [360, 360]
