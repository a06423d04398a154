"""The API over plain HTTP: each route, each refusal, what describes it, and the snippets on the page."""

import io
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import anyio
import api
import app
import folders
import httpx
import limits
import ocr
import patches
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from runs import ROOT, free_port

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
EXAMPLE = EXAMPLES[0]
CONTENT = EXAMPLE.read_bytes()
CHROMIUM = shutil.which("chromium")
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
DAMAGED_FORMS = {
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}),
    "long boundary": (b"x", {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}),
    "no parts": (b"x", FORM),
    "no end": (b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx', FORM),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", FORM),
    "long header": (b"--b\r\nX: " + b"x" * 20_000 + b"\r\n\r\nx\r\n--b--\r\n", FORM),
    "empty": (b"", FORM),
}


@pytest.fixture(scope="module")
def client(shipped_app):
    with httpx.Client(base_url=shipped_app, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


def pack(*paths):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in paths:
            archive.write(path, f"folder/{path.name}")
    return file.getvalue()


def refusal(answer):
    """The status of a refusal, whose body is one sentence."""
    (error,) = answer.json().values()
    assert answer.json().keys() == {"error"} and re.fullmatch(r"[A-Z].+[^.]\.", error), answer.text
    return answer.status_code


@pytest.mark.parametrize("kind", ["none", "image/png", "image/x-unknown", "application/json", "form"])
def test_one_image_is_one_plain_request(client, recognizer, kind):
    headers = {} if kind == "none" else {"Content-Type": kind}
    body = {"files": {"image": CONTENT}} if kind == "form" else {"content": CONTENT, "headers": headers}
    answer = client.post("/read", **body)
    assert answer.status_code == 200, answer.text
    content, expected = answer.json(), recognizer.read(CONTENT)
    assert content.keys() == {"text", "confidence", "fits", "sure", "characters", "alternatives"}
    assert content["text"] == EXAMPLE.stem and content["sure"] is True and content["alternatives"] == []
    assert content["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    for part, character in zip(content["characters"], expected.characters, strict=True):
        assert part.keys() == {"text", "confidence", "left", "right", "line"}
        assert [part["text"], part["left"], part["right"]] == [
            character.text,
            character.left,
            character.right,
        ]
        assert part["confidence"] == pytest.approx(character.confidence, abs=1e-4)


def test_a_format_that_is_known_helps_and_a_bad_one_is_the_client_s_mistake(client):
    first = EXAMPLE.stem[0]
    answer = client.post("/read", content=CONTENT, params={"pattern": f"[^{first}].{{4}}"}).json()
    assert answer["text"][0] != first and len(answer["text"]) == 5
    answer = client.post("/read", content=CONTENT, params={"alphabet": EXAMPLE.stem}).json()
    assert answer["text"] == EXAMPLE.stem and answer["sure"] and answer["fits"]
    form = {"files": {"image": CONTENT}, "data": {"pattern": "###"}}
    answer = client.post("/read", **form).json()
    assert answer["text"] == EXAMPLE.stem and not answer["sure"] and not answer["fits"]
    files = [("images", EXAMPLE.open("rb"))]
    (row,) = client.post("/read_many", files=files, params={"pattern": "###"}).json()
    assert row["text"] == EXAMPLE.stem and row["sure"] is False
    for pattern in ("(a+)+", "[a"):
        assert refusal(client.post("/read", content=CONTENT, params={"pattern": pattern})) == 422
        files = [("images", EXAMPLE.open("rb"))]
        assert refusal(client.post("/read_many", files=files, params={"pattern": pattern})) == 422


def test_alternatives_are_searched_for_where_the_text_is_unsure_or_on_demand(client, recognizer):
    asked = client.post("/read?alternatives=true", content=CONTENT).json()["alternatives"]
    texts = recognizer.alternatives(recognizer.read(CONTENT))
    assert [part["text"] for part in asked] == [text for text, _ in texts] and asked[0][
        "text"
    ] == EXAMPLE.stem
    assert [part["confidence"] for part in asked] == pytest.approx([share for _, share in texts], abs=1e-4)
    image = io.BytesIO()
    Image.open(EXAMPLE).crop((0, 0, 80, 50)).save(image, "PNG")
    unsure = client.post("/read", content=image.getvalue()).json()
    assert unsure["sure"] is False and unsure["alternatives"]
    assert client.post("/read?alternatives=false", content=image.getvalue()).json()["alternatives"] == []


def test_many_images_are_one_plain_request(client):
    files = [
        ("é&/ü.png", CONTENT),
        ("many.ZIP", pack(*EXAMPLES[:2])),
        ("é&/ü.png", b"no image"),
        ("b.zip", b""),
    ]
    rows = client.post("/read_many", files=[("images", file) for file in files]).json()
    assert [row.pop("file") for row in rows] == [
        "é&/ü.png",
        *(f"many.ZIP/folder/{path.name}" for path in EXAMPLES[:2]),
        "é&/ü.png",
        "b.zip",
    ]
    texts = [EXAMPLE.stem, EXAMPLES[0].stem, EXAMPLES[1].stem]
    for row, text in zip(rows[:3], texts, strict=True):
        assert row.pop("confidence") > 0.9
        assert row == {"text": text, "sure": True, "fits": True, "error": None}
    for row in rows[3:]:
        assert re.match("This file is not an image|The archive can't be unpacked", row.pop("error"))
        assert row == {"text": None, "confidence": None, "sure": None, "fits": None}


def test_health_and_the_model(client, recognizer):
    assert client.get("/health").json() == {"status": "ok"}
    about = {name: value for name, value in recognizer.about.items() if name not in ("shape", "date")}
    assert client.get("/model").json() == about | {"version": recognizer.about["date"]}


def test_openapi_describes_these_routes_and_no_others(client):
    answer = client.get("/openapi.json")
    content = answer.json()
    methods = {path: list(route) for path, route in content["paths"].items()}
    get, post = ["get"], ["post"]
    assert methods == {"/read": post, "/read_many": post, "/health": get, "/model": get, "/openapi.json": get}
    assert content["info"]["title"] == "CustomOCR"
    assert urljoin("http://a/b/openapi.json", content["servers"][0]["url"]) == "http://a/b/"
    schemas = content["components"]["schemas"]
    assert schemas["Refusal"]["properties"].keys() == {"error"} and "HTTPValidationError" not in schemas
    for path, operation in (("/read", "Answer"), ("/model", "Model"), ("/health", "Health")):
        (route,) = content["paths"][path].values()
        schema = route["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{operation}"}
    body = content["paths"]["/read"]["post"]["requestBody"]["content"]
    assert body.keys() == {"multipart/form-data", "image/*"}


@pytest.mark.parametrize("content", [b"no image", CONTENT[:100], b"{}", CONTENT[:-2000]], ids=len)
def test_a_bad_image_is_the_client_s_mistake(client, content):
    assert refusal(client.post("/read", content=content)) == 422
    assert refusal(client.post("/read", files={"image": content})) == 422


@pytest.mark.parametrize("path", ["/read", "/read_many"])
@pytest.mark.parametrize(("content", "headers"), DAMAGED_FORMS.values(), ids=DAMAGED_FORMS)
def test_a_damaged_form_is_the_client_s_mistake(client, path, content, headers):
    assert refusal(client.post(path, content=content, headers=headers)) == 400


def test_a_request_without_an_image_is_refused(client):
    many = [("image", CONTENT)] * 2
    for body in ({}, {"files": {"other": CONTENT}}, {"files": {"image": (None, "text")}}, {"files": many}):
        assert refusal(client.post("/read", **body)) == 400
    for body in (
        {},
        {"content": CONTENT},
        {"files": {"image": CONTENT}},
        {"files": {"images": (None, "text")}},
    ):
        assert refusal(client.post("/read_many", **body)) == 400
    assert refusal(client.post("/read?alternatives=perhaps", content=CONTENT)) == 422


def test_what_is_too_large_is_refused(client):
    large = bytes(folders.MAX_FILE_BYTES + 1)
    assert refusal(client.post("/read", content=large)) == 413
    assert refusal(client.post("/read_many", files={"images": large})) == 413
    assert refusal(client.post("/read", content=large[:-1])) == 422  # it is no image


def test_wrong_methods_and_paths_are_refused(client):
    for path, allowed in (("/read", "POST"), ("/read_many", "POST"), ("/health", "GET"), ("/model", "GET")):
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - {allowed}:
            answer = client.request(method, path)
            assert refusal(answer) == 405 and answer.headers["Allow"] == allowed
    for path in ("/read/", "/reads", "/docs", "/redoc", "/health/", "/model/x"):
        assert refusal(client.get(path)) == 404


class Slow(ocr.Recognizer):
    """Reads where it may go on, and counts what it reads at once."""

    def __init__(self):
        super().__init__()
        self.go_on, self.calls = threading.Event(), []

    def read(self, image, form=None):
        assert self.go_on.wait(60)
        self.calls.append(1)
        return super().read(image)

    def read_each(self, images, form=None):
        assert self.go_on.wait(60)
        readings = list(super().read_each(images))
        self.calls.append(len(readings))
        yield from readings


@pytest.fixture
def slow():
    """An app in this process whose readers wait: its client and its recognizer."""
    recognizer = Slow()
    recognizer.go_on.set()  # the page is built with a reading
    page = app.launch(recognizer, prevent_thread_lock=True, quiet=True, server_port=free_port())
    recognizer.go_on.clear()
    recognizer.calls.clear()
    with httpx.Client(base_url=page.local_url, timeout=60, limits=httpx.Limits()) as client:
        yield client, recognizer
    recognizer.go_on.set()
    patches.stop(page)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_images_of_several_requests_are_read_together_and_each_gets_its_own(slow):
    client, recognizer = slow
    contents = [path.read_bytes() for path in EXAMPLES] + [b"no image"]
    most = limits.READERS + limits.MAX_WAITING
    with ThreadPoolExecutor(most + 10) as pool:
        asked = [contents[number % len(contents)] for number in range(most + 10)]
        answers = [pool.submit(client.post, "/read", content=content) for content in asked]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 10)
        recognizer.go_on.set()
    answers = [answer.result() for answer in answers]
    busy = [answer.json() for answer in answers if answer.status_code == 503]
    assert busy == [{"error": limits.BUSY}] * 10
    for content, answer in zip(asked, answers, strict=True):
        if answer.status_code == 200:
            assert answer.json()["text"] == EXAMPLES[contents.index(content)].stem
        elif answer.status_code != 503:
            assert refusal(answer) == 422 and content == b"no image"
    assert max(recognizer.calls) > 5 and max(recognizer.calls) <= api.BATCH


def test_requests_with_many_images_are_limited(slow):
    client, recognizer = slow
    with ThreadPoolExecutor(4) as pool:
        files = {"images": ("a.png", CONTENT)}
        answers = [pool.submit(client.post, "/read_many", files=files) for _ in range(4)]
        wait_until(lambda: sum(answer.done() for answer in answers) == 2)
        recognizer.go_on.set()
    assert sorted(answer.result().status_code for answer in answers) == [200, 200, 503, 503]
    assert client.post("/read_many", files=files).json()[0]["text"] == EXAMPLE.stem
    assert not list(patches.prepare_gradio().folder.glob("*/tmp*"))  # what came is deleted


def test_no_image_waits_for_ever_where_the_model_fails_or_the_machine_is_slow(monkeypatch):
    class Broken(ocr.Recognizer):
        def __init__(self):
            pass

        def read_each(self, images, form=None):
            raise RuntimeError(f"{len(list(images))}")

        def read(self, image, form=None):
            raise RuntimeError("1")

    async def ask(batches, results):
        try:
            await batches.read(CONTENT)
        except RuntimeError as error:
            results.append(int(str(error)))

    async def ask_together():
        batches, results = api.Batches(Broken(), anyio.CapacityLimiter(1)), []
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(ask, batches, results)
        return results

    assert len(anyio.run(ask_together)) == 20
    monkeypatch.setattr(api, "BATCH_SECONDS", -1)
    assert anyio.run(ask_together) == [1] * 20


SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", api.SNIPPETS, re.DOTALL)
COMMANDS = {
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
    "bash": ["bash", "-c"],
}


@pytest.mark.parametrize(("language", "code"), SNIPPETS, ids=[language for language, _ in SNIPPETS])
def test_each_snippet_runs_as_it_stands(shipped_app, tmp_path, language, code):
    command = COMMANDS[language]
    for program in (command[0], code.split()[0]):
        if program in ("node", "bash", "curl") and not shutil.which(program):
            pytest.skip(f"no {program} here; install it to run the snippet")
    shutil.copy(EXAMPLE, tmp_path / "image.png")
    (tmp_path / "many.zip").write_bytes(pack(*EXAMPLES))
    command = [*command, code.replace(api.ADDRESS, shipped_app)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    many = "read_many" in code
    for text in [path.stem for path in EXAMPLES] if many else [EXAMPLE.stem]:
        assert re.search(rf"text['\"]?: ?['\"]{text}['\"]", done.stdout), done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; install it to run browser tests")
def test_the_page_prints_each_snippet_with_its_own_address_and_no_others(shipped_app):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(shipped_app)
        page.get_by_role("tab", name="API").click()
        shown = page.locator("#api pre code")
        page.wait_for_function(
            "address => document.querySelector('#api')?.innerText.includes(address)", arg=shipped_app
        )
        printed = [part.inner_text() for part in shown.all()]
        assert (
            page.get_by_text("Use via API").count() == 0
        )  # gradio's own pass addresses, which the app refuses
        browser.close()
    assert printed == [code.replace(api.ADDRESS, shipped_app) for _, code in SNIPPETS]
