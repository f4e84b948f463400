"""Signing in with a key, what a session may see, and forms of other sites."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser

from ledgerservice.postgres.connections import Database
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, cli, serving


@pytest.fixture(scope="module")
def keyed(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, dict[str, str]]]:
    """A service with two ledgers, and keys by their names."""
    place = {"DATABASE_URL": url_text(new_database())}
    with serving(**place, **PATIENT) as service:
        service.post("/ledgers/", {"name": "shop"})
        service.open("Alice of default")
        shop = {"owner": "Sam of shop", "currency": "USD"}
        service.post("/ledgers/shop/accounts/", shop)
        made = {
            "reader": ("--role", "reader"),
            "shop": ("--role", "reader", "--ledger", "shop"),
            "blind": ("--scope", "accounts:read"),
        }
        keys = {name: key_of(name, *options, **place) for name, options in made.items()}
        yield service, keys


def key_of(name: str, *options: str, **place: str) -> str:
    done = cli("keys", "create", name, *options, "--json", **place)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["key"])


@contextmanager
def signed_in(service: RunningService, key: str) -> Iterator[httpx.Client]:
    form = {"key": key, "to": "/console"}
    with httpx.Client(base_url=service.base) as client:
        answer = client.post("/console/sign-in", data=form, headers={"origin": service.base})
        assert answer.status_code == 303, answer.text
        yield client


@pytest.mark.thorough
def test_a_reader_signs_in_and_is_back_where_he_was(keyed, browser: Browser) -> None:
    service, keys = keyed
    complaints: list[str] = []
    with browser.new_context(base_url=service.base) as context:
        page = watched(context, complaints)
        page.goto("/console/ledgers?limit=5")
        assert "/console/sign-in" in page.url
        page.locator("input[name=key]").fill(keys["reader"])
        page.get_by_role("button").click()
        page.wait_for_url("**/console/ledgers?limit=5")
        [cookie] = [c for c in context.cookies() if c["name"] == "ledger"]
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert keys["reader"] not in cookie["value"]
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/console/sign-in")
        page.goto("/console")
        assert "/console/sign-in" in page.url
    assert complaints == []


def test_a_wrong_key_is_refused_in_words(keyed) -> None:
    service, _ = keyed
    answer = httpx.post(
        f"{service.base}/console/sign-in",
        data={"key": "lgk_wrong"},
        headers={"origin": service.base},
    )
    assert answer.status_code == 401 and "not valid" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_key_of_one_ledger_sees_nothing_of_another(keyed) -> None:
    service, keys = keyed
    with signed_in(service, keys["shop"]) as client:
        assert client.get("/console/ledgers/shop").status_code == 200
        assert client.get("/console").status_code == 404
        names = re.findall(
            r'<th scope="row"><a[^>]*>(.*?)</a>', client.get("/console/ledgers").text
        )
        assert names == ["shop"]


def test_a_figure_without_its_scope_is_left_out(keyed) -> None:
    service, keys = keyed
    with signed_in(service, keys["blind"]) as client:
        answer = client.get("/console")
    assert answer.status_code == 200
    assert "reports:read" in answer.text and "transactions:read" in answer.text


def test_a_form_of_another_session_does_nothing(keyed) -> None:
    service, keys = keyed
    with signed_in(service, keys["reader"]) as client:
        for token in ("", "0" * 64):
            answer = client.post(
                "/console/sign-out", data={"token": token}, headers={"origin": service.base}
            )
            assert answer.status_code == 403
        assert client.get("/console").status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://elsewhere"}, {"sec-fetch-site": "same-site"}]
)
def test_a_form_of_another_site_is_refused(keyed, headers: dict[str, str]) -> None:
    service, keys = keyed
    form = {"key": keys["reader"]}
    answer = httpx.post(f"{service.base}/console/sign-in", data=form, headers=headers)
    assert answer.status_code == 403


def test_a_changed_cookie_is_no_session(keyed) -> None:
    service, keys = keyed
    with signed_in(service, keys["reader"]) as client:
        cookie = client.cookies["ledger"]
        client.cookies.set(
            "ledger", cookie[:-6] + ("A" if cookie[-6] != "A" else "B") + cookie[-5:]
        )
        assert client.get("/console").status_code == 303


def test_signing_in_leads_to_no_other_site(keyed) -> None:
    service, keys = keyed
    for place in ("https://elsewhere/console", "//elsewhere", "/console@elsewhere", "/docs"):
        answer = httpx.post(
            f"{service.base}/console/sign-in",
            data={"key": keys["reader"], "to": place},
            headers={"origin": service.base},
        )
        assert answer.headers["location"] == "/console"


def test_the_notice_says_who_can_use_it(new_database: Callable[..., Database]) -> None:
    place = {"DATABASE_URL": url_text(new_database()), **PATIENT}
    for values, text in (
        ({}, "whoever uses this machine"),
        (
            {"LEDGER_ALLOW_OPEN": "true"},
            "whoever reaches the service",
        ),
    ):
        with serving(**place, **values) as service:
            assert text in service.get("/console").text


def test_it_can_be_off(new_database: Callable[..., Database]) -> None:
    with serving(DATABASE_URL=url_text(new_database()), LEDGER_CONSOLE="off") as service:
        assert service.get("/console").status_code == 404
        answer = service.client.get("/", headers={"accept": "text/html"})
        assert answer.headers["location"] == "/docs"
