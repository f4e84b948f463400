"""Pages that collect what the browser complains of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Request

VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`));"""


def _failed(request: Request) -> list[str]:
    """Nothing for what the next page has ended: a stream, or a file that was still on its way."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed: {request.url}"]


def watched(context: BrowserContext, complaints: list[str]) -> Page:
    """A new page that collects whatever the browser complains of, CSP included."""
    page = context.new_page()
    page.add_init_script(VIOLATIONS)
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.extend(_failed(request)))
    return page


@contextmanager
def visiting(browser: Browser, base: str, **options: Any) -> Iterator[Callable[..., Page]]:
    """Opens paths, each in a context of its own with these options and those of the call. A
    complaint of the browser fails the test.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def visit(path: str, **more: Any) -> Page:
        contexts.append(browser.new_context(base_url=base, **options | more))
        page = watched(contexts[-1], complaints)
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
