"""A real browser for tests; the folders that use it have its fixture."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium. Its event loop runs meanwhile, so no other can run in the same module."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("REQUIRE_TOOLCHAINS") else pytest.skip)(
            "chromium is not installed"
        )
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
