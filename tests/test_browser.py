"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright
from runs import ROOT

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; install it to run browser tests")
EXAMPLE = sorted((ROOT / "demo_app" / "Examples").iterdir())[0]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, shipped_app):
    page = browser.new_page(permissions=["clipboard-read", "clipboard-write"])
    page.set_default_timeout(20_000)
    page.goto(shipped_app)
    page.get_by_role("button", name="Read the text").wait_for()
    yield page
    page.close()


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)
    page.get_by_role("button", name="Remove Image").wait_for()


def test_upload_press_the_button_read_and_copy(page):
    upload(page, EXAMPLE)
    page.get_by_role("button", name="Read the text").click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.get_by_label("Confidence")).to_have_value(re.compile(r"9\d\.\d%|100\.0%"))
    page.locator("#text").get_by_role("button").click()
    page.wait_for_function(f"navigator.clipboard.readText().then(text => text === '{EXAMPLE.stem}')")


def test_an_example_runs_on_click(page):
    page.locator("button.gallery-item").first.click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


def test_what_is_not_an_image_gets_a_sentence(page):
    upload(page, {"name": "fake.png", "mimeType": "image/png", "buffer": b"not an image"})
    page.get_by_role("button", name="Read the text").click()
    expect(page.get_by_text("not an image that can be read")).to_be_visible()


def test_the_button_without_an_image_says_what_to_do(page):
    page.get_by_role("button", name="Read the text").click()
    expect(page.get_by_text("There is no image yet")).to_be_visible()
