"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import csv
import io
import json
import re
import shutil
import zipfile

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
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


def test_an_upload_is_read_at_once_and_the_text_can_be_copied(page):
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"Sure: (9\d\.\d|100\.0)%"))
    each = r"\s*".join(rf"{character}\s*\d+%" for character in EXAMPLE.stem)
    expect(page.locator("#characters")).to_contain_text(re.compile(each))
    page.locator("#text").get_by_role("button").click()
    page.wait_for_function(f"navigator.clipboard.readText().then(text => text === '{EXAMPLE.stem}')")
    page.get_by_text("What the model saw").click()
    assert page.locator("#map svg rect").count() >= len(EXAMPLE.stem)
    page.get_by_label("Remove Image").click()
    expect(page.locator("#text textarea")).to_have_value("")


def test_a_pasted_image_is_read(page):
    page.evaluate(
        """async bytes => navigator.clipboard.write([new ClipboardItem(
            {"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])""",
        list(EXAMPLE.read_bytes()),
    )
    page.get_by_label("Paste from clipboard").first.click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


def test_an_unsure_reading_shows_what_else_it_may_be(page):
    file = io.BytesIO()
    one, other = (Image.open(path) for path in sorted(EXAMPLE.parent.iterdir())[:2])
    Image.blend(one, other, 0.5).save(file, "PNG")
    upload(page, {"name": "both.png", "mimeType": "image/png", "buffer": file.getvalue()})
    expect(page.locator("#verdict")).to_contain_text("Not sure")
    expect(page.locator("#verdict li")).to_have_count(3)


def test_an_image_without_text_is_said_to_have_none(page):
    file = io.BytesIO()
    Image.new("L", (200, 50), 255).save(file, "PNG")
    upload(page, {"name": "white.png", "mimeType": "image/png", "buffer": file.getvalue()})
    expect(page.locator("#verdict")).to_contain_text("No text is seen")


def test_many_files_become_a_table_and_a_csv(page, tmp_path):
    paths = sorted((ROOT / "demo_app" / "Examples").iterdir())
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in paths[2:]:
            archive.write(path, f"folder/{path.name}")
        archive.writestr("readme.txt", "no image")
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.get_by_role("tab", name="Many images").click()
    files = [*paths[:2], tmp_path / "bad.png", tmp_path / "some.zip"]
    page.locator("#files input[type=file]").set_input_files(files)
    expect(page.locator("#files a[download]")).to_have_count(len(files))
    page.get_by_role("button", name="Read all").click()
    expect(page.get_by_role("gridcell", name=re.compile("^some.zip")).first).to_be_visible()
    with page.expect_download() as download:
        page.locator("#csv").click()
    with download.value.path().open(encoding="utf-8-sig", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert "not an image" in rows.pop("bad.png")["error"]
    assert {name.rpartition("/")[2]: row["text"] for name, row in rows.items()} == {
        path.name: path.stem for path in paths
    }
    assert {row["sure"] for row in rows.values()} == {"yes"}


def test_the_page_says_what_the_model_reads(page):
    about = json.loads((ROOT / "demo_app" / "ocr_model" / "assets.extra" / "about.json").read_text())
    sentence = page.get_by_text("that it had never seen")
    expect(sentence).to_contain_text(about["alphabet"])
    expect(sentence).to_contain_text(f"{about['exact_match']:.1%}")


def test_an_example_runs_on_click(page):
    page.locator("button.gallery-item").first.click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


def test_what_is_not_an_image_gets_a_sentence(page):
    upload(page, {"name": "fake.png", "mimeType": "image/png", "buffer": b"not an image"})
    expect(page.get_by_text("not an image that can be read").first).to_be_visible()


def test_a_narrow_screen_needs_no_scrolling_sideways(page):
    page.set_viewport_size({"width": 375, "height": 800})
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_button_without_an_image_says_what_to_do(page):
    page.get_by_role("button", name="Read the text").click()
    expect(page.get_by_text("There is no image yet")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_axe_finds_nothing_serious(page, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.reload()
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.get_by_text("What the model saw").click()
    for tab in ("One image", "Many images", "About"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)  # until it has faded in
        serious = [
            (violation["id"], [node["html"][:200] for node in violation["nodes"]])
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == [], tab


def test_the_keyboard_alone_reads_an_example(page):
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('gallery-item')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


def test_no_request_leaves_the_machine(browser, shipped_app):
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(shipped_app)
    page.get_by_role("button", name="Read the text").wait_for()
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.wait_for_timeout(1000)
    page.close()
    assert asked and [url for url in asked if not url.startswith((shipped_app, "data:", "blob:"))] == []
