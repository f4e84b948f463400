"""What all pages share: the frame, its files, its headers, keys, languages and widths."""

import hashlib
import json
import re

import pytest

from ledgerservice.console import catalogue
from tests.console.contents import Contents
from tests.console.places import PAGES
from tests.processes import ROOT, RunningService

CONSOLE = ROOT / "src" / "ledgerservice" / "console"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


def test_a_browser_is_led_to_the_console(console: RunningService) -> None:
    answer = console.client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/console")
    assert console.get("/").json()["documentation"] == "/docs"


@pytest.mark.thorough
def test_the_overview_shows_what_the_api_reports(visited, console: RunningService) -> None:
    page = visited("/console")
    [usd] = [
        row
        for row in console.get("/reports/trial-balance").json()["currencies"]
        if row["currency"] == "USD"
    ]
    row = page.locator("tbody tr", has=page.get_by_role("rowheader", name="USD"))
    values = [cell.get_attribute("value") for cell in row.locator("data").all()]
    assert values[:2] == [str(usd["accounts"]), usd["customers"]]
    assert values[-1] == usd["external"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_strict_headers(console: RunningService, path: str) -> None:
    headers = console.get(f"/console{path}").headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers.get_list("cache-control") == ["no-store"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]


def test_no_page_scrolls_sideways(visited) -> None:
    page = visited("/console")
    for path in PAGES:
        page.goto(f"/console{path}")
        for width in (360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(WIDTHS) == [width, width], path


def test_no_template_has_scripts_or_styles_of_its_own() -> None:
    templates = "".join(file.read_text() for file in (CONSOLE / "templates").glob("*.html"))
    assert (
        re.findall(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=)|\|safe", templates) == []
    )


def test_vendored_files_are_those_of_their_packages() -> None:
    for name, of in json.loads((CONSOLE / "static" / "vendored.json").read_text()).items():
        content = (CONSOLE / "static" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == of["sha256"], name


def test_files_are_kept_by_their_hashes(console: RunningService) -> None:
    places = re.findall(r'/console/static/[^"#]+', console.get("/console").text)
    assert len(places) > 4
    for place in set(places):
        answer = console.get(place)
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
        changed = place.replace("/static/", "/static/0")
        assert console.get(changed).status_code == 404


TEXT = re.compile(r"""\bt\("([a-z_]+\.\w+)""")


def test_every_text_is_in_every_language() -> None:
    sources = [*(CONSOLE / "templates").glob("*.html"), *CONSOLE.rglob("*.py")]
    used = {key for file in sources for key in TEXT.findall(file.read_text())}
    used = {key for key in used if not key.endswith("_") and key != "NAME.key"}
    english, german = (catalogue.texts(language) for language in ("en", "de"))
    assert used <= english.keys()
    assert english.keys() == german.keys()
    for key, text in english.items():
        assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", german[key]), key


@pytest.mark.thorough
def test_the_language_is_the_readers(visited) -> None:
    page = visited("/console", locale="de-DE")
    assert page.get_by_role("heading", level=1).inner_text() == "Übersicht"
    assert "\N{MINUS SIGN}" in page.locator("tbody").first.inner_text()
    page.get_by_role("link", name="English").first.click()
    page.get_by_role("heading", name="Overview", exact=True).wait_for()
    page.reload()
    assert page.get_by_role("heading", level=1).inner_text() == "Overview"


def test_times_are_in_the_readers_zone(visited, console: RunningService) -> None:
    page = visited("/console", timezone_id="America/New_York")
    first = page.locator("time").first
    shown = first.inner_text()
    assert first.get_attribute("title").endswith(" UTC")
    page.reload()
    # The server knows the zone now, and writes the same.
    assert first.get_attribute("data-zone") == "America/New_York" and first.inner_text() == shown


def test_a_slash_goes_to_the_box_that_finds(visited) -> None:
    page = visited("/console")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"


def test_it_works_without_javascript(visited, contents: Contents) -> None:
    page = visited("/console", java_script_enabled=False)
    assert page.locator("tbody tr").count() > 5
    page.locator(".asof summary").click()
    page.locator("input[name=at]").fill("2026-02")
    page.get_by_role("button", name="Apply").click()
    assert "at=2026-02" in page.url
    assert page.locator(".asof summary").inner_text() == "As recorded by 2026-02"


def test_new_transactions_appear_by_themselves(visited, console: RunningService, contents) -> None:
    page = visited("/console")
    page.wait_for_timeout(300)
    body = {"account_id": contents.accounts["Alice"], "amount": "3.21"}
    number = console.send("/deposit/", **body).json()["transaction_id"]
    page.get_by_role("link", name=str(number)).wait_for(timeout=8_000)


@pytest.mark.thorough
def test_a_page_stands_still_while_its_reader_scrolls(visited, console, contents) -> None:
    page = visited("/console", width=700)
    page.set_viewport_size({"width": 700, "height": 300})
    page.evaluate("scrollTo(0, 200)")
    shown = page.locator("main").inner_text()
    number = console.send("/deposit/", account_id=contents.accounts["Alice"], amount="4.56").json()[
        "transaction_id"
    ]
    page.get_by_role("button", name="Show what is new").wait_for(timeout=8_000)
    assert page.locator("main").inner_text() == shown
    page.get_by_role("button", name="Show what is new").click()
    page.get_by_role("link", name=str(number)).wait_for(timeout=8_000)


def test_a_problem_is_shown_in_words_with_its_request(console: RunningService) -> None:
    answer = console.get("/console?at=never")
    assert answer.status_code == 422
    assert "at" in answer.text and "month or year" in answer.text
    assert re.search(r'class="request">Request <code>[0-9a-f]+-[0-9a-f]+<', answer.text)
