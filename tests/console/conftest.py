"""Fixtures of the console's tests: a service with contents, a browser, and pages that complain."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from ledgerservice.postgres.connections import Database
from tests.console.browsers import chromium
from tests.console.contents import Contents, fill
from tests.console.places import PATIENT
from tests.console.watching import visiting
from tests.databases import url_text
from tests.processes import RunningService, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module."""
    with chromium() as started:
        yield started


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
    options = {"locale": "en-GB", "timezone_id": "Europe/Berlin"}
    with visiting(browser, console.base, **options) as visit:

        def sized(path: str, width: int = 1440, **more: Any) -> Page:
            return visit(path, viewport={"width": width, "height": 900}, **more)

        yield sized
