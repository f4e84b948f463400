"""Figures over the whole ledger, of a service whose pages never wait for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from ledgerservice.postgres.connections import Database
from tests.console.contents import Contents, fill
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, serving

Hasty = tuple[RunningService, Contents]


@pytest.fixture(scope="module")
def hasty(new_database: Callable[..., Database]) -> Iterator[Hasty]:
    """A service with contents."""
    place = {"DATABASE_URL": url_text(new_database()), "LEDGER_CONSOLE_PATIENCE_S": "0"}
    with serving(**place) as service:
        yield service, fill(service)


@contextmanager
def opened(hasty: Hasty, browser: Browser, path: str, **options: Any) -> Iterator[Page]:
    complaints: list[str] = []
    with browser.new_context(base_url=hasty[0].base, **options) as context:
        page = watched(context, complaints)
        page.goto(path)
        yield page
    assert complaints == []


PAGES = {
    "": "#held tbody tr",
    "/transactions": "#volume tbody tr",
    "/accounts/1": "#figures tbody tr",
    "/reports": "#figures tbody tr",
    "/reports/owners": "#figures tbody tr",
    "/reports/months": "#figures tbody tr",
    "/reports/metadata?key=order": "#figures tbody tr",
}


@pytest.mark.thorough
def test_figures_come_after_their_pages(hasty: Hasty, browser: Browser) -> None:
    for path, rows in PAGES.items():
        first = hasty[0].get(f"/console{path}").text
        assert 'hx-trigger="load"' in first and "data-currency" not in first, path
        with opened(hasty, browser, f"/console{path}") as page:
            page.locator(rows).first.wait_for()
            assert page.locator("#figures #figures, #figures main").count() == 0, path


@pytest.mark.thorough
def test_plots_are_drawn_when_their_figures_come(hasty: Hasty, browser: Browser) -> None:
    with opened(hasty, browser, "/console") as page:
        page.locator("#figures .uplot").first.wait_for()


@pytest.mark.thorough
def test_a_link_shows_them_without_javascript(hasty: Hasty, browser: Browser) -> None:
    for path, rows in PAGES.items():
        with opened(hasty, browser, f"/console{path}", java_script_enabled=False) as page:
            assert page.locator(rows).count() == 0
            page.get_by_role("link", name="Show them").click()
            assert page.locator(rows).count() > 0, path


@pytest.mark.thorough
def test_they_are_not_summed_up_again_for_what_is_new(hasty: Hasty, browser: Browser) -> None:
    """A page that loads itself again has the new transactions, and the figures that it had."""
    service, contents = hasty
    with opened(hasty, browser, "/console") as page:
        page.locator("#held tbody tr").first.wait_for()
        shown = page.locator("#held").inner_text()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        alice = contents.accounts["Alice"]
        number = service.send("/deposit/", account_id=alice, amount="1.11").json()["transaction_id"]
        page.get_by_role("link", name=str(number)).wait_for()
        assert page.locator("#held").inner_text() == shown
        assert sent and not [url for url in sent if "figures=all" in url]


def test_csv_waits_for_them(hasty: Hasty) -> None:
    lines = hasty[0].get("/console/reports?as=csv").text.splitlines()
    assert lines[0].startswith("currency,") and len(lines) == 3
