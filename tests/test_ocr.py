"""demo_app/ocr.py: reading one image and many, the command line."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import ocr
import pytest
from decoding import UNUSUAL
from images import ImageError, open_image
from PIL import Image
from runs import ROOT

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
def test_extreme_shapes_are_read(recognizer, size):
    reading = recognizer.read(Image.new("L", size, 99))
    assert all(0 <= part.left < part.right <= size[0] for part in reading.characters)


def test_a_text_is_cut_off(recognizer):
    """The model knows texts of five characters only, but does not read five into less at any price."""
    cut = [recognizer.read(open_image(path)[:, :width]) for path in EXAMPLES for width in (100, 110, 120)]
    short = [reading for reading in cut if len(reading.text) < 5]
    assert len(short) > len(cut) / 3
    for reading in cut:
        texts = recognizer.alternatives(reading)
        assert [chance for _, chance in texts] == sorted((chance for _, chance in texts), reverse=True)
        text, chance = texts[0]
        if len(reading.text) == 5:
            assert reading.confidence >= UNUSUAL * chance * 0.999
        else:
            assert (reading.text, reading.sure) == (text, False)
            assert reading.confidence == pytest.approx(chance, rel=1e-3)


def test_a_reading_says_where_each_character_stands(recognizer):
    for path in EXAMPLES:
        reading = recognizer.read(path)
        assert "".join(character.text for character in reading.characters) == reading.text
        assert reading.frames.dtype == np.float32
        np.testing.assert_allclose(reading.frames.sum(axis=1), 1, atol=1e-4)
        edges = [edge for c in reading.characters for edge in (c.left, c.right)]
        assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= 200
        doubled = recognizer.read(Image.open(path).resize((400, 100), Image.Resampling.BICUBIC))
        if doubled.text == reading.text:
            shift = [b.left - 2 * a.left for a, b in zip(reading.characters, doubled.characters, strict=True)]
            assert np.abs(shift).max() <= 16  # two frames of the larger image


def test_a_batch_reads_like_one_by_one_in_any_mix_of_sizes(recognizer):
    images = [open_image(path) for path in EXAMPLES]
    images += [image[:, :150] for image in images] + [np.zeros((1, 1), np.uint8)]
    images += [np.zeros((2, 3000), np.uint8), np.zeros((3000, 2), np.uint8)]
    single = [recognizer.read(image) for image in images]
    batch = recognizer.read_batch(iter(images))
    assert [r.text for r in batch] == [r.text for r in single]
    np.testing.assert_allclose([r.confidence for r in batch], [r.confidence for r in single], atol=1e-3)
    assert all(0 <= reading.confidence <= 1 for reading in batch)
    assert recognizer.read_batch([]) == []
    with pytest.raises(ImageError, match="Image 1: "):
        recognizer.read_batch([images[0], b"no image"])


def test_many_images_are_read_in_their_order_with_the_errors_among_them(recognizer, monkeypatch):
    monkeypatch.setattr(ocr, "AHEAD", 4)
    sources = [EXAMPLES[n % len(EXAMPLES)] if n % 3 else b"no image" for n in range(30)]
    readings = list(recognizer.read_each(iter(sources)))
    for source, reading in zip(sources, readings, strict=True):
        assert isinstance(reading, ImageError) if source == b"no image" else reading.text == source.stem

    def interrupted():
        yield from sources
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(recognizer.read_each(interrupted()))
    opened = []
    readings = recognizer.read_each(opened.append(n) or EXAMPLES[0] for n in range(1000))
    assert next(readings).text == EXAMPLES[0].stem
    readings.close()
    assert len(opened) <= 8  # it opens no more than is asked for


def test_the_network_runs_in_the_thread_that_asks(recognizer, monkeypatch):
    """TensorFlow keeps memory for each thread in which it has run, for ever."""
    threads, serve = set(), recognizer._serve
    monkeypatch.setattr(recognizer, "_serve", lambda i: threads.add(threading.get_ident()) or serve(i))
    monkeypatch.setattr(ocr, "AHEAD", 4)
    assert len(list(recognizer.read_each([EXAMPLES[0]] * 30))) == 30
    assert threads == {threading.get_ident()}


def test_large_images_are_read_in_smaller_batches(recognizer, monkeypatch):
    images = [open_image(path) for path in EXAMPLES]
    expected = [reading.text for reading in recognizer.read_batch(images)]
    monkeypatch.setattr(ocr, "BATCH_PIXELS", 3 * images[0].size)
    assert [reading.text for reading in recognizer.read_batch(images)] == expected


def test_the_command_line_reads_folders_and_reports_bad_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "demo_app" / "Examples", "images")
    shutil.copy(EXAMPLES[0], "images/\udcff.png")  # a name that is not UTF-8
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    command = [sys.executable, str(ROOT / "demo_app" / "ocr.py"), "images", "--csv", "out.csv"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "bad.png: This file is not an image" in done.stderr
    assert len(done.stdout.splitlines()) == len(EXAMPLES) + 1
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"].rpartition(os.sep)[2]: row for row in csv.DictReader(file)}
    assert rows.pop("bad.png")["error"] and rows.pop(r"\udcff.png")["text"] == EXAMPLES[0].stem
    assert {name: row["text"] for name, row in rows.items()} == {p.name: p.stem for p in EXAMPLES}
    (tmp_path / "images" / "bad.png").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "photo.heic").touch()
    monkeypatch.setattr(sys, "argv", ["ocr.py", "empty"])
    assert ocr.main() == 2
    said = capsys.readouterr().err
    assert "Skipped in empty: 1 .heic (save HEIC" in said and "There are no .png" in said
    monkeypatch.setattr(sys, "argv", [*command[1:], "--csv", str(tmp_path)])
    assert ocr.main() == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no file that is always full")
def test_a_full_disk_and_a_missing_archive_are_said_in_a_sentence():
    command = [sys.executable, str(ROOT / "demo_app" / "ocr.py"), str(EXAMPLES[0]), "missing.zip", "a" * 300]
    done = subprocess.run([*command, "--csv", "/dev/full"], capture_output=True, text=True)
    assert "missing.zip: There is no file missing.zip. Check its path." in done.stderr
    assert f"{'a' * 300}: " in done.stderr
    assert done.returncode and "can't be written: No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell with pipes")
def test_the_command_line_says_its_version_and_takes_a_closed_pipe():
    command = [sys.executable, str(ROOT / "demo_app" / "ocr.py")]
    assert subprocess.check_output([*command, "--version"], text=True) == f"{ocr.VERSION}\n"
    words = shlex.join([*command, *map(str, EXAMPLES)])
    done = subprocess.run(f"{words} | true", shell=True, capture_output=True, text=True)
    assert "BrokenPipe" not in done.stderr


def test_the_command_line_reads_archives_and_standard_input_and_writes_json(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(EXAMPLES[1], "below/one.png")
        archive.writestr("notes.txt", "")
    command = [
        sys.executable,
        ROOT / "demo_app" / "ocr.py",
        "--json",
        "--model",
        ROOT / "demo_app",
        "-",
        "some.zip",
    ]
    done = subprocess.run(command, input=EXAMPLES[0].read_bytes(), capture_output=True, cwd=tmp_path)
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and not done.stderr  # of TensorFlow, for example
    assert (first["file"], first["text"], first["sure"], first["error"]) == (
        "-",
        EXAMPLES[0].stem,
        True,
        None,
    )
    assert [part["text"] for part in first["characters"]] == list(EXAMPLES[0].stem)
    assert (second["file"], second["text"]) == ("some.zip/below/one.png", EXAMPLES[1].stem)
    assert third == {
        "file": "some.zip",
        "text": None,
        "confidence": None,
        "sure": None,
        "error": "Skipped in this archive: 1 .txt.",
    }


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2)])
def test_help_comes_without_tensorflow(words, code):
    command = [sys.executable, "-X", "importtime", ROOT / "demo_app" / "ocr.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and "tensorflow" not in done.stderr
    assert "--model FOLDER" in (done.stdout or done.stderr)


def test_the_command_line_keeps_to_a_format(monkeypatch, capsys):
    path = EXAMPLES[0]
    monkeypatch.setattr(sys, "argv", ["ocr.py", str(path), "--pattern", f"[^{path.stem[0]}].{{4}}"])
    assert ocr.main() == 0
    text = capsys.readouterr().out.split("\t")[1]
    assert len(text) == 5 and text[0] != path.stem[0]
    monkeypatch.setattr(sys, "argv", ["ocr.py", str(path), "--alphabet", path.stem, "--pattern", "(a+)+"])
    with pytest.raises(SystemExit, match="may not contain"):
        ocr.main()


def test_a_manifest_that_is_a_pipe_is_refused(tmp_path):
    (tmp_path / ocr.MANIFEST.parent).mkdir(parents=True)
    os.mkfifo(tmp_path / ocr.MANIFEST)
    with pytest.raises(ocr.ModelError, match=r"manifest\.json is missing or damaged \(it is not a file\)"):
        ocr.Recognizer(tmp_path)
