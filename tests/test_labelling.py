"""label_app/labelling.py: what comes next, what is kept of the answers, what the notebook makes of them."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from drawn_sets import draw_plates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import open_image
from labelling import count_keys
from network import Shape
from ocr import Character, ModelError, Reading
from PIL import Image
from runs import ROOT

from label_app import labelling, models
from label_app.answers import FileLock, Label, LabelFile, LabellingError
from label_app.app import START
from label_app.labelling import Labelling
from training.data import read_labels, split
from training.labels import PATTERN, find_labels
from training.writing import clean


class Reader:
    """Stands for a model: reads the number that `draw` wrote into an image, and looks its text up."""

    channels, shape = 1, Shape(16, 48, 1, 1)

    def __init__(self, texts=(), confidences=()):
        self.texts, self.confidences = texts, confidences
        self.alphabets = []  # to which it was kept

    def read_each(self, images, form):
        self.alphabets.append(form.alphabet)
        for image in images:
            if isinstance(image, Exception):
                yield image
                continue
            number = int(image[0, 0, 0])
            text = self.texts[number] if number < len(self.texts) else f"t{number}"
            confidence = self.confidences[number] if number < len(self.confidences) else 0.5
            characters = tuple(
                Character(text[at], confidence, 10.0 * at, 10.0 * at + 2) for at in range(len(text))
            )
            yield Reading(text, confidence, confidence > 0.99, characters, np.zeros((0, 0)))


def draw(path, number, look=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number if look is None else look).integers(0, 256, (16, 48), np.uint8)
    pixels[0, 0] = number
    Image.fromarray(pixels).save(path)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Makes a folder `images` with numbered images, unless it is there, and begins to label it."""
    begun = []

    def start(count=0, reader=None, wait=True, parameters=(), **files):
        folder = tmp_path / "images"
        for number in range(count):
            draw(folder / f"{number:03}.png", number)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
        reader = reader or Reader()
        monkeypatch.setattr(labelling, "load_model", lambda path, lines=1: choose_model(path, reader))
        begun.append(Labelling(folder, tmp_path / "model", tmp_path / "work", list(parameters)))
        if wait:
            settle(begun[-1])
        return begun[-1]

    def choose_model(path, reader):
        if path.name == "reader" and not (path / "ocr_model").exists():
            raise ModelError("There is none yet.")
        return reader

    yield start
    for session in begun:
        if session.is_open:
            session.close()


def wait_until(is_true, seconds=30):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def settle(session):
    """Wait until all is read."""
    wait_until(lambda: session.status()["read"] == session.status()["rest"])


def rows(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(row[:3]) for row in list(csv.reader(file))[1:]]


def label_some(session, count, mode="label"):
    names = []
    for _ in range(count):
        item = session.upcoming(mode)[0]
        names.append(item["name"])
        session.answer(item["name"], f"x{int(item['name'][:3]) % 7}", item["guess"])
    return names


def test_a_random_sample_comes_first_then_what_is_least_sure(begin):
    confidences = np.random.default_rng(1).uniform(0.2, 0.9, 100)
    session = begin(100, Reader(confidences=confidences))
    first = [item["name"] for item in session.upcoming("label")]
    sample = label_some(session, 20)
    assert sample[: len(first)] == first and sample != sorted(sample)
    assert all(row[2] == "sample" for row in rows(session.folder))
    others = label_some(session, 40)
    assert {row[2] for row in rows(session.folder)[20:]} == {"person"}
    picked = np.mean([confidences[int(name[:3])] for name in others])
    assert picked < np.mean(np.delete(confidences, [int(name[:3]) for name in sample])) - 0.05
    session.close()
    again = begin()
    assert again.status()["labelled"] == 60 and len(again.sample) == 20
    assert not any(item["is_sample"] for item in again.upcoming("label"))


def test_of_near_copies_that_are_read_the_same_one_comes_before_all_else(begin, tmp_path):
    for number in range(60):
        draw(tmp_path / "images" / f"{number:03}.png", number, look=0 if number < 30 else number)
    session = begin(reader=Reader(texts=["same"] * 30, confidences=[0.1] * 30 + [0.6] * 30))
    session.sample_size = 0
    names = label_some(session, 60)
    assert len(set(names)) == 60
    copies = [int(name[:3]) < 30 for name in names]
    assert sum(copies[:31]) == 1 and all(copies[31:])


def test_skipped_images_come_last_and_unreadable_files_never(begin, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    session = begin(12, wait=False)
    wait_until(lambda: session.status()["read"] == session.status()["rest"] == 12)
    skipped = session.upcoming("label")[0]["name"]
    session.answer(skipped, None)
    names = label_some(session, 12)
    assert "bad.png" not in names and names[-1] == skipped
    assert session.upcoming("label") == [] and session.status()["images"] == 12


def test_each_answer_is_on_the_disk_and_the_last_one_counts(begin):
    session = begin(20)
    item = session.upcoming("label")[0]
    for text in ("one", "", '  a "b",  ç\u05d0\u05d1 '):
        session.answer(item["name"], text, item["guess"])
        assert rows(session.folder)[-1] == (item["name"], " ".join(text.split()), "sample")
    session.close()
    assert begin().labels == {item["name"]: Label('a "b", ç\u05d0\u05d1', "sample")}


def test_the_notebook_reads_the_answers_as_they_are(begin, capsys):
    session = begin(100, Reader(confidences=[0.5] * 50 + [1.0] * 50))
    label_some(session, 60)
    session.answer("000.png", "")
    session.answer("000.png", "y")
    session.answer("001.png", "")
    settle(session)
    assert session.accept_sure() > 5
    table, origin = read_labels(session.folder, PATTERN, False, None)
    assert origin.startswith("Labels come from labels.csv, columns filename and label")
    by_name = table.set_index(table["path"].map(lambda path: Path(path).name))
    expected = {name: label.text for name, label in session.labels.items()}
    assert {name: label for name, label in by_name["label"].items() if label} == {
        name: text for name, text in expected.items() if text
    }
    assert by_name.loc["000.png", "label"] == "y" and len(by_name) == 100
    labelled = by_name[by_name["label"] != ""]
    for arguments in ((0, None, None, "image"), (1, 3, None, "image"), (2, None, 9, "image")):
        splits = split(labelled, *arguments)
        source = {name: session.labels[name].source for name in labelled.index}
        assert {source[name] for name in splits["validation"].index} <= {"person", "sample"}
        assert {source[name] for name in splits["test"].index} <= {"person", "sample"}
        assert {name for name in source if source[name] == "model"} <= set(splits["train"].index)
    sources = {source[name] for name in split(labelled, 0, None, None, "image")["test"].index}
    assert sources == {"sample"}
    by_label = split(labelled.assign(label=labelled["label"].str[:1]), 0, None, None, "label")
    for name in ("validation", "test"):
        assert set(by_label[name]["label"]).isdisjoint(by_label["train"]["label"])


def test_answers_replace_what_other_lists_say_but_keep_their_splits(tmp_path):
    for number in range(4):
        draw(tmp_path / f"{number}.png", number)
    (tmp_path / "test.csv").write_text("filename,label\n0.png,a\n1.png,b\n2.png,c\n")
    (tmp_path / "labels.csv").write_text(
        "filename;label;source;when\n0.png;x;person;\n1.png;y;sample;\n0.png;z;given;\n3.png;w;model;\n"
    )
    found = {image.name: (label, split) for image, label, split in find_labels(tmp_path, PATTERN, None).rows}
    expected = {"0.png": ("z", "test"), "1.png": ("y", "test"), "2.png": ("c", "test")}
    assert found == expected | {"3.png": ("w", "model")}


def test_answers_that_a_spreadsheet_saved_are_written_anew_in_utf_8(begin, tmp_path, capsys):
    draw(tmp_path / "images" / "000.png", 0)
    file = tmp_path / "images" / "labels.csv"
    saved = "filename;label;source;when\n000.png;é;person;t\n".encode("cp1252")
    file.write_bytes(saved)
    session = begin(20)
    assert "read as cp1252" in capsys.readouterr().out
    (name,) = label_some(session, 1)
    (before,) = session.folder.glob("labels_before_*")
    assert before.read_bytes() == saved
    session.answer("000.png", "e")
    table, _ = read_labels(session.folder, PATTERN, False, None)
    assert (
        dict(zip(table["path"].map(lambda path: Path(path).name), table["label"], strict=True))["000.png"]
        == "e"
    )
    labels = [("000.png", "é"), (name, session.labels[name].text), ("000.png", "e")]
    assert [row[:2] for row in rows(session.folder)] == labels
    session.close()
    file.write_bytes(saved[:-11] + b"\x81;person;t\n")
    with pytest.raises(LabellingError, match="Save it as CSV in UTF-8"):
        begin(20)


def test_labels_that_the_folder_came_with_are_kept_beside_the_answers(begin, tmp_path):
    listed = "".join(f"{number:03}.png,g{number}\n" for number in range(5))
    draw(tmp_path / "images" / "000.png", 0)
    session = begin(20, labels_csv="filename,label\n" + listed)
    assert session.status()["labelled"] == 5 and not (tmp_path / "images" / "labels_before.csv").exists()
    (name,) = label_some(session, 1)
    assert int(name[:3]) > 4
    (before,) = session.folder.glob("labels_before_*.csv")
    assert before.read_text() == "filename,label\n" + listed
    assert [row[2] for row in rows(session.folder)] == ["given"] * 5 + ["sample"]
    table, _ = read_labels(session.folder, PATTERN, False, None)
    assert sorted(table[table["label"] != ""]["label"])[:5] == [f"g{number}" for number in range(5)]


def test_a_list_of_the_same_name_that_cannot_be_read_is_left_alone(begin, tmp_path):
    draw(tmp_path / "images" / "000.png", 0)
    with pytest.raises(LabellingError, match=r"labels\.csv can't be used"):
        begin(labels_csv="filename,label\nother.png,a\n")
    assert (tmp_path / "images" / "labels.csv").read_text() == "filename,label\nother.png,a\n"


def test_names_become_labels_only_when_somebody_says_so(begin, tmp_path):
    for number, name in enumerate(["k4mz", "tt5d", "w2pq", "b88c"]):
        draw(tmp_path / "images" / f"{name}.png", number)
    session = begin()
    assert session.status()["labelled"] == 0 and session.suggested["k4mz.png"] == Label("k4mz", "given")
    session.answer("k4mz.png", "k4mx")
    session.take_names()
    assert session.labels["k4mz.png"].text == "k4mx" and session.labels["tt5d.png"].text == "tt5d"
    assert session.upcoming("label") == [] and len(session.upcoming("check")) == 4


def test_labels_are_checked_from_the_most_doubtful_on(begin):
    confidences = [0.9, 0.6, 0.3, 0.95, 0.7, 0.99]
    listed = "000.png,t0\n001.png,t1\n002.png,wrong\n003.png,wrong\n004.png,t4\n005.png,t5\n"
    session = begin(6, Reader(confidences=confidences), labels_csv="filename,label\n" + listed)
    wait_until(lambda: all(session.guesses))
    items = session.upcoming("check")
    assert [item["name"][2] for item in items] == ["3", "2", "1", "4", "0", "5"]
    assert (items[0]["label"], items[0]["guess"]) == ("wrong", "t3")
    session.answer("003.png", "t3")
    session.answer("002.png", "wrong")
    assert [item["name"][2] for item in session.upcoming("check")] == ["1", "4", "0", "5"]
    assert session.labels["003.png"] == Label("t3", "person")
    assert rows(session.folder)[-1] == ("002.png", "wrong", "person")
    (session.folder / "004.png").unlink()
    assert [item["name"][2] for item in session.upcoming("check")] == ["1", "0", "5"]


def test_what_is_sure_becomes_a_label_that_a_person_may_still_mend(begin):
    session = begin(50, Reader(confidences=[1.0] * 30 + [0.5] * 20))
    label_some(session, 3)
    sure = session.status()["sure"]
    accepted = session.accept_sure()
    assert 0 < accepted < sure  # but not the sample that comes next
    assert session.status()["by_model"] == accepted and session.accept_sure() == 0
    assert all(row[2] == "model" for row in rows(session.folder)[3:])
    assert not {session.names[number] for number in session.sample} & {
        row[0] for row in rows(session.folder)[3:]
    }
    name = rows(session.folder)[3][0]
    session.answer(name, "mended")
    assert session.labels[name] == Label("mended", "person")
    before = len(session.sample)
    label_some(session, 10)
    assert len(session.sample) == before  # what is left is no random sample


def test_an_image_that_was_looked_at_while_it_was_copied_is_read(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 0.05)
    session = begin(10)
    file = session.folder / "copied.png"
    draw(tmp_path / "whole.png", 77)
    content = (tmp_path / "whole.png").read_bytes()
    with file.open("wb", buffering=0) as copied:
        copied.write(content[:60])
        wait_until(lambda: session.state["gone"].any())
        copied.write(content[60:])
    wait_until(lambda: session.status()["read"] == 11)


@pytest.mark.parametrize(
    ("guess", "confidence", "mark", "label", "keys"),
    [
        ("abcd", 0.9, None, "abcd", 1),
        ("abcd", 0.9, 1, "axcd", 2),
        ("abcd", 0.9, 1, "abcx", 4),
        ("abcd", 0.9, None, "abcx", 3),
        ("abcdefgh", 0.2, 5, "abcdeXgh", 6),
        ("abcdefgh", 0.9, 5, "abcdeXgh", 2),
        ("abcd", 0.2, 1, "wxyz", 5),
        ("abXYcdefgh", 0.9, None, "abcdefgh", 6),
        ("abcdefgh", 0.9, None, "axbcdexfgh", 9),
        ("", 0, None, "ab", 3),
    ],
)
def test_keystrokes_are_counted_as_on_the_page(guess, confidence, mark, label, keys):
    marks = [{"at": -1}] if mark is None else [{"at": mark}]
    item = {"guess": guess, "confidence": confidence, "marks": marks}
    assert count_keys(item, label) == keys


def test_images_may_come_and_go(begin, tmp_path, monkeypatch):
    (tmp_path / "images" / "new").mkdir(parents=True)
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 0.05)
    session = begin(10)
    gone = session.upcoming("label")[0]["name"]
    (session.folder / gone).unlink()
    assert gone not in [item["name"] for item in session.upcoming("label")]
    draw(session.folder / "new" / 'a, "b" ח.png', 77)
    wait_until(lambda: session.status()["images"] == 10 and session.status()["read"] == 10)
    session.answer('new/a, "b" ח.png', "x")
    names = label_some(session, 9)
    assert len(set(names)) == 9 and gone not in names and session.upcoming("label") == []
    table, _ = read_labels(session.folder, PATTERN, False, None)
    assert (table["problem"] == "").all() and (table["label"] != "").all()
    with pytest.raises(LabellingError, match=r"There is no image other\.png"):
        session.answer("other.png", "x")


def test_a_folder_may_be_away_for_a_while(begin, monkeypatch):
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 0.05)
    session = begin(10)
    name = label_some(session, 1)[0]
    away = session.folder.rename(session.folder.with_name("away"))
    with pytest.raises(LabellingError, match=r"Your answer was not saved: .+ can't be written"):
        session.answer(name, "x")
    with pytest.raises(LabellingError, match="is away"):
        session.upcoming("label")
    away.rename(session.folder)
    wait_until(lambda: session.upcoming("label"))
    session.answer(name, "y")
    assert rows(session.folder)[-1][:2] == (name, "y") and session.status()["images"] == 10


def test_images_that_were_away_while_they_were_read_come_back(begin, monkeypatch):
    session = begin(10)
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 3600)
    away = session.folder.rename(session.folder.with_name("away"))
    with session.changed:
        session._begin_round()
    wait_until(lambda: session.state["gone"].all())
    away.rename(session.folder)
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 0.05)
    wait_until(lambda: session.status()["images"] == 10 == session.status()["read"])


def test_images_of_the_sample_that_come_back_stay_in_it(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "LOOK_SECONDS", 0.05)
    draw(tmp_path / "images" / "below" / "a.png", 7)
    answers = '"filename","label","source","when"\n"below/a.png","x","sample","1"\n'
    (tmp_path / "images" / "labels.csv").write_text(answers)
    away = (tmp_path / "images" / "below").rename(tmp_path / "away")
    session = begin(20)
    away.rename(session.folder / "below")
    wait_until(lambda: "below/a.png" in session.numbers)
    session.answer("below/a.png", "y")
    assert rows(session.folder)[-1] == ("below/a.png", "y", "sample")


def test_labels_that_are_not_read_yet_are_checked_last(begin):
    reader = Reader(confidences=[0.9] * 40)
    listed = "".join(f"{number:03}.png,t{number}\n" for number in range(20))
    session = begin(40, reader, labels_csv="filename,label\n" + listed)
    wait_until(lambda: all(session.guesses))
    with session.changed:
        session.state["round"][:10] = 0
        session.to_check.clear()
        session._sort_labels()
        stale = {number for number in range(40) if session.state["round"][number] == 0}
        labelled = {session.numbers[name] for name in session.labels}
        assert {*session.to_check} == labelled
        assert {*list(session.to_check)[len(labelled - stale) :]} == labelled & stale


def test_what_the_model_of_now_has_read_comes_first(begin):
    session = begin(40, Reader(confidences=[0.9] * 40))
    label_some(session, 8)  # the sample
    with session.changed:
        session.round = 2
        session.queues["label"].clear()
        free = [number for number in range(40) if not session.state["source"][number]]
        session.state["round"] = 1
        session.state["round"][free[5]] = 2
        session.state["confidence"][free[9]] = 0.1
        assert session._choose("label") == free[5]


def test_an_alphabet_that_is_known_keeps_the_first_model_to_it(begin):
    reader = Reader()
    session = begin(60, reader=reader)
    for _ in range(40):
        session.answer(session.upcoming("label")[0]["name"], "abcab")
    settle(session)
    session.answer(session.upcoming("label")[0]["name"], "abd")
    settle(session)
    assert list(dict.fromkeys(reader.alphabets)) == ["", "abc", "abcd"]


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Puts a script in the place of the notebook."""
    (tmp_path / "root" / "training").mkdir(parents=True)
    (tmp_path / "root" / "demo_app").mkdir()
    for name in ("README.md", "ocr.py"):
        (tmp_path / "root" / "demo_app" / name).write_bytes((ROOT / "demo_app" / name).read_bytes())
    monkeypatch.setattr(models, "ROOT", tmp_path / "root")

    def write(script):
        script = "import sys, time\nfrom pathlib import Path\n" + textwrap.dedent(script)
        (tmp_path / "root" / "training" / "run.py").write_text(script, encoding="utf-8")

    return write


def test_a_training_brings_new_guesses_while_labelling_goes_on(begin, notebook, monkeypatch):
    notebook(
        """
        output = Path(sys.argv[sys.argv.index("OUTPUT") + 1])
        print("epoch   1/2 █░ loss 1 exact match 0%   validation: loss 1 exact match 5.0%   1 s", flush=True)
        while not Path("go").exists():
            time.sleep(0.01)
        (output / "ocr_model").mkdir()
        """
    )
    session = begin(80, Reader(texts=["old"] * 80))
    with pytest.raises(LabellingError, match="Label at least 10 images of different texts in addition"):
        session.train()
    label_some(session, 30)
    session.every = 1
    label_some(session, 1)
    assert session.is_training
    monkeypatch.setattr(models, "load_model", lambda folder: Reader(texts=["new"] * 80))
    wait_until(lambda: session.status()["message"] == "Epoch 1 of 2: 5.0% of the validation images are read.")
    label_some(session, 5)
    with pytest.raises(LabellingError, match="Training is already running"):
        session.train()
    with pytest.raises(LabellingError, match="No model has been trained"):
        session.serve()
    session.every = 0
    (models.ROOT / "go").touch()
    wait_until(lambda: session.is_trained)
    settle(session)
    assert (
        session.upcoming("label")[0]["guess"] == "new" and session.message == "The new model is now in use."
    )
    with pytest.raises(LabellingError, match="The app did not start"):
        session.serve()  # for there is no app.py
    card = (session.work / "reader" / "README.md").read_text("utf-8")
    assert card.startswith("---\ntitle:") and "captcha" not in card


def test_a_training_that_fails_says_why_and_leaves_the_model(begin, notebook):
    notebook('sys.exit("DatasetError: All images are upside down.")')
    session = begin(80)
    label_some(session, 40)
    session.train()
    wait_until(lambda: session.training is None)
    assert session.message.endswith("the model is unchanged. DatasetError: All images are upside down.")
    assert not session.is_trained and session.upcoming("label")[0]["guess"].startswith("t")


def test_the_numbers_tell_how_the_model_does(begin):
    session = begin(100, Reader(texts=[f"x{number % 7}" for number in range(90)], confidences=[1.0] * 80))
    label_some(session, 30)
    session.answer(session.upcoming("label")[0]["name"], "", "other")
    wait_until(lambda: len(session.status()["sample"]) == 20)
    status = session.status()
    names = [session.names[number] for number in session.sample]
    right = sum(int(name[:3]) < 90 for name in names)
    assert sum(is_right for is_right, _ in status["sample"]) == right
    assert sum(is_sure for _, is_sure in status["sample"]) == sum(int(name[:3]) < 80 for name in names)
    assert len(status["accepted"]) == 31 and not status["accepted"][-1] and status["labelled"] == 31


def test_a_guess_that_was_accepted_by_mistake_counts_as_wrong_when_it_is_corrected(begin):
    session = begin(20)
    item = session.upcoming("label")[0]
    session.answer(item["name"], item["guess"], item["guess"])
    assert session.status()["accepted"] == [True]
    session.answer(item["name"], "corrected", item["guess"])
    assert session.status()["accepted"] == [False]
    session.answer(item["name"], "corrected", "corrected")  # which a later model has learnt
    assert session.status()["accepted"] == [False]


def test_letters_may_differ_in_case_where_the_notebook_ignores_it(begin):
    session = begin(20, Reader(texts=["Ab"] * 20), parameters=[["IGNORE_CASE", "true"]])
    item = session.upcoming("label")[0]
    assert item["guess"] == "ab"
    session.answer(item["name"], "aB", item["guess"])
    assert session.status()["accepted"] == [True] and rows(session.folder)[0][1] == "ab"


def test_capitals_can_be_read_where_the_notebook_ignores_case(begin):
    reader = Reader()
    session = begin(60, reader, parameters=[["IGNORE_CASE", "true"]])
    label_some(session, 50)
    wait_until(lambda: reader.alphabets[-1])
    assert {"x", "X"} <= {*reader.alphabets[-1]}


def test_no_model_learns_from_the_sample(begin):
    session = begin(60, Reader(confidences=[1.0] * 60))
    label_some(session, 12)
    assert session.accept_sure() > 10
    with pytest.raises(LabellingError, match=r"in addition to the random sample, .* so far 0"):
        session.train()
    for name in ("FOLD", "SPLIT_BY", "OUTPUT"):
        with pytest.raises(LabellingError, match=f"{name} can't be set here"):
            begin(60, parameters=[[name, "1"]])


def test_the_sample_is_finished_before_other_images_come(begin):
    session = begin(60)
    label_some(session, 7)
    session.upcoming("label")
    with session.changed:
        session._begin_round()
    settle(session)
    session.state["confidence"][list(session.sample)] = 0.9  # others are less sure
    while len([source for source in session.state["source"] if source == labelling.SAMPLE]) < 12:
        item = session.upcoming("label")[0]
        assert item["is_sample"]
        session.answer(item["name"], "x")


def test_names_that_became_labels_are_no_sample(begin, tmp_path):
    for number in range(20):
        draw(tmp_path / "images" / f"{chr(97 + number)}k{chr(116 - number)}.png", number)
    session = begin()
    session.upcoming("label")
    session.take_names()
    wait_until(lambda: all(session.guesses))
    for _ in range(20):
        session.answer(session.upcoming("check")[0]["name"], "mended")
    assert ("sample" not in {row[2] for row in rows(session.folder)}) and not session.status()["sample"]


def test_large_images_are_opened_one_after_the_other(begin, monkeypatch):
    monkeypatch.setattr(labelling, "HELD_PIXELS", 2 * 16 * 48)
    reader = Reader()
    session = begin(9, reader)
    assert session.status()["read"] == session.status()["rest"] == 9 and len(reader.alphabets) >= 5


def test_doubtful_characters_are_marked_where_they_stand():
    characters = [
        Character(c, p, 20 * at, 20 * at + 4)
        for at, (c, p) in enumerate(zip("abcd", [1, 0.5, 1, 0.2], strict=True))
    ]
    marks = labelling._mark(Reading("abcd", 0.1, False, tuple(characters), np.zeros(0)), 80, 1)
    assert [mark["at"] for mark in marks] == [1, 3]
    assert marks[0] == {"at": 1, "left": 0.15, "width": 0.25, "top": 0, "height": 1}
    turned = labelling._mark(Reading("dcba", 0.1, False, tuple(characters), np.zeros(0)), 80, 1)
    assert [mark["at"] for mark in turned] == [2, 0]
    twice = [Character(c, 0.5 if at == 0 else 1, 20 * at, 20 * at + 4) for at, c in enumerate("0110")]
    (mark,) = labelling._mark(Reading("0110", 0.1, False, tuple(twice), np.zeros(0)), 80, 1)
    assert mark["at"] == 0
    mixed = labelling._mark(Reading("badc", 0.1, False, tuple(characters), np.zeros(0)), 80, 1)
    assert [mark["at"] for mark in mixed] == [-1, -1]


def test_a_mark_has_no_place_in_a_guess_without_the_spaces_that_were_read(begin):
    (item, *_) = begin(1, Reader(texts=["a  b"])).upcoming("label")
    assert item["guess"] == "a b" and {mark["at"] for mark in item["marks"]} == {-1}


def test_the_first_model_guesses_two_lines_too(tmp_path):
    draw_plates(tmp_path / "images", 10)
    with contextlib.closing(
        Labelling(tmp_path / "images", START, tmp_path / "work", [["LINES", "2"]])
    ) as session:
        settle(session)
    guesses = [text for text, _ in session.guesses]
    assert sum(guess == Path(name).stem for guess, name in zip(guesses, session.names, strict=True)) >= 5
    recognizer = models.load_model(START, lines=2)
    image = open_image(next((tmp_path / "images").iterdir()), recognizer.channels)
    reading = recognizer.read(image)
    assert {character.line for character in reading.characters} == {0, 1}
    assert max(character.right for character in reading.characters) <= image.shape[1]


def test_answers_of_several_windows_are_all_kept(begin):
    session = begin(40)

    def label(number):
        session.upcoming("label")
        session.answer(f"{number:03}.png", f"x{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(label, range(40)))
    assert {(name, text) for name, text, _ in rows(session.folder)} == {
        (f"{number:03}.png", f"x{number}") for number in range(40)
    }
    assert session.upcoming("label") == []


ANSWER = """
import sys
from pathlib import Path
import label_app
from label_app.answers import Label, LabelFile

file, known = LabelFile(Path(sys.argv[1])), {}
for number in range(100_000):
    new = {f"{number}, {'ü' * 40}.png": Label(f'"{number}"', "person")}
    file.append(new, known)
    known |= new
    print(number, flush=True)
"""


def test_nothing_that_was_taken_is_lost_when_the_process_is_killed(tmp_path):
    command = [sys.executable, "-c", ANSWER, str(tmp_path)]
    for round_number in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            taken = [int(process.stdout.readline()) for _ in range(40 + round_number)]
            with pytest.raises(LabellingError, match="is being labelled by another process"):
                LabelFile(tmp_path)
            process.send_signal(signal.SIGKILL)
            taken += [int(line) for line in process.stdout.read().split()]
        file = LabelFile(tmp_path)
        assert {f"{number}, {'ü' * 40}.png" for number in taken} <= file.load().keys()
        file.lock.release()


@pytest.mark.parametrize("header", ["", '"filename";"label";"source";"when"\n'])
def test_a_last_row_without_its_line_break_counts_and_stays(tmp_path, header):
    path = tmp_path / "labels.csv"
    path.write_text(header)
    if not header:
        path.unlink()
    file = LabelFile(tmp_path)
    file.append({"a.png": Label('"é;,', "person"), "b.png": Label("b", "person")}, {})
    path.write_bytes(path.read_bytes()[:-1])
    assert file.load() == {"a.png": Label('"é;,', "person"), "b.png": Label("b", "person")}
    file.append({"c.png": Label("c", "sample")}, {})
    assert list(file.load()) == ["a.png", "b.png", "c.png"]
    assert len(path.read_bytes().splitlines()) == 4


def test_answers_that_a_spreadsheet_changed_go_on(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("filename,label,source,when,note\na.png,x,sample,1,\nb.png,y,model,2,see\n")
    for name in "ab":
        draw(tmp_path / f"{name}.png", 0)
    file = LabelFile(tmp_path)
    known = file.load()
    assert known == {"a.png": Label("x", "sample"), "b.png": Label("y", "model")}
    file.append({"b.png": Label("z", "person")}, known)
    file.append({"b.png": Label("zz", "person")}, known)
    assert file.load() == {"a.png": Label("x", "sample"), "b.png": Label("zz", "person")}
    assert len([*tmp_path.glob("labels_before_*.old")]) == 1
    found = labelling.find_labels(tmp_path, labelling.PATTERN, None)
    assert {(image.name, label, split) for image, label, split in found.rows} == {
        ("a.png", "x", "test"),
        ("b.png", "zz", ""),
    }


@pytest.mark.parametrize("coding", ["utf-8", "cp1252"])
def test_what_a_spreadsheet_saves_in_the_meantime_is_kept(tmp_path, coding):
    file = LabelFile(tmp_path)
    known = {"a.png": Label("ü", "sample"), "b.png": Label("b", "person")}
    file.append(known, {})
    more = "" if coding == "cp1252" else ",note"
    text = f"filename,label,source,when{more}\na.png,ü,sample,1,\nb.png,Á,person,2,\n"
    file.path.write_text(text if more else text.replace(",\n", "\n"), encoding=coding)
    file.append({"c.png": Label("c", "person")}, known)
    expected = {"a.png": Label("ü", "sample"), "b.png": Label("Á", "person"), "c.png": Label("c", "person")}
    assert file.load() == expected and file.path.read_bytes().startswith(b'"filename"')
    assert [path.suffix for path in tmp_path.glob("labels_before_*")] == [".old"]


@pytest.mark.parametrize("cut", range(2, 52, 3))
def test_a_row_that_was_cut_off_is_no_obstacle(tmp_path, cut):
    file = LabelFile(tmp_path)
    file.append({"a.png": Label("é", "person")}, {})
    file.append({"ü.png": Label("éé", "person")}, {})
    path = tmp_path / "labels.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    assert file.load() == {"a.png": Label("é", "person")}
    file.append({"c.png": Label("c", "sample")}, {})
    assert file.load() == {"a.png": Label("é", "person"), "c.png": Label("c", "sample")}


def test_what_cannot_be_written_is_said_and_can_be_written_later(tmp_path, monkeypatch):
    file = LabelFile(tmp_path)
    file.append({"a.png": Label("a", "person")}, {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(LabellingError, match=r"not saved: .*labels\.csv .*\(No space left on device\)"):
            file.append({"b.png": Label("b", "person")}, {})
    (tmp_path / "labels.csv").unlink()
    file.append({"c.png": Label("c", "person")}, {"a.png": Label("a", "person")})
    assert file.load() == {"a.png": Label("a", "person"), "c.png": Label("c", "person")}


def test_a_folder_that_is_read_only_missing_or_empty_is_refused_in_a_sentence(begin, tmp_path, monkeypatch):
    with pytest.raises(LabellingError, match=r"There is no folder .+ unpack an archive first"):
        begin()
    (tmp_path / "images").mkdir()
    with pytest.raises(LabellingError, match="There are no images"):
        begin()
    with monkeypatch.context() as patch:
        error = OSError(30, "Read-only file system")
        patch.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(LabellingError, match=r"can't be written to .+ \(Read-only file system\)"):
            begin(1)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1),
        st.text(st.characters(codec="utf-8")).map(lambda text: clean(text, False)[0]),
        min_size=1,
    )
)
def test_any_name_and_label_come_back(tmp_path, texts):
    (tmp_path / "labels.csv").unlink(missing_ok=True)
    file, labels = LabelFile(tmp_path), {name: Label(text, "person") for name, text in texts.items()}
    file.append(labels, {})
    file.append(labels, {})
    assert file.load() == labels
    file.lock.release()
