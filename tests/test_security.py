"""What must not get in: files that are not as they were exported, and what a client of the app may try."""

import contextlib
import http.client
import inspect
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import anyio
import app
import gradio
import httpx
import limits
import numpy as np
import ocr
import pytest
from gradio import processing_utils, route_utils, routes
from runs import ROOT, serve

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
    monkeypatch.setattr(ocr.tf.saved_model, "load", None)
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
    with pytest.raises(ocr.ModelError, match=rf"({named}) (is|does).*Export the model again"):
        ocr.Recognizer(folder)


def test_hidden_files_are_let_be_and_others_are_refused(folder):
    (folder / "ocr_model" / ".DS_Store").write_bytes(b"of a desktop")
    ocr.Recognizer(folder)
    (folder / "ocr_model" / "other.pb").write_bytes(b"")
    with pytest.raises(ocr.ModelError, match=r"other\.pb does not belong"):
        ocr.Recognizer(folder)


def test_a_model_that_is_exchanged_while_it_is_loaded_is_refused(folder, monkeypatch):
    load = ocr.tf.saved_model.load

    def exchange(path):
        (folder / "num_to_char").write_bytes(b"new")
        return load(path)

    monkeypatch.setattr(ocr.tf.saved_model, "load", exchange)
    with pytest.raises(ocr.ModelError, match="exchanged"):
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
    monkeypatch.setattr(ocr.tf.saved_model, "load", None)
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
    monkeypatch.setattr(ocr.tf.saved_model, "load", None)
    path = folder / "ocr_model" / "assets.extra" / "about.json"
    about = json.loads(path.read_text())
    del about["threshold"]
    about |= {"lengths": [5], "split": {"train": 1}, "cer": "0", "exact_match": 1}
    for content, named in ((about, "lengths, split, threshold, cer"), ([], "dataset, date, alphabet")):
        path.write_text(json.dumps(content))
        write_manifest(folder)
        with pytest.raises(ocr.ModelError, match=f"does not say {named}.*Export the model again"):
            ocr.Recognizer(folder)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "assets.extra/about.json"]
)
def test_a_model_that_was_exported_broken_is_refused(folder, name):
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
    assert f"{folder / 'num_to_char'} is missing. Export the model again" in last


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
        address = stack.enter_context(serve(place / "app" / "app.py", place, **environment))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=60))
        (scratch,) = scratch.glob("customocr_*")
        yield SimpleNamespace(address=address, folder=place, scratch=scratch, client=client, stop=stack.close)


def upload(served, content=None, name="image.png"):
    content = EXAMPLE.read_bytes() if content is None else content
    return served.client.post("/gradio_api/upload", files={"files": (name, content)})


def predict(served, file, **options):
    meta = {"meta": {"_type": "gradio.FileData"}}
    return served.client.post("/gradio_api/run/predict", json={"data": [meta | file]}, **options)


def read_many(served, file):
    meta = {"meta": {"_type": "gradio.FileData"}}
    called = served.client.post("/gradio_api/call/read_many", json={"data": [[meta | file]]})
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
    limits.prepare_gradio()
    assert processing_utils.async_ssrf_protected_download is limits._refuse_download
    assert routes.secure_url_stream_response is limits._refuse_stream
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
        served.client.options("/gradio_api/run/predict", headers=asked),
        served.client.options("/gradio_api/upload", headers=asked),
    ]
    assert ["access-control-allow-origin" in answer.headers for answer in answers] == [False] * len(answers)


def test_what_is_too_large_is_refused_and_leaves_nothing(served):
    before = files_below(served.scratch)
    assert upload(served, bytes(20_000_001)).status_code == 413
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


def test_requests_that_never_end_take_nobody_s_place(served):
    head = "POST /gradio_api/run/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    port = urlsplit(served.address).port
    with contextlib.ExitStack() as stack:
        for _ in range(limits.READERS + limits.MAX_WAITING + 1):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(head.encode())
        assert reads(served)


def test_what_requests_that_never_end_hold_in_memory_is_limited():
    parts = limits.MAX_BODY_BYTES // 1_000_000
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

        await guard({"type": "http", "path": "/gradio_api/run/predict"}, receive, send)

    async def stall_together():
        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(stall)

    async def ask(size):
        async def receive():
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        await guard({"type": "http", "path": "/gradio_api/call/predict"}, receive, None)

    anyio.run(stall_together)
    assert answers.count(503) >= clients / 2 - 1 and answers.count(408) == clients - answers.count(503)
    assert guard.held == 0
    guard.held = limits.MAX_HELD_BYTES
    with pytest.raises(ConnectionResetError):
        anyio.run(ask, 90_000)  # small requests always get in
    assert len(read[0]) == 90_000 and guard.held == limits.MAX_HELD_BYTES


def test_uploads_what_broke_off_and_tables_are_deleted_within_the_hour(served):
    page = app.build(ocr.Recognizer())
    every, age = page.delete_cache
    assert every + age <= limits.KEEP_SECONDS == 3600
    scratch = limits.prepare_gradio()
    files = [scratch / "tmpabc", scratch / "readings_abc.csv", scratch / "0123" / "image.png"]
    files[2].parent.mkdir()
    for file in files:
        file.touch()
    page.upload_file_set.add(str(files[2]))
    route_utils.delete_files_created_by_app(page, age)
    assert all(file.exists() for file in files)
    route_utils.delete_files_created_by_app(page, -1)
    assert not any(file.exists() for file in files)
    read_many(served, {"path": upload(served).json()[0]})
    (table,) = served.scratch.glob("readings_*.csv")
    assert EXAMPLE.stem in table.read_text()


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
    """The last test: afterwards the app is gone."""
    upload(served)
    assert files_below(served.scratch)
    served.stop()
    assert not served.scratch.exists()
