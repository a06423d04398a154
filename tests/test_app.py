"""The app beside its page: its API as the readme shows it, a fresh environment, images of no known kind."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import app
import numpy as np
import ocr
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from runs import ROOT, free_port, running, serve

EXAMPLE = sorted((ROOT / "demo_app" / "Examples").iterdir())[0]


def test_the_readme_s_api_lines_run_as_they_stand(tmp_path):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 7860)) == 0 or not shutil.which("curl"):
            pytest.skip("port 7860 is taken, or there is no curl")
    shutil.copy(EXAMPLE, tmp_path / "image.png")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.write(EXAMPLE, EXAMPLE.name)
    readme = (ROOT / "readme.md").read_text(encoding="utf-8").partition("**Over HTTP**")[2]
    python, shell = re.findall(r"  ```(?:python|bash)\n(.*?)  ```", readme, re.DOTALL)[:2]
    python = re.sub("^  ", "", python, flags=re.MULTILINE) + "print(table)\n"
    command = [sys.executable, str(ROOT / "demo_app" / "app.py")]
    with running(command, 7860, tmp_path / "app.log", cwd=tmp_path):
        one = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
        other = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    assert one.stdout.count(EXAMPLE.stem) == 4  # the answer, and in the table two texts and the zip's file
    assert one.stdout.count("yes") == 2 and "image.png" in one.stdout
    answer = json.loads(other.stdout)["data"][0]
    assert answer["text"] == EXAMPLE.stem and answer["sure"] is True
    assert [part["text"] for part in answer["characters"]] == list(EXAMPLE.stem)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user needs root")
def test_the_folder_alone_runs_read_only_for_another_user_without_a_home(tmp_path_factory):
    """In a new environment with nothing but its requirements, below a proxy's path."""
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o755)
    try:
        ignore = shutil.ignore_patterns("__pycache__")
        copy = shutil.copytree(ROOT / "demo_app", folder / "copy", ignore=ignore)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", copy / "requirements.txt"], check=True)
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
        with running(command, port, log, cwd="/", env=environment, user=65534, group=65534, extra_groups=[]):
            answer = Client(f"http://127.0.0.1:{port}", verbose=False).predict(
                handle_file(EXAMPLE), api_name="/predict"
            )
        assert answer["text"] == EXAMPLE.stem
    finally:
        shutil.rmtree(folder)


def test_images_of_no_known_kind_are_hardly_ever_called_sure(study):
    """Noise, clouds, one colour, and texts of letters that the model doesn't know, in two looks."""
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
            study.render(text, rng),
            study.render_varied(text, rng, 200, 50),
        ]
    readings = ocr.Recognizer().read_batch(images)
    assert sum(reading.sure for reading in readings) <= 0.01 * len(readings)


def test_what_is_wrong_in_archives_becomes_rows_and_uploads_are_deleted(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR")  # which importing the app has set
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
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with serve(ROOT / "demo_app" / "app.py", tmp_path, TMPDIR=str(scratch)) as address:
        client = Client(address, verbose=False)
        files = [handle_file(tmp_path / f"{name}.zip") for name in ("bad", "empty", "mixed")]
        table, _ = client.predict(files, api_name="/read_many")
        with pytest.raises(Exception, match="no files yet"):
            client.predict([], api_name="/read_many")
        with pytest.raises(Exception, match="no image yet"):
            client.predict(None, api_name="/predict")
        assert any(scratch.rglob("*.zip"))
    assert not any(scratch.rglob("*.zip"))
    rows = {row[0]: row for row in table["data"]}
    for name, words in [
        ("bad.zip", "can't be unpacked"),
        ("empty.zip", "no images"),
        ("mixed.zip/large.png", "larger than 20 MB"),
        ("mixed.zip/broken.png", "can't be unpacked"),
    ]:
        assert words in rows[name][4]
    assert rows["mixed.zip/right.png"][1:] == [EXAMPLE.stem, rows["mixed.zip/right.png"][2], "yes", ""]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (7, 1, 1)])
def test_the_map_can_be_drawn_of_any_image(shape):
    recognizer, pixels = ocr.Recognizer(), np.zeros(shape, np.uint8)
    assert app.draw_map(pixels, recognizer.read(pixels), recognizer).startswith("<svg")


def test_punctuation_is_shown_as_it_stands():
    assert app.literal("a*b|<c>_`d") == "<code>a&#42;b&#124;&#60;c&#62;&#95;&#96;d</code>"
