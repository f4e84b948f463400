"""Pages for everyone: axe-core has no serious finding, and the keyboard reaches everything."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.console.places import PAGES

SERIOUS = {"serious", "critical"}


def findings(page: Page) -> list[str]:
    """What axe-core finds on a page, with the first place of each."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in violations
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.thorough
def test_axe_has_no_serious_finding(visited, scheme: str) -> None:
    page = visited("/console", color_scheme=scheme)
    for path in [*PAGES, "/sign-in"]:
        page.goto(f"/console{path}")
        assert findings(page) == [], path


@pytest.mark.thorough
def test_the_controls_are_open_without_a_serious_finding(visited) -> None:
    page = visited("/console/accounts/1", width=360)
    for name in ("menu", "asof", "sources", "plot details"):
        details = page.locator(f"details.{name}" if " " not in name else f".{name}")
        details.locator("summary").click()
        assert findings(page) == [], name
        page.keyboard.press("Escape")


def test_the_keyboard_alone_reaches_a_row_and_shows_where_it_is(visited) -> None:
    page = visited("/console")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/console/accounts")
    page.keyboard.press("j")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/accounts/1")
