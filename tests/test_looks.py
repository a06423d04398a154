"""training/looks.py and training/letters.py: images in many looks, and the data set of the start."""

import csv
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from runs import ROOT

from training import letters, looks


def test_looks_are_seeded_and_vary():
    for text, width, height in (
        ("é", 60, 20),
        ("ABC DEFGHIJKL", 200, 50),
        ("\u0663\u0664", 9, 77),
        ("x" * 40, 300, 48),
        (" ", 8, 8),
    ):
        images = [looks.render_varied(text, np.random.default_rng(seed), height, width) for seed in range(8)]
        assert all(image.shape == (height, width, 3) and image.dtype == np.uint8 for image in images)
        again = looks.render_varied(text, np.random.default_rng(3), height, width)
        np.testing.assert_array_equal(again, images[3])
        assert len({image.tobytes() for image in images}) == 8


def test_an_image_is_as_wide_as_its_text_needs():
    short, long, bound = (
        np.median(
            [
                looks.render_varied(text, np.random.default_rng(seed), 40, None, 1, aspect=aspect).shape[1]
                for seed in range(20)
            ]
        )
        for text, aspect in (("ab", 9), ("abcdefgh", 9), ("abcdefgh", 3))
    )
    assert short < long and bound <= 120


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Fonts and words laid out as npm lays them out."""
    for name, face in (("plain", looks.FACES[2]), ("bold", looks.BOLD)):
        files = tmp_path / "packages" / "@fontsource" / name / "files"
        files.mkdir(parents=True)
        shutil.copy(face[0], files / f"{name}-latin-400-normal.woff")
    segments = tmp_path / "packages" / "dseg" / "fonts" / "DSEG7-Classic"
    segments.mkdir(parents=True)
    shutil.copy(looks.MONO[0], segments / "digits.woff")
    for language in ("en", *letters.LANGUAGES):
        (tmp_path / "packages" / f"dictionary-{language}").mkdir()
        words = "3\nhouse/SM\nWien\tpo:noun\nдом\n"
        (tmp_path / "packages" / f"dictionary-{language}" / "index.dic").write_text(words, "utf-8")
    monkeypatch.setattr(letters, "PACKAGES", tmp_path / "packages")
    for cached in (letters.read_words, letters.find_faces):
        cached.cache_clear()
    yield
    for cached in (letters.read_words, letters.find_faces):
        cached.cache_clear()


def test_the_data_set_of_the_start_is_listed_and_goes_on_after_a_stop(packages, tmp_path, monkeypatch):
    assert letters.read_words("en") == ["Wien", "house", "дом"]
    monkeypatch.setattr(letters, "SHARD", 30)
    for number in range(3):
        letters.draw_shard(number, tmp_path)
    lists = [tmp_path / letters.name_shard(number) / ".labels.csv" for number in range(3)]
    rows = list(itertools.chain(*(csv.reader(path.open(encoding="utf-8", newline="")) for path in lists)))
    assert len(rows) == 90 and {name.split("/")[0] for name, _ in rows} == {"validation", "test", "0002"}
    for name, text in rows:
        height, width = np.asarray(Image.open(tmp_path / name)).shape
        assert 14 <= height <= 64 and width <= 5 * height
        assert 1 <= len(text) <= letters.MOST + 3 and letters.CHARACTERS.issuperset(text)
    first = (tmp_path / "test" / "000.png").read_bytes()
    (tmp_path / "test" / "000.png").unlink()
    letters.draw_shard(1, tmp_path)  # is whole already
    assert not (tmp_path / "test" / "000.png").exists()
    shutil.rmtree(tmp_path / "test")
    letters.draw_shard(1, tmp_path)
    assert (tmp_path / "test" / "000.png").read_bytes() == first


def test_without_the_packages_there_is_a_sentence(tmp_path):
    shutil.copytree(ROOT / "training", tmp_path / "training", ignore=shutil.ignore_patterns("node_modules"))
    command = [sys.executable, "-m", "training.letters", "images", "1000"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "demo_app")}
    )
    assert done.returncode == 1 and "make start" in done.stderr.splitlines()[-1]


def test_packages_have_one_version():
    wanted = json.loads((ROOT / "training" / "start" / "package.json").read_text())["dependencies"]
    assert len([name for name in wanted if name.startswith("@fontsource/")]) >= 150
    assert all(version[0].isdigit() for version in wanted.values())
