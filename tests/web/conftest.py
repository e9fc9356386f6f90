"""A browser for the page's tests, and the page in it."""

import shutil

import pytest
from browser_page import WAYS, opened_page
from setup import BROWSER


@pytest.fixture(scope="module")
def browser():
    if not shutil.which(BROWSER):
        pytest.skip(f"needs {BROWSER}")
    from playwright.sync_api import sync_playwright
    from screenshots import QUIET

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(params=WAYS)
def page(browser, server, request):
    with opened_page(browser, server, request.param) as page:
        yield page
    # The next test's runs do not wait for what is left of this one's.
    server.post("/queue", {"clear": True})
    server.post("/interrupt", {})


@pytest.fixture(params=WAYS, scope="module")
def page_of_many(browser, server, request):
    """One for all workflows that are opened, one after the other, as users do."""
    with opened_page(browser, server, request.param) as page:
        yield page
