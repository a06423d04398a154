"""What must not get in: files that are not as they were exported, and what a client of the app may try."""

import json
import os
import pickle
import shutil

import numpy as np
import ocr
import pytest
from runs import ROOT

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
    monkeypatch.setattr(ocr.pickle, "loads", None)
    path = folder / name
    data = bytearray(path.read_bytes())
    if fault == "flipped":
        data[len(data) // 2] ^= 0x10
    path.write_bytes(data[: len(data) // 2] if fault == "cut" else data)
    if fault == "missing":
        path.unlink()
    # A flipped byte of the manifest is in what it says of a file, which then is not as it says.
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
    file = ocr.io.BytesIO()
    Elsewhere(file, protocol).dump({"a": 1})
    return file.getvalue()


LOOP = {}
LOOP["a"] = LOOP
NESTED = b"\x80\x04" + b"}K\x01" * 300_000 + b"N" + b"s" * 300_000 + b"."
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


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "assets.extra/about.json"]
)
def test_a_model_that_was_exported_broken_is_refused(folder, name):
    (folder / "ocr_model" / name).write_bytes(b"short")
    write_manifest(folder)
    with pytest.raises(ocr.ModelError, match="can't be loaded"):
        ocr.Recognizer(folder)
