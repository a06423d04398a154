"""training/data.py: labels, checks, the network's input shape, splits."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from decoding import to_text
from PIL import Image
from runs import ARCHIVE, ROOT

from training.data import (
    choose_shape,
    digest,
    encode,
    frames_needed,
    scan,
    split,
)
from training.errors import DatasetError
from training.fetching import fetch
from training.synthetic import ALPHABET, draw_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_dataset(30, 0, tmp_path_factory.mktemp("drawn"))


def test_scan_keeps_each_image_once_and_says_what_it_rejects(drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set")
    shutil.copytree(drawn, folder / "again")
    path = next(drawn.iterdir())
    shutil.copy(path, folder / "yyyyy.png")
    (folder / "bad22.png").write_bytes(b"no image")
    Image.linear_gradient("L").resize((40, 20)).save(folder / f"{'2' * 40}.png")
    Image.open(path).save(folder / f"{path.stem}.bmp")
    odd = folder / os.fsdecode(b"caf\xe9.png")
    with contextlib.suppress(OSError):  # macOS's
        shutil.copy(path, odd)
    (folder / "notes.txt").write_text("not an image at all")
    Image.new("L", (60, 20), 7).save(folder / "blank.png")
    table, rejected, shape = scan(folder, "(.+)")
    assert shape == (32, 192, 1, 1.5, 1) and shape.frames == 48
    assert sorted(table["label"]) == sorted(p.stem for p in drawn.iterdir() if p != path)
    assert rejected["problem"].value_counts().to_dict() == {
        "duplicate file": 29,
        "same image with different labels": 4,
        "unreadable": 1,
        "nearly blank": 1,
        "label too long for the width": 1,
    } | ({"name or label is not Unicode": 1} if odd.exists() else {})
    assert list(rejected.loc[rejected["detail"] != "", "problem"]) == ["unreadable"]
    assert not table.isna().any(axis=None) and not rejected.isna().any(axis=None)
    assert set(table["height"]) == {50} and table["width"].dtype.kind == "i"
    for pattern, words in ((".+", "one group"), ("(", "not a valid regular expression")):
        with pytest.raises(DatasetError, match=words):
            scan(folder, pattern)


def test_scan_pairs_images_with_a_list_and_says_so(drawn, tmp_path, capsys):
    folder = shutil.copytree(drawn, tmp_path / "set")
    names = sorted(path.name for path in folder.iterdir())
    labels = ["NA", "01", "", 'e\u0301, "b"', "  Ab\u00a0 c ", *map(str, range(len(names) - 6))]
    rows = pd.DataFrame({"filename": names[:-1], "label": labels})
    rows.loc[len(rows)] = ["missing.png", "x"]
    rows.to_csv(folder / "labels.csv", index=False)
    table, rejected, _ = scan(folder, "(.+)")
    assert {"NA", "01", 'é, "b"', "Ab c"} <= set(table["label"]) and len(table) == len(names) - 2
    assert sorted(rejected["problem"]) == ["no image has this name", "no label", "no label"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        f"Labels come from labels.csv, columns filename and label: {names[0]} is 'NA', "
    )
    assert said[1:] == ["1 names in lists match no image, or several: missing.png."]
    assert "ab c" in set(scan(folder, "(.+)", ignore_case=True)[0]["label"])
    assert set(scan(folder, "(.+)", label_from="name")[0]["label"]) == {path.stem for path in drawn.iterdir()}
    rows.assign(label="x").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(
        DatasetError, match=r"All 29 images have the label 'x'.* Labels come from .*other.csv"
    ):
        scan(folder, "(.+)", label_from=tmp_path / "other.csv")


def test_of_copies_a_persons_count(drawn, tmp_path):
    """Those of the test split above all, or the images would also be trained with."""
    folder = tmp_path / "set"
    shutil.copytree(drawn, folder / "a")
    shutil.copytree(drawn, folder / "b")
    names = sorted(path.name for path in drawn.iterdir())
    rows = [
        f'"a/{name}","x","model","1"\n"b/{name}","{Path(name).stem}","sample","1"\n' for name in names[:9]
    ]
    for place, source in (("a", "person"), ("b", "sample")):
        rows += [f'"{place}/{name}","{Path(name).stem}","{source}","1"\n' for name in names[9:12]]
    rows += [f'"{place}/{name}","{Path(name).stem}","person","1"\n' for name in names[12:] for place in "ab"]
    (folder / "labels.csv").write_text('"filename","label","source","when"\n' + "".join(rows))
    table, rejected, _ = scan(folder, "(.+)")
    assert len(table) == len(names) and set(rejected["problem"]) == {"duplicate file"}
    assert list(table["label"]) == [Path(path).stem for path in table["path"]]
    assert sum(table["split"] == "test") == 12


def test_images_with_two_labels_are_rejected(drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set")
    rows = [f"{path.name},{path.stem}\n" for path in sorted(drawn.iterdir())]
    (folder / "a.csv").write_text("filename,label\n" + "".join(rows))
    (folder / "b.csv").write_text("filename,label\n" + rows[0] + rows[1].replace(".png,", ".png,x"))
    table, rejected, _ = scan(folder, "(.+)")
    assert len(table) == 29 and list(rejected["problem"]) == ["same image with different labels"] * 2


READ = """
import contextlib, json, resource, sys
from pathlib import Path
import keras
import pandas as pd
import psutil
from training.data import scan
from training.errors import DatasetError
from training.fetching import fetch
from training.fitting import load_start
pd.Series(["text"])  # for which Arrow sets memory aside
most = psutil.Process().memory_info().vms + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))  # what reads without end ends in a MemoryError
for path in map(Path, sys.argv[1:]):
    try:
        if path.suffix == ".zip":
            said = fetch(str(path), path.parent / "data", 0)
        elif path.suffix == ".keras":
            said = load_start(keras.Sequential(), path, "")
        else:
            with contextlib.redirect_stdout(sys.stderr):
                rejected = scan(path, "(.+)")[1]
            said = {Path(row.path).name: row.problem + row.detail for row in rejected.itertuples()}
    except (DatasetError, ValueError) as error:
        said = str(error)
    print(json.dumps(said))
"""


def read_apart(*paths):
    """Read folders, archives and starts in another process, which can be ended where it hangs.

    Returns:
        What was rejected in a folder, or the error.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "demo_app")])}
    command = [sys.executable, "-c", READ, *map(str, paths)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=100, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def make_large(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices in folders")
def test_only_files_are_read(drawn, tmp_path):
    """Whatever else lies in a folder or is named by a list neither hangs nor fills the memory."""
    odd = shutil.copytree(drawn, tmp_path / "odd")
    os.mkfifo(odd / "pipe.png")
    (odd / "endless.png").symlink_to("/dev/zero")
    (odd / "loop.png").symlink_to(odd / "loop.png")
    (odd / "folder.png").mkdir()
    make_large(odd / "large.bmp")
    listed = shutil.copytree(drawn, tmp_path / "listed")
    names = ["a\0.png", "b" * 5000, "\ud800.png"]
    rows = [{"filename": path.name, "label": path.stem} for path in drawn.iterdir()]
    rows += [{"filename": name, "label": name[0]} for name in names]
    (listed / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, missing = read_apart(odd, listed)
    for name, words in [
        ("pipe.png", "is not a file"),
        ("loop.png", "Too many levels"),
        ("large.bmp", "more than"),
    ]:
        assert words in found.pop(name)
    assert not found
    assert set(missing.values()) == {"no image has this name"} and len(missing) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices in folders")
def test_no_other_list_archive_or_start_is_read(tmp_path):
    kinds = {
        "pipe": os.mkfifo,
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "broken": lambda path: path.symlink_to("nowhere"),
        "large": make_large,
    }
    lists = [tmp_path / kind / "labels.csv" for kind in kinds]
    archives = [tmp_path / f"{kind}.zip" for kind in kinds if kind != "folder"]
    starts = [tmp_path / f"{kind}.keras" for kind in kinds]
    for path in (*lists, *archives, *starts):
        path.parent.mkdir(exist_ok=True)
        if path in lists:
            (path.parent / "a.png").touch()
        kinds[path.parent.name if path in lists else path.stem](path)
    errors = read_apart(*(path.parent for path in lists), *archives, *starts)
    for path, error in zip([*lists, *archives, *starts], errors, strict=True):
        assert "\n" not in error and (path in lists or path.name in error)
    for path, error in zip(lists, errors, strict=False):
        is_list = path.parent.name in ("pipe", "broken", "large")
        assert error.startswith(f"{path} can't be used (" if is_list else "Only 0 of 1 files in ")


def test_colour_is_kept_where_grey_would_lose_the_text(tmp_path):
    for number in range(12):
        image = Image.new("RGB", (90, 30), (255, 0, 0))
        image.paste((0, 130, 0), (10 + number, 8, 60, 22))  # as dark as the red
        image.save(tmp_path / f"{number}.webp", lossless=True)
    assert scan(tmp_path, "(.+)", label_from="name")[2].channels == 3
    assert scan(tmp_path, "(.+)", colour=False, label_from="name")[2].channels == 1


@pytest.mark.parametrize(
    ("size", "label", "expected"),
    [
        ((72, 24), "abcd", (32, 144, 1, 1.5)),
        ((28, 28), "7", (32, 48, 1, 1.5)),
        ((640, 480), "12-34", (32, 64, 1, 1.5)),
        ((600, 50), "a line of text", (32, 576, 1, 1.5)),
        ((2000, 40), "a long line of text", (32, 1536, 1, 1.5)),
        ((90, 30), "aabbccddee12", (32, 172, 1, 85 / 48)),
    ],
)
def test_the_shape_follows_from_images_and_labels(size, label, expected):
    table = pd.DataFrame({"width": size[0], "height": size[1], "label": [label] * 5, "grey": 1.0})
    shape = choose_shape(table, None)
    assert shape[:3] == expected[:3] and shape.stretch == pytest.approx(expected[3], abs=0.01)
    assert shape.frames >= 2.5 * frames_needed(label) - 1


def test_only_one_or_two_lines(drawn):
    with pytest.raises(ValueError, match="LINES is 3"):
        scan(drawn, "(.+)", lines=3)
    assert scan(drawn, "(.+)", lines=2)[2].lines == 2


def test_labels_are_learnt_from_left_to_right_and_read_as_typed():
    label = "אב 12"
    char_to_num = {character: number for number, character in enumerate(sorted(set(label)), start=1)}
    num_to_char = {number: character for character, number in char_to_num.items()}
    ids = encode([label], char_to_num, 5)[0]
    assert "".join(num_to_char[number] for number in ids) == "12 בא"
    assert to_text(ids, num_to_char) == label


def test_scan_stops_where_there_is_too_little(drawn, tmp_path):
    with pytest.raises(DatasetError, match="no images"):
        scan(tmp_path, "(.+)")
    with pytest.raises(DatasetError, match=r"Only 0 of 30 .*no label"):
        scan(drawn, "never(.+)")
    for path in drawn.iterdir():
        shutil.copy(path, tmp_path / f"same_{path.name}")
    with pytest.raises(DatasetError, match="All 30 images have the label 'same'"):
        scan(tmp_path, "(same)")
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"Only 0 of 30 .*'unreadable': 30"):
        scan(tmp_path, "(.+)")


@pytest.mark.parametrize("split_by", ["image", "label"])
def test_folds_are_disjoint_and_cover_every_image_once(split_by):
    table = pd.DataFrame({"label": [f"{n % 301}" for n in range(963)]})
    tests = []
    for fold in range(10):
        splits = split(table, 7, fold, None, split_by)
        indexes = [index for part in splits.values() for index in part.index]
        assert sorted(indexes) == list(range(963))
        assert 80 <= len(splits["test"]) <= 110 and 80 <= len(splits["validation"]) <= 110
        if split_by == "label":
            assert not set(splits["test"]["label"]) & set(splits["train"]["label"])
            assert not set(splits["validation"]["label"]) & set(splits["train"]["label"])
        tests.extend(splits["test"].index)
    assert sorted(tests) == list(range(963))
    again = split(table, 7, 9, None, split_by)
    assert all(again[name].equals(splits[name]) for name in splits)


def test_given_splits_are_taken_unless_something_else_is_asked_for():
    table = pd.DataFrame(
        {"label": [f"{n % 50}" for n in range(100)], "split": ["train"] * 60 + ["test"] * 40}
    )
    splits = split(table, 0, None, None, "image")
    assert list(splits["test"].index) == list(range(60, 100)) and len(splits["validation"]) == 7
    assert sorted([*splits["train"].index, *splits["validation"].index]) == list(range(60))
    splits = split(table, 0, None, 27, "image")
    assert [len(rows) for rows in splits.values()] == [24, 3, 40]
    whole = table.assign(split=["validation"] * 20 + [""] * 40 + ["test"] * 40)
    splits = split(whole, 0, None, None, "image")
    assert [list(splits[name].index) for name in ("validation", "test")] == [[*range(20)], [*range(60, 100)]]
    assert sorted(splits["train"].index) == list(range(20, 60))
    splits = split(whole.assign(split=whole["split"].replace("test", "train")), 0, None, None, "image")
    assert list(splits["validation"].index) == list(range(20)) and len(splits["test"]) == 8
    plain = table.drop(columns="split")
    for arguments in ((0, 0, None, "image"), (0, 3, 50, "image"), (0, None, None, "label")):
        drawn = split(plain, *arguments)
        assert all(
            list(drawn[name].index) == list(rows.index) for name, rows in split(table, *arguments).items()
        )
    drawn, alone = (
        split(plain, 0, None, None, "image"),
        split(table.assign(split="test"), 0, None, None, "image"),
    )
    assert all(list(drawn[name].index) == list(rows.index) for name, rows in alone.items())


def test_images_for_the_test_are_never_trained_with_beside_a_model_s_labels():
    table = pd.DataFrame({"label": [f"{n}" for n in range(60)], "split": ["test"] * 20 + ["model"] * 40})
    with pytest.raises(ValueError, match="No images for validation"):
        split(table, 0, None, None, "image")


def test_two_lines_that_run_from_right_to_left_are_refused(drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set")
    rows = pd.DataFrame({"filename": sorted(path.name for path in folder.iterdir())})
    rows.assign(label=[f"אב{number}" for number in range(len(rows))]).to_csv(
        folder / "labels.csv", index=False
    )
    scan(folder, "(.+)")
    with pytest.raises(DatasetError, match="runs from right to left"):
        scan(folder, "(.+)", lines=2)


@pytest.mark.parametrize("wrong", [{"ignore_case": "no"}, {"colour": 1}, {"lines": 2.0}, {"lines": "2"}])
def test_other_values_are_refused_before_anything_is_read(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"(?i)\bset "):
        scan(tmp_path, "(.+)", **wrong)


def test_split_takes_so_many_labels_and_refuses_what_can_not_be():
    table = pd.DataFrame({"label": [f"{n}" for n in range(963)]})
    for count in (10, 25, 50, 100):
        splits = split(table, 1, None, count, "image")
        assert len(splits["train"]) + len(splits["validation"]) == count
        assert len(splits["test"]) == 963 - count and len(splits["validation"]) >= 1
    for arguments, words in [
        ((0, 10, None, "image"), "FOLD"),
        ((0, None, None, "word"), "SPLIT_BY"),
        ((0, None, 1, "image"), "train"),
        ((0, None, "50", "image"), "LABELS is '50'"),
        ((0, None, 867, "image"), "LABELS is 867; set it to None or a number from 1 to 866"),
    ]:
        with pytest.raises(ValueError, match=words):
            split(table, *arguments)


def test_labels_survive_the_way_to_numbers_and_back():
    char_to_num = {character: number for number, character in enumerate("ab é漢", start=1)}
    num_to_char = {number: character for character, number in char_to_num.items()}
    labels = ["a b", "éé", "漢"]
    label_ids = encode(labels, char_to_num, 4)
    assert label_ids.dtype == np.int32 and label_ids.shape == (3, 4)
    assert [to_text(row, num_to_char) for row in label_ids] == labels


def test_the_digest_tells_data_by_labels_images_given_splits_and_order():
    table = pd.DataFrame({"path": ["a", "b"], "label": ["1", "é"], "digest": ["x", "y"]})
    same = [table, table.assign(path="z"), table.set_axis([5, 6])]
    others = [table[::-1], table[:1], table.assign(label=["1", "e"]), table.assign(digest=["x", "z"])]
    others.append(table.assign(split=["train", "test"]))
    assert len({digest(one) for one in same}) == 1
    assert len({digest(one) for one in (table, *others)}) == 6


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the shared archive is not here")
def test_the_real_archive_has_each_image_once(tmp_path):
    table, rejected, shape = scan(fetch(str(ARCHIVE), tmp_path, 0)[0], "(.+)")
    assert len(table) == 963 and set(rejected["problem"]) == {"duplicate file"}
    assert shape == (32, 192, 1, 1.5, 1)
    assert "".join(sorted(set("".join(table["label"])))) == ALPHABET
