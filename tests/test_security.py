"""What must not get in: files that are not as they were exported, and what a client of the app may try."""

import contextlib
import http.client
import inspect
import io
import json
import os
import pickle
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import anyio
import api
import app
import gradio
import httpx
import limits
import numpy as np
import ocr
import patches
import pytest
import uploads
from gradio import processing_utils, route_utils, routes
from runs import ROOT, free_port, serve
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware

EXAMPLE = sorted((ROOT / "demo_app" / "Examples").iterdir())[0]
EXPORTED = [*ocr.describe_files(ROOT / "demo_app"), ocr.MANIFEST.as_posix()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the app, and the working directory beside it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(ROOT / "demo_app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))


def write_manifest(folder):
    (folder / ocr.MANIFEST).write_text(json.dumps(ocr.describe_files(folder)))


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("fault", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_refused_by_its_name_before_it_is_used(folder, monkeypatch, name, fault):
    monkeypatch.setattr(ocr, "load_network", None)
    monkeypatch.setattr(ocr, "_load_pickle", None)
    path = folder / name
    data = bytearray(path.read_bytes())
    if fault == "flipped":
        # Of the manifest, one of the digits that say what a file is.
        data[data.index(b'"sha256": "') + 20 if name == ocr.MANIFEST.as_posix() else len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if fault == "cut" else data)
    if fault == "missing":
        path.unlink()
    named = "|".join(EXPORTED) if name == ocr.MANIFEST.as_posix() else name
    with pytest.raises(ocr.ModelError, match=rf"({named}) (is|does|has).*Export or copy the model again"):
        ocr.Recognizer(folder)


def test_hidden_files_are_let_be_and_others_are_refused(folder):
    (folder / "ocr_model" / ".DS_Store").write_bytes(b"of a desktop")
    ocr.Recognizer(folder)
    (folder / "ocr_model" / "other.pb").write_bytes(b"")
    with pytest.raises(ocr.ModelError, match=r"other\.pb does not belong"):
        ocr.Recognizer(folder)


def test_a_model_that_is_exchanged_while_it_is_loaded_is_refused(folder, monkeypatch):
    load = ocr.load_network

    def exchange(*arguments):
        (folder / "num_to_char").write_bytes(b"new")
        return load(*arguments)

    monkeypatch.setattr(ocr, "load_network", exchange)
    with pytest.raises(ocr.ModelError, match="was replaced while"):
        ocr.Recognizer(folder)


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


class Elsewhere(pickle.Pickler):
    def persistent_id(self, value):
        return "outside" if value == 1 else None


def persistent(protocol):
    file = io.BytesIO()
    Elsewhere(file, protocol).dump({"a": 1})
    return file.getvalue()


LOOP = {}
LOOP["a"] = LOOP
NESTED = b"\x80\x04" + b"}K\x01" * 300_000 + b"K\x02" + b"s" * 300_000 + b"."
DOUBLED = b"\x80\x04}(K\x01K\x01\x85" + b"\x94h\x00h\x00\x86" * 60 + b"u."  # a key of 2**60 parts
PICKLES = {
    "code": pickle.dumps(Attack()),
    "old code": pickle.dumps(Attack(), 0),
    "numpy's": pickle.dumps({np.str_("a"): np.int64(1)}),
    "persistent": persistent(4),
    "old persistent": persistent(0),
    "loop": pickle.dumps(LOOP, 4),
    "nested": NESTED,
    "doubled": DOUBLED,
    "memo": b"\x80\x04}r\xff\xff\xff\x7f.",  # which makes room for 4 billion pointers
    "bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # 1 TB
    "long text": b"\x80\x04}X\xff\xff\xff\xffa.",
    "long number": b"\x80\x04}K\x01\x8b\xff\xff\xff\x7f.",
    "long frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.",
    "repeated": pickle.dumps({"a": "b" * 900_000, "c": ["d"] * 90_000}),
    "digits": b"I" + b"9" * 900_000 + b"\n.",
    "list": pickle.dumps([1, 2], 4),
    "number": pickle.dumps(1, 4),
    "empty": b"",
    "no pickle": b"\x80" * 1000,
    "too large": pickle.dumps({"a" * 1_000_000: 1}, 4),
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("name", ["char_to_num", "num_to_char"])
def test_a_pickle_of_more_than_characters_and_numbers_is_refused(folder, monkeypatch, name, content):
    monkeypatch.setattr(ocr, "load_network", None)
    (folder / name).write_bytes(content)
    write_manifest(folder)
    with pytest.raises(ocr.ModelError, match="Export"):
        ocr.Recognizer(folder)
    assert not (folder.parent / "attacked").exists()


@pytest.mark.parametrize(
    ("char_to_num", "num_to_char", "words"),
    [
        (None, {1: "a", "x": "b"}, "don't belong together"),
        ({"a": 1}, None, "don't belong together"),
        ({2: 1}, {1: 2}, "don't belong together"),
        ({"a": 1, "b": 2}, {1: "a", 2: "b"}, "20 classes"),
        ({"a": 1, "b": "x"}, {1: "a", "x": "b"}, "20 classes"),
    ],
)
def test_pickles_of_another_model_are_refused(folder, char_to_num, num_to_char, words):
    for name, mapping in (("char_to_num", char_to_num), ("num_to_char", num_to_char)):
        if mapping:
            (folder / name).write_bytes(pickle.dumps(mapping, 4))
    write_manifest(folder)
    with pytest.raises(ocr.ModelError, match=words):
        ocr.Recognizer(folder)


def test_a_model_that_says_too_little_about_itself_is_refused(folder, monkeypatch):
    monkeypatch.setattr(ocr, "load_network", None)
    path = folder / "ocr_model" / "assets.extra" / "about.json"
    about = json.loads(path.read_text())
    del about["threshold"]
    about |= {"lengths": [5], "split": {"train": 1}, "cer": "0", "exact_match": 1}
    for content, named in ((about, "lengths, split, threshold, cer"), ([], "dataset, date, alphabet")):
        path.write_text(json.dumps(content))
        write_manifest(folder)
        with pytest.raises(ocr.ModelError, match=f"has no valid {named}.*Export the model again"):
            ocr.Recognizer(folder)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "assets.extra/about.json"]
)
def test_a_model_that_was_exported_broken_is_refused(folder, name):
    if name != "assets.extra/about.json":
        pytest.importorskip("tensorflow")  # nothing else opens the SavedModel
    (folder / "ocr_model" / name).write_bytes(b"short")
    write_manifest(folder)
    with pytest.raises(ocr.ModelError, match="can't be loaded"):
        ocr.Recognizer(folder)


def test_the_app_says_at_its_start_which_file_is_wrong(folder):
    (folder / "num_to_char").unlink()
    done = subprocess.run(
        [sys.executable, str(folder / "app.py")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert f"{folder / 'num_to_char'} is missing. Export or copy the model again" in last


@contextlib.contextmanager
def few_open_files():
    """A limit of 256 open files, which is the usual one on a Mac, for what is started meanwhile."""
    if sys.platform == "win32":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A running copy of the app: its address, its folder, where it keeps uploads, a client."""
    place = tmp_path_factory.mktemp("served")
    shutil.copytree(ROOT / "demo_app", place / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE, place / "secret.png")
    scratch = place / "scratch"
    scratch.mkdir()
    environment = {"TMPDIR": str(scratch), "GRADIO_SERVER_NAME": "0.0.0.0"}
    with contextlib.ExitStack() as stack:
        with few_open_files():
            address = stack.enter_context(serve(place / "app" / "app.py", place, **environment))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=60))
        (scratch,) = scratch.glob("customocr_*")
        end = time.monotonic() + 60
        while "public link" not in (place / "app.log").read_text():  # gradio's last word at its start
            assert time.monotonic() < end
            time.sleep(0.05)
        yield SimpleNamespace(address=address, folder=place, scratch=scratch, client=client, stop=stack.close)


@pytest.fixture(scope="module")
def near():
    """An app in this process that soon gives up uploads and silent connections: its page and a client.

    It reads many images where `go_on` is set.
    """
    go_on = threading.Event()

    class Patient(ocr.Recognizer):
        def read_each(self, images, form=None):
            assert go_on.wait(120)
            return super().read_each(images)

    recognizer = Patient()
    guards = {
        "middleware": [Middleware(limits.Limits, upload_seconds=2)],
        "lifespan": partial(patches.keep_house, seconds=0.5),
    }
    guards |= api.mount(recognizer, anyio.CapacityLimiter(limits.READERS))
    options = {"prevent_thread_lock": True, "quiet": True, "server_port": free_port()}
    page = app.launch(recognizer, app_kwargs=guards, **options)
    with httpx.Client(base_url=page.local_url, timeout=60) as client:
        yield SimpleNamespace(page=page, port=page.server_port, client=client, go_on=go_on)
    patches.stop(page)


def upload(served, content=None, name="image.png"):
    content = EXAMPLE.read_bytes() if content is None else content
    return served.client.post("/gradio_api/upload", files={"files": (name, content)})


def predict(served, file, **options):
    meta = {"meta": {"_type": "gradio.FileData"}}
    return served.client.post("/gradio_api/run/predict", json={"data": [meta | file]}, **options)


def read_many(served, file):
    meta = {"meta": {"_type": "gradio.FileData"}}
    called = served.client.post("/gradio_api/call/read_many", json={"data": [[meta | file]]})
    if called.status_code != 200:
        return called.text
    return served.client.get(f"/gradio_api/call/read_many/{called.json()['event_id']}").text


def reads(served):
    return predict(served, {"path": upload(served).json()[0]}).json()["data"][0]["text"] == EXAMPLE.stem


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_an_upload_can_be_read_and_fetched_by_its_path(served):
    """That the paths of the next tests are the right ones."""
    path = upload(served).json()[0]
    assert served.client.get(f"/gradio_api/file={path}").content == EXAMPLE.read_bytes()
    assert reads(served)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack 127.0.0.2")
def test_the_server_s_name_can_be_set(served):
    assert httpx.get(served.address.replace("127.0.0.1", "127.0.0.2")).status_code == 200


def test_no_file_outside_the_uploads_can_be_fetched(served):
    inside = upload(served).json()[0]
    secret = str(served.folder / "secret.png")
    up = os.path.relpath(secret, Path(inside).parent)
    wanted = [secret, f"{Path(inside).parent}/{up}", "/etc/passwd", str(served.folder / "app" / "app.py")]
    wanted += [
        "app/app.py",
        "secret.png",
        "../secret.png",
        "app/../secret.png",
        f"file://{secret}",
        "~/.bashrc",
    ]
    wanted += [
        str(served.scratch),
        str(Path(inside).parent),
        str(Path(inside).parent.parent),
        "",
        "/proc/self/environ",
    ]
    forms = [str, quote, lambda path: quote(path, safe=""), lambda path: quote(quote(path, safe=""), safe="")]
    forms += [
        lambda path: "/" + path,
        lambda path: path.replace("/", "\\"),
        lambda path: path.replace(".", "%2e"),
    ]
    routes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/"]
    host = urlsplit(served.address).netloc
    for route in routes:
        connection = http.client.HTTPConnection(host, timeout=60)  # it leaves dots and slashes as they are
        for target in {route + form(path) for path in wanted for form in forms}:
            connection.request("GET", target)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status in (400, 403, 404, 405), target
            assert b"root:" not in content and b"PNG" not in content and b"import" not in content, target
        connection.close()


def test_the_name_of_an_upload_is_no_path(served):
    before = files_below(served.folder)
    for name in ("../../evil.png", "/etc/passwd", "..\\evil.png", "e" * 3000, ".."):
        (row,) = served.client.post("/read_many", files={"images": (name, EXAMPLE.read_bytes())}).json()
        assert row["text"] == EXAMPLE.stem and row["file"] == name[-255:], name
    assert files_below(served.folder) == before


@pytest.mark.parametrize("meta", [{}, {"meta": None}, {"meta": {"_type": "other"}}, {"is_file": True}])
@pytest.mark.parametrize("read", [predict, read_many])
def test_no_file_outside_the_uploads_can_be_read(served, read, meta):
    inside = upload(served).json()[0]
    secret = served.folder / "secret.png"
    up = os.path.relpath(secret, Path(inside).parent)
    for path in (str(secret), f"{Path(inside).parent}/{up}", "secret.png", "/etc/passwd", str(EXAMPLE)):
        answer = read(served, {"path": path} | meta)
        text = answer if isinstance(answer, str) else answer.text
        assert EXAMPLE.stem not in text and "not an image" not in text and "no file" not in text, path
        assert "error" in text, path


def test_no_address_is_opened(served):
    hits = []

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(EXAMPLE.read_bytes())

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    stub = HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"):
        url = f"http://{host}:{stub.server_port}/image.png"
        for file in (
            {"path": url},
            {"path": "", "url": url},
            {"path": None, "url": url},
            {"path": "x", "url": url},
        ):
            for answer in (predict(served, file).text, read_many(served, file)):
                assert EXAMPLE.stem not in answer and "error" in answer
        for address in (url, quote(url, safe="")):
            assert served.client.get(f"/gradio_api/file={address}").status_code in (400, 403, 404)
            assert served.client.get(f"/gradio_api/proxy={address}").status_code in (400, 403, 404, 405)
    stub.shutdown()
    stub.server_close()
    assert hits == []


def test_the_functions_that_are_replaced_in_gradio_are_those_that_open_addresses():
    """Another version of gradio may call them otherwise, or open addresses elsewhere."""
    patches.prepare_gradio()
    assert processing_utils.async_ssrf_protected_download is patches._refuse_download
    assert routes.secure_url_stream_response is patches._refuse_stream
    for module, code in [
        (processing_utils, "async def async_ssrf_protected_download(url: str, cache_dir: str)"),
        (gradio.blocks, "await processing_utils.async_ssrf_protected_download("),
        (route_utils, "async def secure_url_stream_response(url: str, request: "),
        (routes, "return await secure_url_stream_response(path_or_url, request)"),
    ]:
        assert code in inspect.getsource(module)
    folder = Path(gradio.__file__).parent
    sources = {path: path.read_text("utf-8") for path in folder.rglob("*.py")}
    # The app has no audio, no run history, no workflows, and gradio does not prepare its images.
    others = {"audio.py", "history.py", "image_utils.py", "workflow_provider_shims.py"}
    opening = {
        path.name for path, text in sources.items() if re.search("async_ssrf_protected_get|safehttpx", text)
    }
    assert opening == {"processing_utils.py", "route_utils.py"} | others


@pytest.mark.parametrize(
    "origin", ["http://elsewhere.example", "null", "https://127.0.0.1.elsewhere.example"]
)
def test_pages_of_other_sites_may_not_look_at_answers(served, origin):
    path = upload(served).json()[0]
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answers = [
        predict(served, {"path": path}, headers={"Origin": origin}),
        served.client.get("/config", headers={"Origin": origin}),
        served.client.get(f"/gradio_api/file={path}", headers={"Origin": origin}),
        served.client.post("/read", content=EXAMPLE.read_bytes(), headers={"Origin": origin}),
        served.client.get("/model", headers={"Origin": origin}),
        served.client.options("/read", headers=asked),
        served.client.options("/gradio_api/run/predict", headers=asked),
        served.client.options("/gradio_api/upload", headers=asked),
    ]
    assert ["access-control-allow-origin" in answer.headers for answer in answers] == [False] * len(answers)


def test_what_is_too_large_is_refused_and_leaves_nothing(served):
    before = files_below(served.scratch)
    assert upload(served, bytes(20_000_001)).status_code == 413
    files = [("images", EXAMPLE.read_bytes()), ("images", bytes(20_000_001))]
    assert served.client.post("/read_many", files=files).status_code == 413
    address = "data:image/png;base64," + "A" * 6_000_000
    assert predict(served, {"path": "", "url": address}).status_code == 413
    assert files_below(served.scratch) == before
    assert reads(served)


def test_a_slow_upload_holds_up_nobody(served):
    before = files_below(served.scratch)
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="slow.png"\r\n\r\n'
    )
    port = urlsplit(served.address).port
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for connection in slow:
        connection.sendall(head.encode())
    for connection in slow:
        connection.sendall(b"x")
        assert connection.fileno() > 0
    assert reads(served)
    for connection in slow:
        connection.sendall(b"x")
        connection.close()
    assert reads(served)
    # Those that broke off lie where the cleaning looks for them.
    left = [path for path in files_below(served.scratch) - before if path.name != "image.png"]
    assert all(path.parent == served.scratch for path in left)


@pytest.mark.parametrize("path", ["/gradio_api/run/predict", "/read"])
def test_requests_that_never_end_take_nobody_s_place(served, path):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{"
    port = urlsplit(served.address).port
    with contextlib.ExitStack() as stack:
        for _ in range(limits.READERS + limits.MAX_WAITING + 1):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(head.encode())
        assert reads(served)


def test_what_requests_that_never_end_hold_in_memory_is_limited():
    parts = limits.MAX_BODY_BYTES // 1_000_000
    app = SimpleNamespace(get_blocks=lambda: SimpleNamespace(root_path="", share=False))
    scope = {"type": "http", "method": "POST", "headers": [], "app": app}
    clients = 2 * limits.MAX_HELD_BYTES // limits.MAX_BODY_BYTES
    read = []

    async def answer(scope, receive, send):
        read.append((await receive())["body"])
        raise ConnectionResetError

    guard, answers, body = limits.Limits(answer, body_seconds=0.5), [], bytes(1_000_000)

    async def stall():
        left = parts

        async def receive():
            nonlocal left
            left -= 1
            if left < 0:
                await anyio.sleep_forever()
            return {"type": "http.request", "body": body, "more_body": True}

        async def send(message):
            answers.append(message.get("status"))

        await guard(scope | {"path": "/gradio_api/run/predict"}, receive, send)

    async def stall_together():
        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(stall)

    async def ask(size):
        async def receive():
            return {"type": "http.request", "body": b'{"data": []}'.ljust(size), "more_body": False}

        await guard(scope | {"path": "/gradio_api/call/predict"}, receive, None)

    anyio.run(stall_together)
    assert answers.count(503) >= clients / 2 - 1 and answers.count(408) == clients - answers.count(503)
    assert guard.held == 0
    guard.held = limits.MAX_HELD_BYTES
    with pytest.raises(ConnectionResetError):
        anyio.run(ask, 90_000)  # small requests always get in
    assert len(read[0]) == 90_000 and guard.held == limits.MAX_HELD_BYTES


def call(*inputs, **others):
    return json.dumps({"data": inputs} | others).encode()


FILE = {
    "path": "/tmp/a.png",
    "url": "http://127.0.0.1/gradio_api/file=/tmp/a.png",
    "orig_name": "a.png",
    "size": 1,
    "mime_type": None,
    "is_stream": False,
    "meta": {"_type": "gradio.FileData"},
}
IMAGE = {"url": "data:image/png;base64," + "A" * 4_900_000}
SESSION = {"session_hash": "dhcfgucdhy9", "fn_index": 3, "trigger_id": 5}
CALLS = {
    "nothing": call(None, **SESSION),
    "no input": call(event_data=[FILE] * 1000, **SESSION),
    "example": call(0, **SESSION),
    "image": call(FILE, **SESSION),
    "image and format": call(FILE, "[a-z]+", "abc", **SESSION),
    "large image": call(IMAGE),
    "many": call([FILE] * 1000, **SESSION),
}
NO_CALLS = {
    "numbers": call([1] * 240_000),
    "many numbers": call([1] * 1_600_000),
    "inputs": call(*[None] * 2),
    "files": call([FILE] * 1001),
    "files of the event": call(event_data=[FILE] * 1001),
    "lists": call([[FILE]]),
    "deep": b'{"data": ' + b"[" * 2_000_000,
    "deep lists": b'{"data": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "keys": call(dict.fromkeys(map(str, range(9)))),
    "long path": call({"path": "a" * 4_000_000}),
    "long name": call(FILE | {"orig_name": "a" * 5000}),
    "long address": call({"url": "http://" + "a" * 5000}),
    "path of many parts": call({"path": ["a" * 100] * 1000}),
    "meta": call(FILE | {"meta": {"a" * 5000: 1}}),
    "long text": call(FILE, "a" * 5000),
    "number behind the image": call(FILE, 1),
    "many texts": call(FILE, "a", "b", "c"),
    "text": call("data:image/png;base64,AAAA"),
    "session": call(FILE, session_hash="a" * 1001),
    "event": call(FILE, event_data={"a": 1}),
    "no data": b"{}",
    "data": b'{"data": {}}',
    "list": b"[]",
    "number": b"1",
    "long number": b'{"data": [' + b"9" * 1_000_000 + b"]}",
    "no JSON": b"{",
    "lists in lists": b'{"data": [{"path": ' + b"[" * 1010 + b"]" * 1010 + b"}]}",
    "empty": b"",
}


@pytest.mark.parametrize("body", CALLS.values(), ids=CALLS)
def test_what_the_page_and_clients_send_is_a_call(body):
    assert limits.is_call(body, by_name=False)


@pytest.mark.parametrize("body", NO_CALLS.values(), ids=NO_CALLS)
def test_what_is_no_call_is_refused_before_gradio_looks_at_it(served, body):
    log = (served.folder / "app.log").stat().st_size
    for path in ("call/read_many", "run/predict", "queue/join"):
        answer = served.client.post(f"/gradio_api/{path}", content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, limits.NO_CALL)
    assert (served.folder / "app.log").stat().st_size == log


def test_calls_with_named_inputs_have_the_same_form(served):
    """The page shows them for curl."""
    path = upload(served).json()[0]
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = served.client.post("/gradio_api/call/v2/predict", json={"image": image}).json()["event_id"]
    assert EXAMPLE.stem in served.client.get(f"/gradio_api/call/predict/{event}").text
    for bad in ({"image": [1] * 1000}, {"image": {"path": "a" * 5000}}, {"a" * 5000: None}, {"a": 1, "b": 1}):
        answer = served.client.post("/gradio_api/call/v2/predict", json=bad)
        assert (answer.status_code, answer.json()["error"]) == (400, limits.NO_CALL)


CLOSED = """
GET /gradio_api/openapi.json|GET /svelte/{path:path}
POST /login|GET /logout|GET /gradio_api/user|GET /gradio_api/login_check|GET /gradio_api/token
GET /gradio_api/dev/reload|GET /gradio_api/runs|GET /gradio_api/deep_link|GET /pwa_icon|GET /pwa_icon/{size}
GET /monitoring|GET /monitoring/summary|GET /monitoring/{key}|POST /gradio_api/process_recording
GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}|POST /gradio_api/component_server
HEAD /gradio_api/proxy={url_path:path}|GET /gradio_api/proxy={url_path:path}|GET /gradio_api/file/{path:path}
HEAD /gradio_api/file={path_or_url:path}|GET /gradio_api/queue/status|GET /gradio_api/theme.css
POST /gradio_api/stream/{event_id}|POST /gradio_api/stream/{event_id}/close
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file
GET /gradio_api/call/v2/{api_name}/{event_id}|POST /gradio_api/vibe-edit|POST /gradio_api/undo-vibe-edit
GET /gradio_api/vibe-code|POST /gradio_api/vibe-code|POST /gradio_api/vibe-starter-queries
"""


def find_routes(routes):
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from find_routes(inner.routes)
        else:
            methods = route.methods or ["ANY"]  # the API refuses wrong ones itself
            yield from (f"{method} {route.path.rstrip('/') or '/'}" for method in methods)


def test_each_route_of_gradio_is_open_or_closed_by_decision(near):
    """Another version of gradio may have others."""
    found = set(find_routes(near.page.app.routes))
    closed = {route for route in found if not limits.OPEN.fullmatch(re.sub(r"{\w+(:path)?}", "x", route))}
    assert len(found) > 50 and closed == set(re.split(r"[\n|]", CLOSED.strip()))
    connection = http.client.HTTPConnection("127.0.0.1", near.port, timeout=60)
    for route in closed:
        method, path = route.split(" ")
        path = re.sub(r"{\w+(:path)?}", "1", path)
        for form in (path, path + "/", path.replace("o", "%6f"), "/" + path):
            connection.request(method, f"{form}?session_hash=a")
            answer = connection.getresponse()
            content = answer.read().decode()
            assert answer.status == 404 and (method == "HEAD" or limits.CLOSED in content), form
    connection.close()


def test_a_session_keeps_no_images(near):
    assert "state._update_value_in_config(" in inspect.getsource(gradio.blocks)
    path = upload(near, EXAMPLE.read_bytes() + b" ").json()[0]  # it is no example
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    answer = near.client.post("/gradio_api/run/predict", json=body | {"session_hash": "known"})
    assert answer.json()["data"][0]["text"] == EXAMPLE.stem
    assert path not in str(list(near.page.state_holder["known"].components))


def test_nobody_changes_the_address_that_others_are_told(near):
    for headers in (
        {"X-Forwarded-Host": "foreign"},
        {"X-Gradio-Server": "http://foreign"},
        {"Host": "foreign"},
    ):
        first = near.client.get("/gradio_api/info", headers=headers).text
        assert ("foreign" in first) == ("Host" in headers)
        for path in ("/gradio_api/info", "/gradio_api/info/?all_endpoints=true", "/config", "/"):
            assert "foreign" not in near.client.get(path).text
    assert near.client.get("/gradio_api/info").json()["named_endpoints"].keys() == {"/predict", "/read_many"}
    near.page.root_path = "/below"  # there is a proxy
    proxied = near.client.get("/gradio_api/info", headers={"X-Forwarded-Host": "foreign"}).text
    near.page.root_path = ""
    assert "http://foreign" in proxied


def test_jobs_of_many_images_hold_up_no_single_ones(near):
    near.go_on.clear()
    jobs = [function for function in near.page.fns.values() if function.concurrency_id == patches.JOBS]
    assert {function.name for function in jobs} == {"read_many", "show_many"}
    assert all(function.concurrency_limit < limits.READERS for function in jobs)
    file = {"path": upload(near).json()[0], "meta": {"_type": "gradio.FileData"}}

    def put(**others):
        body = {"data": [[file]]} | others
        return near.client.post("/gradio_api/call/read_many", json=body).status_code

    assert [put(session_hash="one") for _ in range(4)] == [200, 200, 503, 503]
    assert [put() for _ in range(4)] == [200, 200, 503, 503]  # one address
    assert [put(session_hash=f"{n}") for n in range(100)] == [200] * (patches.MAX_JOBS - 4) + [503] * 94
    event = near.client.post("/gradio_api/call/predict", json={"data": [file]}).json()["event_id"]
    assert EXAMPLE.stem in near.client.get(f"/gradio_api/call/predict/{event}").text
    assert reads(near) and put(session_hash="one") == 503  # the jobs have not ended
    near.go_on.set()
    start = time.monotonic()
    while put(session_hash="one") == 503:  # until those have been read
        assert time.monotonic() - start < 60
        time.sleep(0.1)


@pytest.mark.parametrize(("name", "limit"), [("read_many", "MAX_JOBS"), ("predict", "MAX_UNFETCHED")])
def test_few_results_are_kept_that_nobody_fetches(near, monkeypatch, name, limit):
    monkeypatch.setattr(patches, limit, 10)
    near.go_on.set()
    file, events = {"path": upload(near).json()[0], "meta": {"_type": "gradio.FileData"}}, []
    for number in range(13):
        body = {"data": [[file] if name == "read_many" else file], "session_hash": f"{name} {number}"}
        events.append(near.client.post(f"/gradio_api/call/{name}", json=body).json()["event_id"])
        start = time.monotonic()
        while near.page._queue.event_ids_to_events:
            assert time.monotonic() - start < 60
            time.sleep(0.01)
    assert {f"{name} {number}" for number in range(2)}.isdisjoint(
        near.page._queue.pending_messages_per_session
    )
    assert EXAMPLE.stem in near.client.get(f"/gradio_api/call/{name}/{events[-1]}").text


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.skipif(sys.platform == "win32", reason="it lists no open files")
def test_an_upload_takes_no_descriptors_and_little_memory():
    def part(number, header=""):
        disposition = f'Content-Disposition: form-data; name="files"; filename="{number}{"n" * 3000}.png"'
        return f"--b\r\n{disposition}\r\nX-A: {'h' * 3000}{header}\r\n\r\n{number}".encode()

    async def parse(parts):
        async def stream():
            for content in parts:
                yield content + b"\r\n"
            assert open_files() - before < 10
            yield b"--b--\r\n"

        before = open_files()
        headers = Headers({"content-type": "multipart/form-data; boundary=b"})
        options = {"upload_dir": patches.prepare_gradio().folder, "max_file_size": 1000}
        form = await route_utils.GradioMultiPartParser(headers, stream(), **options).parse()
        return form.getlist("files")

    files = anyio.run(parse, [part(number) for number in range(200)])
    assert [Path(file.file.name).read_text() for file in files] == [str(number) for number in range(200)]
    assert max(len(file.filename) for file in files) < 300 and not any(file.headers for file in files)
    for file in files:
        Path(file.file.name).unlink()
    field = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    for bad in ([field, b"x" * 1000], [part(0), field]):
        with pytest.raises(MultiPartException, match="files only"):
            anyio.run(parse, bad)


def test_a_form_that_names_a_charset_is_refused(served):
    headers = {"Content-Type": "multipart/form-data; boundary=b; Charset=punycode"}
    for path in ("/read", "/read_many", "/gradio_api/upload"):
        answer = served.client.post(path, content=b"--b--", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, limits.CHARSET)
    headers = {"Content-Type": "multipart/form-data; boundary=b; charset=UTF-8"}
    assert "no image" in served.client.post("/read", content=b"--b--", headers=headers).text


def test_answers_without_an_end_are_few_and_have_short_names(served, monkeypatch):
    long = served.client.get("/gradio_api/upload_progress", params={"upload_id": "a" * limits.MAX_ADDRESS})
    assert long.status_code == 404 and long.json()["error"] == limits.CLOSED
    guard = limits.Limits(None)
    guard.streams = limits.MAX_STREAMS
    sent, page = [], SimpleNamespace(root_path="/", share=False)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/gradio_api/heartbeat/a", "headers": []}
    scope |= {"query_string": b"", "app": SimpleNamespace(get_blocks=lambda: page)}
    anyio.run(guard, scope, None, send)
    assert sent[0]["status"] == 503


def test_a_form_is_parsed_in_parts():
    parts, sent = [], []

    async def parse(scope, receive, send):
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                return

    async def receive():
        return {"type": "http.request", "body": bytes(range(250)) * 1000, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/read", "headers": [], "query_string": b""}
    scope |= {"app": SimpleNamespace(get_blocks=lambda: SimpleNamespace(root_path="/", share=False))}
    anyio.run(limits.Limits(parse), scope, receive, sent.append)
    assert b"".join(parts) == bytes(range(250)) * 1000 and max(map(len, parts)) == limits.PART_BYTES


def test_a_request_that_breaks_off_is_not_read():
    guard, half = limits.Limits(None), {"type": "http.request", "body": b"half", "more_body": True}
    calls = [half, {"type": "http.disconnect"}]

    async def receive():
        return calls.pop(0)

    scope = {"type": "http", "method": "POST", "path": "/read", "headers": [], "query_string": b""}
    scope |= {"app": SimpleNamespace(get_blocks=lambda: SimpleNamespace(root_path="/", share=False))}
    anyio.run(guard, scope, receive, None)
    assert not calls and guard.held == 0


def test_a_folder_of_uploads_that_is_gone_comes_back_while_the_app_runs(tmp_path, monkeypatch):
    store = uploads.Store(tmp_path)
    monkeypatch.setattr(patches, "prepare_gradio", lambda: store)
    page = SimpleNamespace(blocks={}, temp_file_sets=[])

    async def run():
        async with patches.keep_house(SimpleNamespace(get_blocks=lambda: page), 0.01):
            tmp_path.rmdir()
            with anyio.fail_after(60):
                while not tmp_path.exists():
                    await anyio.sleep(0.01)
        tmp_path.rmdir()
        store.clean()

    anyio.run(run)
    assert not tmp_path.exists()


def test_a_field_that_is_no_file_is_refused_and_leaves_nothing(served):
    before = files_below(served.scratch)
    files = {"files": ("a.png", EXAMPLE.read_bytes()), "a": (None, b"x" * 1_000_000)}
    answer = served.client.post("/gradio_api/upload", files=files)
    assert answer.status_code == 400 and "files only" in answer.text and files_below(served.scratch) == before


UPLOAD_HEAD = (
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="slow.png"\r\n\r\nx'
)


def connect(stack, port, sent):
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
    connection.sendall(sent)
    return connection


def answer_of(connection):
    """What comes until the other side closes, or within a minute."""
    return b"".join(iter(lambda: connection.recv(1000), b""))


@pytest.mark.parametrize("path", [b"/gradio_api/upload", b"/read_many"])
def test_an_upload_must_come_in_time(near, path):
    with contextlib.ExitStack() as stack:
        stalled = connect(stack, near.port, UPLOAD_HEAD.replace(b"/gradio_api/upload", path))
        answer = answer_of(stalled)
    assert b" 408 " in answer and b"took too long" in answer


@pytest.mark.parametrize("path", [b"/gradio_api/upload", b"/read_many"])
def test_an_upload_makes_room_for_later_ones(served, path):
    """Long before the 10 minutes that each of them has."""
    head, port = UPLOAD_HEAD.replace(b"/gradio_api/upload", path), urlsplit(served.address).port
    with contextlib.ExitStack() as stack:
        first = connect(stack, port, head)
        assert reads(served)  # so that it is the first
        later = [connect(stack, port, head) for _ in range(limits.MAX_UPLOADS)]
        assert b" 408 " in first.recv(1000)
        assert not select.select(later, [], [], 0)[0]


def test_silent_connections_are_closed_and_others_are_not(near):
    with contextlib.ExitStack() as stack:
        head = b" HTTP/1.1\r\nHost: x\r\n"
        never_whole = b"GET /robots.txt" + head + b"\r\nGET /robots.txt"
        silent = [connect(stack, near.port, sent) for sent in [*[b""] * 20, b"GET /" + head, never_whole]]
        alive = connect(stack, near.port, b"GET /gradio_api/heartbeat/a" + head + b"\r\n")
        assert [answer_of(connection) == b"" for connection in silent[:-1]] == [True] * 21
        assert b"User-agent" in answer_of(silent[-1])
        alive.settimeout(1.5)
        received = b""
        with pytest.raises(TimeoutError):
            while True:
                received += alive.recv(1000) or pytest.fail("it was closed")
        assert b"ALIVE" in received


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_many_idle_connections_keep_nobody_out(served):
    port = urlsplit(served.address).port
    with contextlib.ExitStack() as stack:
        for _ in range(300):  # more than the 256 files that the app was started with
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert reads(served)


def test_uploads_what_broke_off_and_tables_are_deleted_within_the_hour(served, tmp_path):
    store = uploads.Store(tmp_path)
    files = [tmp_path / "tmpabc", tmp_path / "readings_abc.csv", tmp_path / "0123" / "image.png"]
    kept = tmp_path / "4567" / "example.png"
    for file in [*files, kept]:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    store.kept.add(str(kept))
    store.clean()
    assert all(file.exists() for file in files)
    for file in [*files, kept]:
        os.utime(file, (0, time.time() - uploads.KEEP_SECONDS))
    store.clean()
    assert list(tmp_path.rglob("*")) == [kept.parent, kept]
    store.kept.clear()
    store.clean()
    assert tmp_path.is_dir() and not any(tmp_path.iterdir())
    assert uploads.KEEP_SECONDS + 2 * patches.IDLE_SECONDS < 3600
    read_many(served, {"path": upload(served).json()[0]})
    (table,) = served.scratch.glob("readings_*.csv")
    assert EXAMPLE.stem in table.read_text()


def test_where_uploads_have_no_room_the_oldest_go_first(near):
    store = patches.prepare_gradio()
    most, store.max_bytes = store.max_bytes, 1_000_000
    store.clean(-1)

    def put(size):
        return near.client.post("/gradio_api/upload", files={"files": ("a.png", os.urandom(size))})

    try:
        paths = [Path(put(150_000).json()[0]) for _ in range(20)]
        there = [path.exists() for path in paths]
        assert there == sorted(there) and there[-3:] == [True] * 3
        assert sum(path.stat().st_size for path in files_below(store.folder) - store.kept) < 1_000_000
        files = {"images": ("a.png", os.urandom(3_000_000))}
        for answer in (put(3_000_000), near.client.post("/read_many", files=files)):
            assert (answer.status_code, answer.json()["error"]) == (507, limits.FULL)
        assert Path(put(150_000).json()[0]).exists()
    finally:
        store.max_bytes = most
        store.clean(-1)


def test_a_model_that_is_exchanged_on_the_disk_changes_nothing_in_the_running_app(served):
    """The last test but one: afterwards the model's files are gone."""
    assert reads(served)
    for name in EXPORTED:
        path = served.folder / "app" / name
        path.unlink()
        if not name.endswith("json"):
            path.write_bytes(b"another model's")
    assert reads(served)
    assert EXAMPLE.stem in read_many(served, {"path": upload(served).json()[0]})


def test_uploads_are_deleted_with_the_process(served):
    """The last test: afterwards the app is gone. Uploads go on to come meanwhile."""
    upload(served)
    assert files_below(served.scratch)

    def go_on():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(UPLOAD_HEAD)
            while not stopped.wait(0.01):
                connection.sendall(UPLOAD_HEAD[UPLOAD_HEAD.index(b"--b") - 2 :])

    port, stopped = urlsplit(served.address).port, threading.Event()
    slow = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in slow:
        thread.start()
    time.sleep(0.5)
    served.stop()
    stopped.set()
    for thread in slow:
        thread.join()
    assert not served.scratch.exists()
