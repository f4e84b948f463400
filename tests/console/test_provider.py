"""Signing in at an OpenID provider, which is a server of its own, in a real browser."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext

from ledgerservice.postgres.connections import Database
from tests.access.oidc.people import Place, at
from tests.access.oidc.provider import CLIENT, SECRET, Provider, SigningKey
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import cli, wait_for


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[Place]:
    provider, folder = Provider(), tmp_path_factory.mktemp("oidc")
    (folder / "secret").write_text(f"{SECRET}\n")
    values = {
        "LEDGER_CONSOLE_OIDC_CLIENT_ID": CLIENT,
        "LEDGER_CONSOLE_OIDC_CLIENT_SECRET_FILE": str(folder / "secret"),
        "LEDGER_CONSOLE_OIDC_SCOPE": "openid ledger",
        **PATIENT,
    }
    with at(provider, new_database(), folder, **values) as made:
        assert wait_for(lambda: made.outcome(made.reader()) == 200, 10)
        yield made
    provider.stop()


@pytest.fixture(autouse=True)
def person(place: Place) -> None:
    place.provider.person = {"sub": "alice", "groups": ["readers"]}
    place.provider.id_claims, place.provider.returned = {}, {}


def sessions(context: BrowserContext) -> list[Any]:
    """The cookies that a browser has but those of the language and the zone."""
    return [one for one in context.cookies() if one["name"] != "ledger-zone"]


def test_a_person_signs_in_and_is_back_where_he_was(place: Place, browser: Browser) -> None:
    complaints: list[str] = []
    with browser.new_context(base_url=place.service.base) as context:
        page = watched(context, complaints)
        page.goto("/console/ledgers?limit=5")
        page.get_by_role("link", name="Sign in with your account").click()
        page.wait_for_url("**/console/ledgers?limit=5")
        assert page.locator(".foot .reader").inner_text() == "alice"
        [cookie] = sessions(context)
        assert (cookie["name"], cookie["sameSite"], cookie["httpOnly"]) == (
            "ledger",
            "Strict",
            True,
        )
        assert cookie["value"].count(".") == 0  # no token can be read in it
        ends = cookie["expires"] - place.provider.claims()["exp"]
        assert abs(ends) < 15  # with the token
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/console/sign-in")
        assert sessions(context) == []
    assert complaints == []


@pytest.mark.thorough
def test_a_session_ends_with_its_token(place: Place, browser: Browser) -> None:
    """The API refuses the token 10 s after its expiry; the cookie is gone at the expiry."""
    now = place.provider.claims()["iat"]
    place.provider.person |= {"exp": now + 8}
    with browser.new_context(base_url=place.service.base) as context:
        page = context.new_page()
        page.goto("/console/sign-in")
        page.get_by_role("link", name="Sign in with your account").click()
        page.wait_for_url("**/console")
        assert wait_for(lambda: sessions(context) == [], 20)
        page.goto("/console")
        assert "/console/sign-in" in page.url


def test_who_has_no_rights_sees_no_ledger(place: Place, browser: Browser) -> None:
    place.provider.person = {"sub": "mallory", "groups": ["nobody"]}
    with browser.new_context(base_url=place.service.base) as context:
        page = context.new_page()
        page.goto("/console/sign-in")
        page.get_by_role("link", name="Sign in with your account").click()
        page.wait_for_url("**/console")
        assert page.locator("#held").count() == 0 and page.locator(".problem").count() == 1


def begun(client: httpx.Client) -> dict[str, str]:
    """What a browser sends to the provider when it begins to sign in."""
    answer = client.get("/console/oidc/start", params={"to": "/console"})
    assert answer.status_code == 303
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    cookie = answer.headers["set-cookie"].lower()
    assert "samesite=lax" in cookie and "httponly" in cookie
    return {"location": answer.headers["location"], "state": query["state"][0]}


def back(place: Place, client: httpx.Client) -> httpx.Response:
    """The answer to a browser that the provider has led back."""
    location = httpx.get(begun(client)["location"]).headers["location"]
    return client.get(location)


def session_of(answer: httpx.Response) -> list[str]:
    return [one for one in answer.headers.get_list("set-cookie") if re.match("ledger=[^;]", one)]


def test_the_way_back_begins_a_session_once(place: Place) -> None:
    with httpx.Client(base_url=place.service.base) as client:
        location = httpx.get(begun(client)["location"]).headers["location"]
        cookies = dict(client.cookies)
        assert len(session_of(client.get(location))) == 1
        client.cookies.update(cookies)
        again = client.get(location)  # the code is used up
        assert (again.status_code, session_of(again)) == (502, [])


OTHER = SigningKey("one")
WRONG: dict[str, tuple[str, dict[str, Any], int]] = {
    "another state": ("returned", {"state": "x" * 43}, 403),
    "no state": ("returned", {"state": ""}, 403),
    "another provider": ("returned", {"iss": "https://evil.example"}, 502),
    "another code": ("returned", {"code": "guessed"}, 502),
    "refused": ("returned", {"error": "access_denied", "code": ""}, 403),
    "another nonce": ("id_claims", {"nonce": "x" * 43}, 502),
    "no nonce": ("id_claims", {"nonce": None}, 502),
    "another client": ("id_claims", {"aud": "elsewhere"}, 502),
    "an id token of two": ("id_claims", {"aud": [CLIENT, "elsewhere"]}, 502),
    "another issuer": ("id_claims", {"iss": "https://evil.example"}, 502),
    "an old id token": ("id_claims", {"exp": 1}, 502),
    "a signature of another": ("id_claims", {"key": OTHER}, 502),
    "a token for another service": ("person", {"sub": "a", "aud": "elsewhere"}, 401),
    "a token of another": ("person", {"sub": "a", "key": OTHER}, 401),
    "a long token": ("person", {"sub": "a", "filler": "x" * 3_000}, 502),
}


@pytest.mark.parametrize("name", WRONG)
def test_nothing_else_begins_a_session(place: Place, name: str) -> None:
    member, values, status = WRONG[name]
    setattr(place.provider, member, values)
    with httpx.Client(base_url=place.service.base) as client:
        answer = back(place, client)
        assert (answer.status_code, session_of(answer)) == (status, [])
        assert client.get("/console").status_code == 303


def test_the_way_back_is_of_the_browser_that_left(place: Place) -> None:
    """Nobody can be signed in as another by a link."""
    with httpx.Client(base_url=place.service.base) as one:
        location = httpx.get(begun(one)["location"]).headers["location"]
        cookie = one.cookies["ledger-sign-in"]
    with httpx.Client(base_url=place.service.base) as two:
        begun(two)
        answer = two.get(location)
        assert (answer.status_code, session_of(answer)) == (403, [])
        # The cookie of a departure is no session, and a session is no departure.
        two.cookies.set("ledger", cookie)
        assert two.get("/console").status_code == 303


def test_it_needs_the_provider(place: Place) -> None:
    url = url_text(place.database)
    done = cli("serve", "--port", "0", DATABASE_URL=url, LEDGER_CONSOLE_OIDC_CLIENT_ID="c")
    assert done.returncode == 1 and "LEDGER_OIDC_ISSUER" in done.stderr
