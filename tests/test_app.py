"""The app beside its page: its API as the readme shows it, a fresh environment, images of no known kind."""

import base64
import csv
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import app
import httpx
import limits
import numpy as np
import ocr
import page
import pytest
import uploads
from api import ADDRESS
from gradio_client import Client, handle_file
from images import ImageError, open_image
from PIL import Image
from runs import ROOT, free_port, running
from starlette.middleware import Middleware

EXAMPLE = sorted((ROOT / "demo_app" / "Examples").iterdir())[0]


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_api_lines_of_the_readme_and_the_docs_run_as_they_stand(shipped_app, tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "image.png")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.write(EXAMPLE, "image.png")

    def run(line):
        command = shlex.split(line.replace(ADDRESS, shipped_app.rstrip("/")))
        return json.loads(subprocess.check_output(command, cwd=tmp_path))

    (line,) = re.findall(r"`(curl .+?)`", (ROOT / "readme.md").read_text(encoding="utf-8"))
    one = run(line)
    assert one["text"] == EXAMPLE.stem and one["sure"] is True
    lines = re.findall(r"(?m)^curl .+", (ROOT / "docs" / "http.md").read_text(encoding="utf-8"))
    *others, many = map(run, lines)
    for line, answer in zip(lines, others, strict=False):
        assert {"text", "confidence"} <= set(answer[0] if isinstance(answer, list) else answer), line
    assert [row["file"] for row in many] == ["image.png", "many.zip/image.png"]
    assert {row["text"] for row in many} == {EXAMPLE.stem}


@pytest.mark.parametrize(
    "requirements", ["requirements-light.txt", pytest.param("requirements.txt", marks=pytest.mark.slow)]
)
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user needs root")
def test_the_folder_alone_runs_read_only_for_another_user_without_a_home(tmp_path_factory, requirements):
    """In a new environment with nothing but its requirements, below a proxy's path."""
    other = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        subprocess.run([os.path.realpath(sys.executable), "-c", ""], cwd="/", check=True, **other)
    except PermissionError:
        pytest.skip(f"another user may not start {sys.executable}")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o755)
    try:
        ignore = shutil.ignore_patterns("__pycache__")
        copy = shutil.copytree(ROOT / "demo_app", folder / "copy", ignore=ignore)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", copy / requirements], check=True)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_ROOT_PATH": "/ocr",
        }
        command = [str(python), str(copy / "app.py")]
        log = tmp_path_factory.mktemp("log") / "app.log"
        with running(command, port, log, cwd="/", env=environment, **other):
            answer = Client(f"http://127.0.0.1:{port}", verbose=False).predict(
                handle_file(EXAMPLE), api_name="/predict"
            )
        assert answer["text"] == EXAMPLE.stem
    finally:
        shutil.rmtree(folder)


def test_the_app_serves_a_model_of_another_folder_or_says_why_not(tmp_path):
    command = [sys.executable, ROOT / "demo_app" / "app.py", "--model", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and f"{tmp_path / ocr.MANIFEST} is missing" in done.stderr


def test_images_of_no_known_kind_are_hardly_ever_called_sure(recognizer):
    """Noise, clouds, one colour, and texts of letters that the model doesn't know, in two looks."""
    synthetic = pytest.importorskip("training.synthetic", exc_type=ImportError)
    looks = pytest.importorskip("training.looks")
    rng = np.random.default_rng(0)
    foreign = list("αβγδζηθλμξπσφψωЖДЩЯЮЭФБГЛhijkloqrsuvzAEGHKMNRT019")
    images = []
    for _ in range(150):
        text = "".join(rng.choice(foreign, rng.integers(3, 7)))
        coarse = rng.integers(0, 256, (int(rng.integers(3, 12)), int(rng.integers(6, 30)))).astype(np.uint8)
        images += [
            rng.integers(0, 256, (50, 200)).astype(np.uint8),
            np.asarray(Image.fromarray(coarse).resize((400, 100), Image.Resampling.BICUBIC)),
            np.full((50, 200), int(rng.integers(256)), np.uint8),
            synthetic.render(text, rng),
            looks.render_varied(text, rng, 50, 200),
        ]
    readings = recognizer.read_batch(images)
    assert sum(reading.sure for reading in readings) <= 0.01 * len(readings)


def test_what_is_wrong_in_archives_becomes_rows(shipped_app, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no archive")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "no image")
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        archive.writestr("large.png", bytes(21_000_000), zipfile.ZIP_DEFLATED)
        archive.writestr("broken.png", EXAMPLE.read_bytes())
        archive.write(EXAMPLE, "right.png")
    content = (tmp_path / "mixed.zip").read_bytes()
    place = content.index(EXAMPLE.read_bytes()) + 100
    (tmp_path / "mixed.zip").write_bytes(content[:place] + b"oops" + content[place + 4 :])
    client = Client(shipped_app, verbose=False)
    files = [handle_file(tmp_path / f"{name}.zip") for name in ("bad", "empty", "mixed")]
    table, _ = client.predict(files, api_name="/read_many")
    with pytest.raises(Exception, match="no files yet"):
        client.predict([], api_name="/read_many")
    with pytest.raises(Exception, match="no image yet"):
        client.predict(None, api_name="/predict")
    rows = {row[0]: row for row in table["data"]}
    for name, words in [
        ("bad.zip", "can't be unpacked"),
        ("empty.zip", "no images"),
        ("mixed.zip/large.png", "larger than 20 MB"),
        ("mixed.zip/broken.png", "can't be unpacked"),
    ]:
        assert words in rows[name][4]
    assert rows["mixed.zip/right.png"][1:] == [EXAMPLE.stem, rows["mixed.zip/right.png"][2], "yes", ""]


def test_uploads_that_were_deleted_become_rows(tmp_path):
    found = dict(uploads.open_files([str(tmp_path / "a.png"), str(tmp_path / "b.zip"), str(EXAMPLE)]))
    assert found.pop(EXAMPLE.name) == str(EXAMPLE)
    assert {name: str(error) for name, error in found.items()} == dict.fromkeys(
        ["a.png", "b.zip"], uploads.DELETED
    )


@pytest.mark.parametrize("limit", [{"max_files": 2}, {"seconds": -1}])
def test_what_comes_after_too_many_files_is_one_error(limit):
    found = list(uploads.open_files([str(EXAMPLE)] * 9, **limit))
    assert [source for _, source in found[:-1]] == [str(EXAMPLE)] * limit.get("max_files", 0)
    assert "Reading stopped at the limit" in str(found[-1][1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (7, 1, 1)])
def test_the_map_can_be_drawn_of_any_image(recognizer, shape):
    pixels = np.zeros(shape, np.uint8)
    assert page.draw_map(pixels, recognizer.read(pixels), recognizer).startswith("<svg")


def test_punctuation_is_shown_as_it_stands():
    assert page.literal("a*b|<c>_`d") == "<code>a&#42;b&#124;&#60;c&#62;&#95;&#96;d</code>"


@pytest.mark.parametrize("text", ["", "ab"])
def test_a_model_that_reads_badly_takes_the_blame(recognizer, monkeypatch, text):
    """Not the visitor's image alone."""
    pixels = open_image(EXAMPLE)
    unsure = ocr.Reading(text, 0.1, False, (), recognizer.read(EXAMPLE).frames)
    assert "badly" not in page.describe(recognizer, True) + page.judge(pixels, unsure, recognizer)
    assert page.CROP in page.judge(pixels, unsure, recognizer)
    monkeypatch.setattr(recognizer, "about", recognizer.about | {"exact_match": 0.4})
    assert page.describe(recognizer, False).startswith("**This model reads badly**")
    assert "reads badly: it misread 60.0% of its test images" in page.judge(pixels, unsure, recognizer)


def test_the_list_of_an_unsure_reading_begins_with_the_text_shown(recognizer, monkeypatch):
    """Even where a text of another length is more probable."""
    others = [("b5d8", 0.16), ("bd5d8", 0.1), ("", 0.05)]
    monkeypatch.setattr(recognizer, "alternatives", lambda _: others)
    reading = ocr.Reading("bd5d8", 0.105, False, (), recognizer.read(EXAMPLE).frames)
    words = page.judge(open_image(EXAMPLE), reading, recognizer)
    assert re.findall("<li>(.*?)</li>", words) == [
        "<code>bd5d8</code> 10.5%",
        "<code>b5d8</code> 16.0%, of unusual length",
        "no text 5.0%, of unusual length",
    ]


def test_advice_takes_the_place_of_the_usual_sentence(recognizer):
    tall = np.full((200, 50, 1), 255, np.uint8)
    words = page.judge(tall, recognizer.read(tall), recognizer)
    assert "taller than wide" in words and page.CROP not in words


def test_rows_to_look_at_come_first_and_the_others_stay_in_their_order():
    rows = [
        ["a", "k4mz", "0.9900", "yes", ""],
        ["b", "k4", "0.2000", "no", ""],
        ["c", "", "", "", "It is damaged."],
        ["d", "", "0.9000", "no", ""],
        ["e", "k4", "1.0000", "yes", ""],
    ]
    assert page.arrange(rows) == [
        ["c", "It is damaged.", "", page.UNREAD],
        ["b", "k4", "0.2000", page.UNSURE],
        ["d", "no text", "", page.UNREAD],
        ["a", "k4mz", "0.9900", page.SURE],
        ["e", "k4", "1.0000", page.SURE],
    ]
    assert page.count(rows) == "**5 in all**: 2 sure, 1 not sure, 2 not read."


def test_without_examples_the_page_begins_empty(recognizer, monkeypatch, tmp_path):
    monkeypatch.setattr(recognizer, "folder", tmp_path)
    blocks = app.build(recognizer).blocks.values()
    parts = {part.elem_id: getattr(part, "value", None) for part in blocks}
    assert parts["image"] is None and parts["text"] == "" and parts["verdict"] == uploads.NO_IMAGE


def test_link_previews_show_the_page_s_own_title_sentence_and_picture(shipped_app):
    found = re.findall(r'<meta property="(\S+)" content="([^"]*)"', httpx.get(shipped_app).text)
    assert found == list(page.PREVIEW.items())
    assert page.PREVIEW["og:image"].endswith("docs/images/demo.png")
    assert (ROOT / "docs" / "images" / "demo.png").exists()


def ask(address, image):
    """Call /predict over plain HTTP with one file, as the readme does."""
    body = {"data": [image | {"meta": {"_type": "gradio.FileData"}}]}
    return httpx.post(f"{address}/gradio_api/run/predict", json=body, timeout=60)


def test_one_request_with_the_image_in_it_is_enough(shipped_app):
    content = base64.b64encode(EXAMPLE.read_bytes()).decode()
    for start in ("data:image/png;base64,", "data:;base64,"):
        answer = ask(shipped_app, {"url": start + content})
        assert answer.json()["data"][0]["text"] == EXAMPLE.stem
    for damaged in ("@", "é"):
        answer = ask(shipped_app, {"url": f"data:;base64,{damaged}"})
        assert "base64 is damaged" in answer.json()["error"]
    assert "not an image" in ask(shipped_app, {"url": "data:;base64,AAAA"}).json()["error"]
    assert "no image yet" in ask(shipped_app, {}).json()["error"]
    assert ask(shipped_app, {"url": "data:;base64," + "A" * limits.MAX_BODY_BYTES}).status_code == 413
    for path in ("run/upload", "run/predict/", "api/predict"):
        answer = httpx.post(f"{shipped_app}/gradio_api/{path}", content=b"0" * (limits.MAX_BODY_BYTES + 1))
        assert answer.status_code == 413


def test_no_address_is_opened_for_a_caller(shipped_app):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        target = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        for image in ({"path": target}, {"url": target}):
            assert ask(shipped_app, image).json()["error"] == uploads.NO_ADDRESSES
        # A public one, which gradio would fetch.
        for image in ({"path": "https://huggingface.co/a.png"}, {"url": "https://huggingface.co/a.png"}):
            assert ask(shipped_app, image).json()["error"] == uploads.NO_ADDRESSES
        for address in (target, "https://huggingface.co/a.png"):
            assert httpx.get(f"{shipped_app}/gradio_api/file={address}").status_code == 403
        with pytest.raises(TimeoutError):
            trap.accept()
    assert ask(shipped_app, {"path": "/etc/passwd"}).status_code == 500


def test_what_uses_the_queue_can_not_go_past_it(shipped_app):
    answer = httpx.post(f"{shipped_app}/gradio_api/run/read_many", json={"data": [[]]})
    assert answer.status_code == 404


def test_requests_over_the_limit_are_told_to_come_back(tmp_path):
    """Slow readers and a short queue: some of many are answered, the others are told so at once."""
    started, go_on = threading.Semaphore(0), threading.Event()

    class Slow(ocr.Recognizer):
        def read(self, image, form=None):
            started.release()
            assert go_on.wait(60)
            raise ImageError("It was read.")

    few = {"middleware": [Middleware(limits.Limits, max_waiting=3)]}
    slow = Slow()
    slow.folder = tmp_path  # without examples, which would be read at once
    served = app.launch(slow, prevent_thread_lock=True, quiet=True, server_port=free_port(), app_kwargs=few)
    try:
        with ThreadPoolExecutor(20) as pool:
            image = {"url": f"data:;base64,{base64.b64encode(EXAMPLE.read_bytes()).decode()}"}
            answers = [pool.submit(ask, served.local_url.rstrip("/"), image) for _ in range(20)]
            for _ in range(limits.READERS):
                assert started.acquire(timeout=60)
            refused = [future.result() for future in islice(as_completed(answers), 20 - limits.READERS - 3)]
            go_on.set()
        errors = [future.result().json()["error"] for future in answers]
    finally:
        served.close()
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {(503, limits.BUSY)}
    assert sorted(errors) == ["It was read."] * (limits.READERS + 3) + [limits.BUSY] * len(refused)


def test_a_reading_that_ends_after_a_later_one_of_its_page_changes_nothing(tmp_path):
    go_on, done = threading.Event(), {}

    class Held(ocr.Recognizer):
        def read(self, image, form=None):
            assert form.has_pattern or go_on.wait(60)
            return super().read(image, form)

    held = Held()
    held.folder = tmp_path  # without examples, which would be read at once
    served = app.launch(held, prevent_thread_lock=True, quiet=True, server_port=free_port())
    image = {"url": f"data:;base64,{base64.b64encode(EXAMPLE.read_bytes()).decode()}"}
    image |= {"meta": {"_type": "gradio.FileData"}}
    try:
        with httpx.Client(base_url=f"{served.local_url}gradio_api/", timeout=60) as client:
            events = served.get_config_file()["dependencies"]
            kinds = {kind: event["id"] for event in reversed(events) for _, kind in event["targets"]}
            session = {"session_hash": "a"}
            for kind, pattern in [("input", ""), ("submit", f"[^{EXAMPLE.stem[0]}].*")]:
                body = session | {"data": [image, pattern, ""], "fn_index": kinds[kind]}
                event_id = client.post("queue/join", json=body).json()["event_id"]
                done[event_id] = kind
            texts = {}
            with client.stream("GET", "queue/data", params=session) as lines:
                for line in lines.iter_lines():
                    message = json.loads(line.removeprefix("data: ") or "{}")
                    if message.get("msg") == "process_completed":
                        texts[done[message["event_id"]]] = message["output"]["data"][0]
                        go_on.set()
    finally:
        served.close()
    assert list(texts) == ["submit", "input"]
    assert texts["submit"]["value"][0] != EXAMPLE.stem[0] and "value" not in texts["input"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-2+3", "@a", "\ta", "\r=1"])
def test_formulas_are_disarmed(text):
    assert uploads.disarm(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "-5", "+1.250,5", "'a", "a\t", "k4mz"])
def test_usual_texts_stay_as_they_are(text):
    assert uploads.disarm(text) == text


def test_a_file_s_name_is_no_formula_in_the_csv(shipped_app, tmp_path):
    with zipfile.ZipFile(tmp_path / "=1.zip", "w") as archive:
        archive.write(EXAMPLE, "a.png")
    client = Client(shipped_app, verbose=False, download_files=tmp_path)
    table, file = client.predict([handle_file(tmp_path / "=1.zip")], api_name="/read_many")
    with Path(file).open(encoding="utf-8-sig", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (table["data"][0][0][0], row["file"][:2], row["text"]) == ("=", "'=", EXAMPLE.stem)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_no_cell_begins_as_a_formula_where_a_spreadsheet_splits_at_other_signs(tmp_path, delimiter):
    name = f"a.zip/x{delimiter}=cmd|' /c calc'!A0{delimiter}.png"
    path = uploads.write_table([[name, "k4mz", "0.99", "yes", ""]], tmp_path)
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        cells = [cell for row in csv.reader(lines, delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.startswith("=")]


def test_long_names_in_an_archive_are_cut(tmp_path):
    path, member = tmp_path / "long.zip", f"{'a' * 60_000}.png"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, EXAMPLE.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"a" * 60_000, b"b" * 60_000, 1))  # the names differ
    ((name, error),) = uploads.open_files([str(path)])
    assert len(name) < 300 and len(str(error)) < 400


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_would_unpack_without_a_bound_are_not_opened(tmp_path, method):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", bytes(60_000_000))
        archive.write(EXAMPLE, "b.png", zipfile.ZIP_DEFLATED)
        archive.write(EXAMPLE, "c.png", zipfile.ZIP_STORED)
    assert path.stat().st_size < 50_000
    tracemalloc.start()
    (_, bomb), *others = uploads.open_files([str(path)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not supported" in str(bomb) and peak < 5_000_000
    assert [content for _, content in others] == [EXAMPLE.read_bytes()] * 2
