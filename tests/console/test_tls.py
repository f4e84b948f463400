"""The session over TLS: a real certificate, and a real browser."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser

from ledgerservice.postgres.connections import Database
from tests.access.certificates import HERE, Authority, context
from tests.access.made import make_key
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import Fork, await_ready, environment, free_port

NAME = "__Host-ledger"


@pytest.fixture(scope="module")
def secure(
    new_database: Callable[..., Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, str]]:
    """A client of a service with a certificate, and a key."""
    database, folder = new_database(), tmp_path_factory.mktemp("tls")
    key, port = make_key(database, "reader"), free_port()
    authority = Authority(folder)
    authority.issue("server", "CN=ledger", HERE)
    values = {
        "DATABASE_URL": url_text(database),
        "LEDGER_TLS_CERT": str(folder / "server.pem"),
        "LEDGER_TLS_KEY": str(folder / "server.key"),
        **PATIENT,
    }
    process = Fork(["serve", "--port", str(port)], environment(**values))
    base = f"https://127.0.0.1:{port}"
    with httpx.Client(base_url=base, verify=context(folder), timeout=60) as client:
        try:
            await_ready(client, process)
            yield client, key
        finally:
            process.terminate()
            process.wait(60)


def test_the_cookie_is_of_this_host_and_of_tls_only(secure: tuple[httpx.Client, str]) -> None:
    client, key = secure
    origin = {"origin": str(client.base_url)}
    answer = client.post("/console/sign-in", data={"key": key}, headers=origin)
    assert answer.status_code == 303
    [cookie] = answer.headers.get_list("set-cookie")
    first, *attributes = cookie.split("; ")
    assert first.startswith(f"{NAME}=") and key not in cookie
    names = {one.lower() for one in attributes}
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= names
    assert not any(one.startswith("domain") for one in names)
    value = first.partition("=")[2]
    # The cookie of a connection without TLS is not taken over TLS: another could have set it.
    for name, status in ((NAME, 200), ("ledger", 303)):
        sent = {"cookie": f"{name}={value}"}
        client.cookies.clear()
        assert client.get("/console", headers=sent).status_code == status


@pytest.mark.thorough
def test_a_browser_keeps_the_session(secure: tuple[httpx.Client, str], browser: Browser) -> None:
    client, key = secure
    complaints: list[str] = []
    base = str(client.base_url)
    with browser.new_context(base_url=base, ignore_https_errors=True) as opened:
        page = watched(opened, complaints)
        page.goto("/console")
        page.locator("input[name=key]").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/console")
        [cookie] = [one for one in opened.cookies() if one["name"] == NAME]
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        assert NAME not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/console/sign-in")
        assert [one for one in opened.cookies() if one["name"] == NAME] == []
    assert complaints == []
