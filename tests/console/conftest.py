"""Fixtures of the console's tests: a service with contents, a browser, and pages that complain."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from ledgerservice.postgres.connections import Database
from tests.console.contents import Contents, fill
from tests.console.places import PATIENT
from tests.console.watching import watched
from tests.databases import url_text
from tests.processes import RunningService, serving

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. Its event loop runs meanwhile, so no other can run in the same module."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("REQUIRE_TOOLCHAINS") else pytest.skip)(
            "chromium is not installed"
        )
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def filled(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, Contents]]:
    """A service without keys, and the ids of what is in its ledger."""
    with serving(DATABASE_URL=url_text(new_database()), **PATIENT) as service:
        yield service, fill(service)


@pytest.fixture
def console(filled: tuple[RunningService, Contents]) -> RunningService:
    """That service."""
    return filled[0]


@pytest.fixture
def contents(filled: tuple[RunningService, Contents]) -> Contents:
    """The ids of what is in its ledger."""
    return filled[1]


@pytest.fixture
def visited(browser: Browser, console: RunningService) -> Iterator[Callable[..., Page]]:
    """Opens a path of the console: `visited("/console", width=360, color_scheme="dark")`. A
    complaint of the browser fails the test. Further arguments are those of `new_context`.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def visit(path: str, width: int = 1440, **options: Any) -> Page:
        contexts.append(
            browser.new_context(
                base_url=console.base,
                viewport={"width": width, "height": 900},
                **{"locale": "en-GB", "timezone_id": "Europe/Berlin", **options},
            )
        )
        page = watched(contexts[-1], complaints)
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
