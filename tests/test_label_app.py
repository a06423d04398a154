"""The labelling page in a real browser, and its two routes."""

import csv
import json
import os
import random
import re
import shutil
import sys
import zipfile
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from runs import ARCHIVE, ROOT, free_port, running

from label_app.answers import LabelFile
from label_app.app import work_of

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; install it to run browser tests"
)
expect.set_options(timeout=20_000)
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
WORQHAT = ARCHIVE.with_name("worqhat-72x24.zip")
START = ROOT / "training" / "start"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def images(tmp_path):
    """A folder of images that the shipped model reads, one that it can't, and the true labels."""
    folder = tmp_path / "my images"
    folder.mkdir()
    truth = {}
    for number, path in enumerate(EXAMPLES):
        name = f'{number}, "ב".png'
        shutil.copy(path, folder / name)
        truth[name] = path.stem
    one, other = (Image.open(path).convert("L") for path in EXAMPLES[:2])
    Image.blend(one, other, 0.5).save(folder / "blend.png")
    return folder, truth | {"blend.png": "blend"}


@contextmanager
def labelling(folder, *words):
    port = free_port()
    command = [sys.executable, "-m", "label_app.app", str(folder), *words]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    try:
        with running(command, port, folder.parent / "page.log", cwd=ROOT, env=environment):
            yield f"http://127.0.0.1:{port}"
    finally:
        shutil.rmtree(work_of(folder.resolve()), ignore_errors=True)


@pytest.fixture
def address(images):
    with labelling(images[0], "--model", str(ROOT / "demo_app")) as address:
        yield address


@contextmanager
def opened(browser, address, **options):
    page = browser.new_page(**options)
    page.set_default_timeout(20_000)
    page.goto(address)
    expect(page.locator("#stage img")).to_be_visible()
    yield page
    page.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


def name_of(page):
    """The name of the image that is shown."""
    return page.evaluate("decodeURIComponent(document.querySelector('#stage img').src.split('name=')[1])")


def shown(page):
    """The same, once its guess is there."""
    expect(page.locator("#text")).to_have_value(re.compile("."))
    return name_of(page)


def wait_for_next(page, name):
    script = "name => !document.querySelector('#stage img')?.src.endsWith('=' + encodeURIComponent(name))"
    page.wait_for_function(script, arg=name, polling=5)


def rows(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(row[:2]) for row in list(csv.reader(file))[1:]]


@needs_browser
def test_a_session_needs_no_mouse(page, images):
    folder, truth = images
    name = shown(page)
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type('שלום, "x"')
    page.keyboard.press("Enter")
    wait_for_next(page, name)
    expected = [(name, 'שלום, "x"')]
    assert rows(folder) == expected
    second = shown(page)
    page.keyboard.press("Escape")
    wait_for_next(page, second)
    skipped = shown(page)
    page.keyboard.press("ArrowDown")
    wait_for_next(page, skipped)
    page.keyboard.press("ArrowUp")
    assert name_of(page) == second
    page.keyboard.press("ArrowUp")
    expect(page.locator("#text")).to_have_value('שלום, "x"')
    page.keyboard.press("Control+a")
    page.keyboard.type(truth[name])
    page.keyboard.press("Enter")
    wait_for_next(page, name)
    expected += [(second, ""), (name, truth[name])]
    assert rows(folder) == expected
    for expected_name in (name, second):
        page.keyboard.press("ArrowUp")
        assert name_of(page) == expected_name
    page.keyboard.press("ArrowDown")
    for _ in range(len(truth) - 3):
        name = shown(page)
        assert name != skipped
        guess = page.input_value("#text")
        page.keyboard.press("Enter")
        wait_for_next(page, name)
        expected.append((name, guess))
    assert shown(page) == skipped and rows(folder) == expected
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Every image has a label.")
    right = sum(truth[name] == text for name, text in expected[3:])
    assert right >= len(truth) - 5
    expect(page.locator("#numbers")).to_contain_text(f"{len(truth)} of {len(truth)} images have a label")


@needs_browser
def test_keys_while_an_answer_is_on_its_way_wait_for_it(page, images):
    folder, first = images[0], shown(page)
    page.keyboard.press("Enter")
    wait_for_next(page, first)
    second, guess, held = shown(page), page.input_value("#text"), []
    page.route("**/label/next", lambda route: held.append(route))
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    assert name_of(page) == second
    for route in held:
        route.continue_()
    page.unroute("**/label/next")
    wait_for_next(page, second)
    page.keyboard.press("ArrowUp")
    assert name_of(page) == second and page.input_value("#text") == guess
    assert [name for name, _ in rows(folder)] == [first, second]


@needs_browser
def test_doubtful_characters_are_marked_in_the_image_and_in_the_field(page):
    for _ in range(50):  # more than there are
        if (name := shown(page)) == "blend.png":
            break
        page.keyboard.press("ArrowDown")
        wait_for_next(page, name)
    marks, boxes = page.locator("#under mark"), page.locator("#stage div")
    assert marks.count() == boxes.count() > 0
    stage = page.locator("#stage img").bounding_box()
    for box in boxes.all():
        place = box.bounding_box()
        assert stage["x"] - 1 <= place["x"] <= stage["x"] + stage["width"]
    selected = page.evaluate(
        "getSelection().toString() || document.activeElement.value.slice("
        "document.activeElement.selectionStart, document.activeElement.selectionEnd)"
    )
    assert selected in (page.input_value("#text"), marks.first.text_content())
    page.keyboard.press("End")
    page.keyboard.type("x")
    expect(marks).to_have_count(0)


@needs_browser
def test_an_answer_that_is_not_saved_stays_on_the_page(browser, images):
    folder, _ = images
    with ExitStack() as server:
        address = server.enter_context(labelling(folder, "--model", str(ROOT / "demo_app")))
        with opened(browser, address) as page:
            name = shown(page)
            (folder / "labels.csv").mkdir()
            page.keyboard.type("typed")
            page.keyboard.press("Enter")
            expect(page.locator("#said")).to_contain_text("Your answer was not saved")
            (folder / "labels.csv").rmdir()
            server.close()
            page.keyboard.press("Enter")
            expect(page.locator("#said")).to_contain_text(
                "Your answer was not saved: the server has stopped."
            )
            assert page.input_value("#text").endswith("typed") and shown(page) == name
    file = LabelFile(folder)  # the lock is free again
    assert file.load() is None
    file.lock.release()


@needs_browser
def test_two_windows_take_turns(browser, address, images):
    folder, _ = images
    with opened(browser, address) as one, opened(browser, address) as other:
        name = shown(one)
        assert shown(other) == name
        one.keyboard.press("Enter")
        wait_for_next(one, name)
        wait_for_next(other, name)  # by itself
        second = shown(other)
        other.keyboard.press("Enter")
        wait_for_next(other, second)
        assert [row[0] for row in rows(folder)] == [name, second]


@needs_browser
def test_labels_that_exist_are_checked_from_the_most_doubtful_on(browser, images):
    folder, truth = images
    (folder / "blend.png").unlink()
    wrong = next(iter(truth))
    with (folder / "gt.csv").open("w", encoding="utf-8", newline="") as file:
        listed = truth | {wrong: truth[wrong][:-1] + "?"}
        csv.writer(file).writerows([("filename", "label"), *listed.items()])
    with labelling(folder, "--model", str(ROOT / "demo_app")) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#said")).to_have_text("Every image has a label.")
        page.get_by_label("Check labels").click()
        assert shown(page) == wrong and page.input_value("#text") == listed[wrong]
        expect(page.locator("#hint")).to_have_text(f"The model reads {truth[wrong]}.")
        page.keyboard.type(truth[wrong][-1])  # over what differs, which is selected
        page.keyboard.press("Enter")
        wait_for_next(page, wrong)
        assert (wrong, truth[wrong]) in rows(folder) and (wrong, listed[wrong]) not in rows(folder)
        expect(page.locator("#hint")).to_have_text("The model reads the same.")
        page.close()


@needs_browser
def test_a_phone_shows_image_field_and_buttons_above_its_keyboard(browser, address, images):
    options = {"viewport": {"width": 375, "height": 720}, "has_touch": True, "is_mobile": True}
    with opened(browser, address, **options) as page:
        name = shown(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        for button in page.locator("#keys button").all():
            place = button.bounding_box()
            assert place["height"] >= 44 and place["y"] + place["height"] <= 430
        page.locator("#accept").tap()
        wait_for_next(page, name)
        expect(page.locator("#text")).to_be_focused()


@needs_browser
def test_a_phone_shows_the_whole_of_a_tall_image(browser, images):
    for path in images[0].iterdir():
        Image.open(path).resize((200, 200)).save(path)
    options = {"viewport": {"width": 375, "height": 720}, "has_touch": True, "is_mobile": True}
    with (
        labelling(images[0], "--model", str(ROOT / "demo_app")) as address,
        opened(browser, address, **options) as page,
    ):
        expect(page.locator("#stage")).to_have_css("--ratio", "1")
        image, stage = (page.locator(part).bounding_box() for part in ("#stage img", "#stage"))
        assert image["height"] <= stage["height"] + 1 and image["height"] == pytest.approx(216, abs=2)


@needs_browser
def test_a_key_that_is_held_answers_one_image(page, images):
    name = shown(page)
    for _ in range(4):  # all but the first are repetitions
        page.keyboard.down("Enter")
    wait_for_next(page, name)
    page.wait_for_timeout(500)
    for key in ("Escape", "ArrowDown"):
        page.keyboard.up("Enter")
        name = shown(page)
        for _ in range(4):
            page.keyboard.down(key)
        wait_for_next(page, name)
        page.wait_for_timeout(500)
        page.keyboard.up(key)
    assert len(rows(images[0])) == 2


@needs_browser
def test_the_focus_stays_where_the_person_works(page):
    shown(page)
    page.locator("#stage img").click()
    expect(page.locator("#text")).to_be_focused()
    number = page.get_by_label("Train after this many new labels")
    number.fill("30")
    number.press("Tab")
    number.focus()
    page.wait_for_timeout(2500)  # longer than from one look to the next
    expect(number).to_be_focused()
    page.reload()
    expect(page.get_by_label("Train after this many new labels")).to_have_value("30")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_no_request_leaves_the_machine(browser, address, scheme):
    page, errors, asked = browser.new_page(color_scheme=scheme), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    name = shown(page)
    page.keyboard.press("Enter")
    wait_for_next(page, name)
    page.get_by_role("button", name="Train the model").press("Enter")
    expect(page.locator("#outcome")).to_contain_text("Label at least 10 images")
    page.get_by_role("button", name="How to publish it").press("Enter")
    expect(page.locator("#outcome")).to_contain_text("No model has been trained")
    for width in (375, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        found = Axe().run(page).response["violations"]
        serious = [
            (violation["id"], [node["html"][:200] for node in violation["nodes"]])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []
    assert errors == [] and [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


def test_only_the_page_itself_may_ask(images):
    with labelling(images[0], "--model", str(ROOT / "demo_app")) as address:
        own = {"folder": work_of(images[0].resolve()).name[-8:]}
        turn = own | {"mode": "label", "answer": None}
        items = httpx.post(f"{address}/label/next", json=turn).json()["items"]
        image = httpx.get(f"{address}/label/image", params=own | {"name": items[0]["name"]})
        assert image.headers["content-type"] == "image/png" and image.content.startswith(b"\x89PNG")
        for name in ("../page.log", "/etc/passwd", "labels.csv"):
            assert httpx.get(f"{address}/label/image", params=own | {"name": name}).status_code == 404
        plain = {"content": json.dumps(turn), "headers": {"Content-Type": "text/plain"}}
        assert httpx.post(f"{address}/label/next", **plain).status_code == 422
        other = httpx.post(f"{address}/label/next", json=turn, headers={"Host": "example.org"})
        assert other.status_code == 400
        for method, path, options in (
            ("POST", "next", {"json": turn | {"folder": "other"}}),
            ("GET", "image", {"params": {"folder": "other", "name": items[0]["name"]}}),
        ):
            refused = httpx.request(method, f"{address}/label/{path}", **options)
            assert refused.status_code == 507 and "another folder's images" in refused.json()["error"]
        answer = {"name": "other.png", "text": "x", "guess": None}
        refused = httpx.post(f"{address}/label/next", json=turn | {"answer": answer})
        assert refused.status_code == 507 and "There is no image other.png" in refused.json()["error"]


@needs_browser
@pytest.mark.slow
@pytest.mark.skipif(not WORQHAT.exists(), reason="the shared archive is not here")
@pytest.mark.skipif(not (START / "ocr_model").exists(), reason="there is no training/start to guess first")
def test_a_person_comes_from_images_without_labels_to_a_reader_that_is_served(browser, tmp_path):
    """With 3% of slips: the wrong letter, accepted as it is."""
    folder, truth, chance = tmp_path / "worqhat", {}, random.Random(0)
    folder.mkdir()
    with zipfile.ZipFile(WORQHAT) as archive:
        for number, member in enumerate(archive.namelist()):
            truth[f"{number}.png"] = member.rpartition("/")[2].removesuffix(".png")
            (folder / f"{number}.png").write_bytes(archive.read(member))

    def label(page, count):
        for _ in range(count):
            name = name_of(page)
            text = truth[name]
            if chance.random() < 0.03:
                text = chance.choice("23456789") + text[1:]
            if text != page.input_value("#text"):
                page.keyboard.press("Control+a")
                page.keyboard.type(text)
            page.keyboard.press("Enter")
            wait_for_next(page, name)

    with labelling(folder) as address, opened(browser, address) as page:
        label(page, 150)
        page.get_by_role("button", name="Train the model").press("Enter")
        expect(page.locator("#numbers")).to_contain_text("Epoch", timeout=300_000)
        label(page, 20)
        expect(page.locator("#numbers")).to_contain_text("The new model is now in use", timeout=900_000)
        expect(page.locator("#numbers")).not_to_contain_text("read so far", timeout=60_000)
        page.get_by_role("button", name="Accept all sure guesses").press("Enter")
        expect(page.locator("#outcome")).to_contain_text("readings are now labels")
        page.get_by_role("button", name="Try the model").press("Enter")
        expect(page.locator("#outcome a")).to_have_count(1, timeout=60_000)
        reader = page.locator("#outcome a").get_attribute("href")
        taken = dict(rows(folder))
        others = [name for name in truth if name not in taken][:50] or list(truth)[:50]
        read = [
            httpx.post(f"{reader}/read", content=(folder / name).read_bytes()).json()["text"]
            for name in others
        ]
        right = sum(text == truth[name] for name, text in zip(others, read, strict=True))
        assert right >= 0.7 * len(others)
        assert sum(taken[name] == truth[name] for name in taken) >= 0.9 * len(taken)
        page.get_by_role("button", name="How to publish it").press("Enter")
        expect(page.locator("#outcome")).to_contain_text("--repo-type space")
