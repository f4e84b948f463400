"""The pages for people, in a real browser, and the headers of all answers."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page

from ledgerservice.api.http.catalogue import CATALOGUE
from tests.console.browsers import chromium
from tests.processes import RunningService

SHOWN = 30  # operations at least


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def opened(page: Page, url: str) -> list[str]:
    """Opens a page and waits for its operations. Returns what the browser complains of."""
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(url)
    page.wait_for_selector(".opblock")
    return complaints


@pytest.mark.thorough
def test_a_browser_gets_the_documentation(service: RunningService, page: Page) -> None:
    assert opened(page, f"{service.base}/docs") == []
    assert page.locator(".opblock").count() > SHOWN
    assert page.locator(".errors-wrapper").count() == 0
    assert page.locator("#codes dt").all_inner_texts() == [*CATALOGUE]


@pytest.mark.thorough
def test_the_operations_come_before_the_codes(service: RunningService, page: Page) -> None:
    opened(page, f"{service.base}/docs")
    operations, codes = page.locator(".opblock"), page.locator("#codes")
    assert top(operations.first) < 1_000
    assert top(operations.last) < top(codes)


def top(place: Locator) -> float:
    box = place.bounding_box()
    assert box is not None
    return box["y"]


WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.mark.thorough
def test_a_narrow_screen_does_not_scroll_sideways(service: RunningService, page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, f"{service.base}/docs")
    assert page.evaluate(WIDTHS) == [360, 360]
    for name in ("transfer", "list_transactions", "post_batch"):
        operation = page.locator(f"[id$='-{name}']")
        operation.locator(".opblock-summary-control").click()
        operation.locator(".opblock-body").wait_for()
        assert page.evaluate(WIDTHS) == [360, 360], name


@pytest.mark.thorough
def test_an_example_is_executed_in_the_page(service: RunningService, page: Page) -> None:
    assert opened(page, f"{service.base}/docs") == []
    operation = page.locator("[id$='-open_account']")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table .response", has_text="201").wait_for(timeout=10_000)


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_dark_where_the_system_is(browser: Browser, service, scheme) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        opened(page, f"{service.base}/docs")
        for place in ("body", ".opblock-summary-path", ".info .title", "#codes"):
            text, ground = page.evaluate(COLOURS, place)
            assert (brightness(text) > brightness(ground)) is (scheme == "dark"), place
            assert abs(brightness(text) - brightness(ground)) > 100, place


COLOURS = """(place) => [
  getComputedStyle(document.querySelector(place)).color,
  getComputedStyle(document.body).backgroundColor,
]"""


def brightness(colour: str) -> float:
    """Of `rgb(r, g, b)`, 0 to 255."""
    red, green, blue = (float(part) for part in colour.strip("rgba()").split(",")[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue


# Headers.


def test_the_root_answers_programs_in_json(service: RunningService) -> None:
    answer = service.get("/")
    assert answer.headers["vary"] == "accept"
    for place in ("documentation", "description", "health"):
        assert service.get(answer.json()[place]).status_code == 200
    page = service.client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["location"]) == (307, "/console")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/accounts"),
        ("GET", "/nowhere"),
        ("POST", "/deposit"),
        ("POST", "/transactions"),
        ("POST", "/batches"),
        ("DELETE", "/accounts"),
        ("GET", "/ledgers/nowhere/accounts"),
        ("GET", "/docs"),
        ("GET", "/"),
    ],
)
def test_no_answer_is_kept_or_taken_for_another_type(service, method, path) -> None:
    headers = service.client.request(method, path, json={}).headers
    assert headers.get_list("cache-control") == ["no-store"]
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert "text/html" not in headers["content-type"] or is_unframed(headers)


def test_a_stream_is_not_kept(service: RunningService) -> None:
    headers = {"content-type": "application/x-ndjson"}
    answer = service.client.post("/batches", content=b"{}\n", headers=headers)
    assert answer.headers["cache-control"] == "no-store"


def test_no_page_is_shown_in_a_frame(service: RunningService) -> None:
    account = service.open()
    for path in ("/docs", f"/accounts/{account}/statement?format=html"):
        headers = service.get(path).headers
        assert headers["content-type"].startswith("text/html")
        assert is_unframed(headers)
        assert len(headers.get_list("content-security-policy")) == 1


def is_unframed(headers) -> bool:
    policy = headers["content-security-policy"]
    return "frame-ancestors 'none'" in policy and headers["x-frame-options"] == "DENY"


def test_the_files_of_the_page_may_be_kept(service: RunningService) -> None:
    headers = service.get("/docs/assets/swagger-ui.css").headers
    assert "cache-control" not in headers and headers["etag"]
    assert headers["x-content-type-options"] == "nosniff"
