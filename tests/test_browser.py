"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import csv
import io
import json
import re
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager

import app
import httpx
import ocr
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from runs import ROOT, free_port
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Route

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; install it to run browser tests")
expect.set_options(timeout=20_000)
EXAMPLE = sorted((ROOT / "demo_app" / "Examples").iterdir())[0]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet + camera)
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, **options):
    page = browser.new_page(permissions=["clipboard-read", "clipboard-write"], **options)
    page.set_default_timeout(20_000)
    page.goto(address)
    page.get_by_role("button", name="Read the text").wait_for()
    yield page
    page.close()


@pytest.fixture
def page(browser, shipped_app):
    with opened(browser, shipped_app) as page:
        yield page


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
    expect(page.locator("#map svg rect").nth(len(EXAMPLE.stem) - 1)).to_be_attached()
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


def test_a_picture_from_the_camera_is_answered(page):
    """Chromium's made-up camera shows a pattern, no text."""
    page.get_by_label("Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.readyState === 4")  # frames come
    page.get_by_role("button", name="capture photo").click()
    expect(page.locator("#verdict")).to_contain_text(re.compile("Not sure|No text is seen"))


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
def test_axe_finds_nothing_serious(browser, shipped_app, scheme):
    with opened(browser, shipped_app, color_scheme=scheme) as page:
        upload(page, EXAMPLE)
        expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
        page.get_by_text("What the model saw").click()
        for tab in ("One image", "Many images", "About"):
            page.get_by_role("tab", name=tab).click()
            if tab == "Many images":
                page.locator("#files input[type=file]").set_input_files(EXAMPLE)
                page.get_by_role("button", name="Read all").click()
                expect(page.get_by_role("gridcell", name=EXAMPLE.name)).to_be_visible()
            for width in (375, 1440):
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(500)  # until it has faded in
                serious = [
                    (violation["id"], [node["html"][:200] for node in violation["nodes"]])
                    for violation in Axe().run(page).response["violations"]
                    if violation["impact"] in ("serious", "critical")
                    and violation["id"]
                    != "nested-interactive"  # gradio's button for more files holds its input
                ]
                assert serious == [], (tab, width)


def tab_to(page, script):
    """Press the tabulator until the focus is on what a script looks for."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(f"(element => {script})(document.activeElement)"):
            return
    raise AssertionError(f"the focus never came to {script}")


def test_the_keyboard_alone_reads_copies_and_opens(page):
    tab_to(page, "element.ariaLabel === 'Example 1'")
    page.keyboard.press("Enter")
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.get_by_role("tab", name="One image").focus()
    tab_to(page, "element.textContent.trim() === 'Read the text'")
    page.keyboard.press("Enter")
    tab_to(page, "element.closest('#text') && element.tagName === 'BUTTON'")
    page.keyboard.press("Enter")
    page.wait_for_function(f"navigator.clipboard.readText().then(text => text === '{EXAMPLE.stem}')")
    tab_to(page, "element.textContent.includes('What the model saw')")
    page.keyboard.press("Enter")
    expect(page.locator("#map svg[role=img]")).to_be_visible()


def test_a_screen_reader_hears_what_changes(page, tmp_path):
    """An announced part stays the same element, and its texts come in beside its attribute."""
    regions = {"#verdict": "Sure", "#status": "1 sure, 0 not sure, 1 errors"}
    page.locator("#verdict[aria-live=polite]").wait_for(state="attached")
    page.evaluate("window.verdict = document.querySelector('#verdict')")
    upload(page, EXAMPLE)
    expect(page.locator("#verdict")).to_contain_text(regions["#verdict"])
    assert page.evaluate("window.verdict === document.querySelector('#verdict')")
    page.get_by_role("tab", name="Many images").click()
    page.locator("#status[aria-live=polite]").wait_for(state="attached")
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.locator("#files input[type=file]").set_input_files([EXAMPLE, tmp_path / "bad.png"])
    expect(page.locator("#files a[download]")).to_have_count(2)
    page.get_by_role("button", name="Read all").click()
    expect(page.locator("#status")).to_contain_text(regions["#status"])
    for region in regions:
        assert page.locator(region).get_attribute("aria-live") == "polite"


@contextmanager
def proxy(address, prefix):
    """A reverse proxy that strips a prefix, as nginx does; it passes answers on while they come."""
    client = httpx.AsyncClient(base_url=address, timeout=60)

    async def forward(request):
        target = request.scope["raw_path"].decode().removeprefix(prefix) + "?" + request.url.query
        # The host's name goes along: it is the address that the browser sees.
        asked = client.build_request(
            request.method, target, headers=request.headers.raw, content=request.stream()
        )
        answer = await client.send(asked, stream=True)
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers, background=close)

    route = Route(f"{prefix}/{{path:path}}", forward, methods=["GET", "POST"])
    config = uvicorn.Config(Starlette(routes=[route]), port=free_port(), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{config.port}{prefix}/"
    server.should_exit = server.force_exit = True
    thread.join()


def test_the_page_works_behind_a_proxy_under_a_sub_path(browser, monkeypatch):
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/ocr")
    port = free_port()
    served = app.launch(ocr.Recognizer(), prevent_thread_lock=True, quiet=True, server_port=port)
    with proxy(f"http://127.0.0.1:{port}", "/ocr") as outside:
        page, failed = browser.new_page(), []

        def note(request):
            if request.failure != "net::ERR_ABORTED":  # the page itself closes a stream that it has read
                failed.append(request.url)

        page.on("requestfailed", note)
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(outside)
        page.get_by_role("button", name="Read the text").wait_for()
        upload(page, EXAMPLE)
        expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
        page.get_by_label("Example 2").click()
        expect(page.locator("#text textarea")).not_to_have_value(EXAMPLE.stem)
        assert failed == []
        page.close()
    served.close()


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
